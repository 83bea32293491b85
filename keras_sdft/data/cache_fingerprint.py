"""The fingerprint of a cache: what it was made from, and what has changed.

Files count by name, size and time of change, which is cheap for a million of
them; what is in memory counts by content. This file must not know shards,
encoders or TensorFlow.
"""

from __future__ import annotations

import hashlib
import itertools
import os
from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Sequence
from typing import Any

import numpy as np

from keras_sdft.data.captions import PLACEHOLDER
from keras_sdft.data.examples import Columns
from keras_sdft.data.examples import Example
from keras_sdft.data.examples import Records
from keras_sdft.data.examples import first_five

# Columns of the table of images: their name, size, time and mask.
_NAME, _SIZE, _TIME, _MASK = range(4)


def digest(*parts: bytes) -> str:
    """Returns a hash of bytes as text of 32 characters."""
    total = hashlib.blake2b(digest_size=16)
    for part in parts:
        total.update(len(part).to_bytes(8, "little"))
        total.update(part)
    return total.hexdigest()


def image_table(
    records: Records, used: np.ndarray, with_masks: bool
) -> np.ndarray:
    """Returns what identifies each image.

    Args:
        records: `Records`.
        used: Integer array, the records that are used.
        with_masks: Boolean, whether their masks count too.

    Returns:
        uint64 array of shape `(len(used), 4)`.
    """
    identity = getattr(records, "identity", None)
    rows: Iterator[tuple[int, ...]]
    if identity is not None:
        rows = ((_hash(f"{identity}[{i}]"), 0, 0, 0) for i in used.tolist())
    elif isinstance(records, Columns) and not with_masks:
        # Nearly all data sets: no object for each of a million images.
        root, paths = records.root, records.paths
        rows = (
            (_hash(paths[i]), *_status(os.path.join(root, paths[i])), 0)
            for i in used.tolist()
        )
    else:
        rows = (_row(records[i], with_masks) for i in used.tolist())
    numbers = itertools.chain.from_iterable(rows)
    return np.fromiter(numbers, np.uint64, 4 * len(used)).reshape(-1, 4)


def table_digests(table: np.ndarray, masks: str | None) -> dict[str, Any]:
    """Returns what identifies all images, and all masks, together.

    Args:
        table: Array of `image_table`.
        masks: `"files"`, `"alpha"` or `None`.
    """
    return {
        "images": [len(table), digest(table[:, :_MASK].tobytes())],
        "masks": [masks or "none", digest(table[:, _MASK].tobytes())],
    }


def _row(example: Example, with_masks: bool) -> tuple[int, int, int, int]:
    mask = 0
    if with_masks and example.mask is not None:
        parts = (str(number) for number in _identity(example.mask))
        mask = _hash(" ".join(parts))
    return (_hash(example.name), *_identity(example.image), mask)


def _identity(image: Any) -> tuple[int, int]:
    """A size and a time, or a size and a hash of the content."""
    if isinstance(image, (str, os.PathLike)):
        return _status(os.fspath(image))
    if not isinstance(image, bytes):
        # Pillow's images tell their mode by their array's shape and dtype.
        array = np.ascontiguousarray(image)
        image = f"{array.shape}{array.dtype}".encode() + array.tobytes()
    return len(image), _hash(image)


def _status(path: str) -> tuple[int, int]:
    try:
        status = os.stat(path)
    # It will be reported as unreadable when it is read.
    except OSError:
        return 0, 0
    # A time before 1970 is negative.
    return status.st_size, status.st_mtime_ns % 2**64


def _hash(value: str | bytes) -> int:
    if isinstance(value, str):
        # Lone surrogates come from file names that are no UTF-8.
        value = value.encode("utf-8", "surrogatepass")
    whole = hashlib.blake2b(value, digest_size=8).digest()
    return int.from_bytes(whole, "little")


def all_texts(
    records: Records, used: np.ndarray, templates: Sequence[str]
) -> Iterator[str]:
    """Yields every caption that training may show, the empty one first."""
    yield ""
    held = getattr(records, "captions", None)
    for index in used.tolist():
        captions = held[index] if held is not None else records[index].captions
        for caption in (captions,) if isinstance(captions, str) else captions:
            for template in templates:
                yield template.replace(PLACEHOLDER, caption)


