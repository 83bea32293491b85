"""The fingerprint of a cache: what it was made from, and what has changed.

Files count by name, size and time of change, which is cheap for a million of
them; what is in memory counts by content. This file must not know rows on the
disk, encoders or TensorFlow.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Iterator
from typing import Any

import numpy as np

from keras_sdft.data.examples import Columns
from keras_sdft.data.examples import Examples
from keras_sdft.data.examples import first_five

# Parts of a fingerprint; the others are named where they are made.
IMAGES = "the images"
BUCKETS = "the buckets of the images"
CAPTIONS = "the captions or `caption_template`"


def digest(content: bytes) -> str:
    """Returns a hash of bytes as a text that begins with `#`."""
    return "#" + hashlib.blake2b(content, digest_size=16).hexdigest()


def text_key(value: str | bytes) -> int:
    """Returns a hash of a text as an integer of 64 bits."""
    if isinstance(value, str):
        # Lone surrogates come from file names that are no UTF-8.
        value = value.encode("utf-8", "surrogatepass")
    whole = hashlib.blake2b(value, digest_size=8).digest()
    return int.from_bytes(whole, "little")


def text_keys(texts: Iterable[str]) -> tuple[np.ndarray, np.ndarray]:
    """Returns the sorted keys of distinct texts, and where each first stands.

    Of a million texts, two have the same key once in 30 million data sets.
    """
    keys = np.fromiter(map(text_key, texts), np.uint64)
    return np.unique(keys, return_index=True)


def image_table(examples: Examples, masks: str | None) -> np.ndarray:
    """Returns what identifies each image that is used.

    Returns:
        uint64 array of shape `(n, 2)`: a hash of the name, and one of all.
    """
    used = np.unique(examples.rows).tolist()
    pairs = _identities(examples.records, used, masks)
    texts = (text for name, of in pairs for text in (name, f"{name} {of}"))
    return np.fromiter(map(text_key, texts), np.uint64).reshape(-1, 2)


def of_images(table: np.ndarray, masks: str | None) -> dict[str, str]:
    """Returns the part of a fingerprint that is about images and masks."""
    return {IMAGES: digest(table.tobytes()), "the masks": masks or "none"}


def _identities(
    records: Any, used: list[int], masks: str | None
) -> Iterator[tuple[str, Any]]:
    """Yields the name of each image, and what changes with its content."""
    identity = getattr(records, "identity", None)
    if identity is not None:
        yield from ((f"{identity}[{index}]", None) for index in used)
    elif isinstance(records, Columns) and masks is None:
        # Nearly all data sets: no object for each of a million images.
        for index in used:
            name = records.paths[index]
            yield name, _identity(os.path.join(records.root, name))
    else:
        for index in used:
            example = records[index]
            mask = example.mask if masks == "files" else None
            yield example.name, (_identity(example.image), _identity(mask))


def _identity(image: Any) -> Any:
    if image is None or isinstance(image, bytes):
        return image and text_key(image)
    if not isinstance(image, (str, os.PathLike)):
        # Pillow's images tell their mode by their array's shape and dtype.
        array = np.ascontiguousarray(image)
        return array.shape, array.dtype.str, text_key(array.tobytes())
    try:
        status = os.stat(image)
    # It will be reported as unreadable when it is read.
    except OSError:
        return None
    return status.st_size, status.st_mtime_ns


def image_changes(
    old: np.ndarray, new: np.ndarray, name_of: Callable[[int], str]
) -> str:
    """Says which images have changed: `"1 added ('4.png'), 2 removed"`.

    Args:
        old: Table of `image_table`, of the cache.
        new: Table of the data.
        name_of: Function of a row of the new table to its image's name.
    """
    is_known = np.isin(new[:, 0], old[:, 0])
    masks = {
        "added": ~is_known,
        "changed": is_known & ~np.isin(new[:, 1], old[:, 1]),
    }
    parts = [
        f"{len(found)} {word} ({first_five(map(name_of, found))})"
        for word, mask in masks.items()
        if (found := np.flatnonzero(mask).tolist())
    ]
    removed = int((~np.isin(old[:, 0], new[:, 0])).sum())
    if removed:
        parts.append(f"{removed} removed")
    return ", ".join(parts) or "their order"


def differences(
    stored: dict[str, Any],
    wanted: dict[str, Any],
    images: Callable[[], str],
) -> list[str]:
    """Says in which parts two fingerprints differ; `[]` if they do not.

    Args:
        stored: Dict, the fingerprint of a cache.
        wanted: Dict, that of the data and the model; what it lacks is not
            compared.
        images: Function that says which images have changed.
    """
    reasons: list[str] = []
    for part, value in wanted.items():
        before = stored.get(part)
        # Buckets follow from images and sizes, which come first.
        if before == value or (part == BUCKETS and reasons):
            continue
        if part == CAPTIONS and before is None:
            return [*reasons, "it holds no captions (`contexts=True`)"]
        if part == IMAGES:
            reasons.append(f"{part}: {images()}")
        elif not part.startswith("source"):
            is_hash = str(value).startswith("#")
            values = "" if is_hash else f" (now {value}, were {before})"
            reasons.append(f"{part} changed{values}")
    return reasons