def caption_keys(texts: Iterable[str]) -> tuple[np.ndarray, np.ndarray]:
    """Returns the keys of distinct captions, and where each first stands.

    Args:
        texts: Iterable of strings.

    Returns:
        `(keys, places)`: sorted uint64 array, and int64 array of the same
        length.

    Raises:
        ValueError: If two captions have the same key, which would take
            billions of them.
    """
    whole = b"".join(_key_bytes(text) for text in texts)
    pairs = np.frombuffer(whole, "<u8").reshape(-1, 2)
    keys, places, inverse = np.unique(
        pairs[:, 0], return_index=True, return_inverse=True
    )
    if not (pairs[places, 1][inverse] == pairs[:, 1]).all():
        raise ValueError(
            "Two captions have the same 64-bit key. Change one by a letter."
        )
    return keys.astype(np.uint64), places


def caption_key(text: str) -> np.uint64:
    """Returns the key of a caption, see `caption_keys`."""
    return np.frombuffer(_key_bytes(text), "<u8")[0]


def _key_bytes(text: str) -> bytes:
    content = text.encode("utf-8", "surrogatepass")
    return hashlib.blake2b(content, digest_size=16).digest()


def image_changes(
    old: np.ndarray, new: np.ndarray, name_of: Callable[[int], str]
) -> str:
    """Says which images have changed.

    Args:
        old: Table of `image_table`, of the cache.
        new: Table of the data.
        name_of: Function of a row of the new table to its image's name.

    Returns:
        String: `"1 added ('4.png'), 2 removed"`.
    """
    added = ~np.isin(new[:, _NAME], old[:, _NAME])
    removed = int((~np.isin(old[:, _NAME], new[:, _NAME])).sum())
    rows = {int(row[_NAME]): row for row in old}
    changed = [
        place
        for place in np.flatnonzero(~added)
        if (rows[int(new[place, _NAME])] != new[place])[:_MASK].any()
    ]
    parts = []
    for places, word in (
        (np.flatnonzero(added), "added"),
        (changed, "changed"),
    ):
        if len(places):
            some = first_five(name_of(int(place)) for place in places)
            parts.append(f"{len(places)} {word} ({some})")
    if removed:
        parts.append(f"{removed} removed")
    return ", ".join(parts) or "their order"


def differences(
    stored: dict[str, Any], wanted: dict[str, Any], images: str
) -> list[str]:
    """Says in which parts two fingerprints differ.

    Args:
        stored: Dict, the fingerprint of a cache.
        wanted: Dict, that of the data and the model; parts that it lacks are
            not compared.
        images: String of `image_changes`, for the images.

    Returns:
        List of strings, empty if the cache is valid.
    """
    reasons = []
    others = any(stored[part] != wanted[part] for part in ("images", "sizes"))
    for part, value in wanted.items():
        before = stored.get(part)
        if part in ("assignment", "masks") and others and before != value:
            # They follow from the images and the sizes.
            continue
        if before is None:
            # Encoders and tokenizer of captions go with the captions.
            if part == "captions":
                reasons.append("it holds no captions (`contexts=True`)")
        elif part.endswith("encoder"):
            reasons += _of_encoder(part, before, value)
        elif before != value:
            text = _CHANGED[part]
            reasons.append(
                text.format(before=before, value=value, images=images)
            )
    return reasons


_CHANGED = {
    "images": "the images: {images}",
    "captions": "the captions or `caption_template` (now {value[0]} distinct "
    "ones, were {before[0]})",
    "sizes": "the sizes in pixels (height, width): now {value}, were {before}",
    "masks": "the masks (now {value[0]}, were {before[0]})",
    "assignment": "the buckets of the images",
    "tokenizer": "the tokenizer",
}


def _of_encoder(
    part: str, before: dict[str, Any], value: dict[str, Any]
) -> list[str]:
    name = part.replace("_", " ")
    if before["weights"] != value["weights"]:
        return [f"the weights of the {name} are others: another model"]
    if before["dtype"] != value["dtype"]:
        return [
            f"the {name} computes in {value['dtype']}, not in {before['dtype']}"
        ]
    return []
