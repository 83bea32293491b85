"""What a cache holds: which rows, whose they are, and what they are made from.

All of it follows from the data, its options and the encoders. Files count by
name, size and time of change, which is cheap for a million of them; what is in
memory counts by content. This file must not know how rows are written or read,
or TensorFlow.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import os
from collections.abc import Iterator
from typing import Any

import numpy as np

from keras_sdft.data.buckets import Assignment
from keras_sdft.data.examples import Examples
from keras_sdft.data.examples import several
from keras_sdft.data.images import UnreadableImage
from keras_sdft.data.masks import PIXELS_PER_LATENT
from keras_sdft.data.options import PLACEHOLDER
from keras_sdft.data.options import Options
from keras_sdft.encoding.encoders import Encoders
from keras_sdft.encoding.state import FORMAT
from keras_sdft.encoding.state import State
from keras_sdft.encoding.store import Store

DTYPES = ("float16", "float32")
# A sum of 64 pixels of 0 to 255, so that no precision is lost.
_MASK_DTYPE = "uint16"
_MASK_SCALE = PIXELS_PER_LATENT**2 * 255

# Parts of the fingerprint that follow from others, or may be missing.
_BUCKETS = "the buckets of the images"
_CAPTIONS = "the captions or `caption_template`"


@dataclasses.dataclass(eq=False)
class Contents:
    """What a cache holds, or is to hold.

    Attributes:
        examples: `Examples`; those beyond the assignment are class images.
        data: Dict of `identify_images`; becomes the part of the fingerprint
            that is about the data.
        contexts: Boolean, whether captions are encoded too.
        wanted_dtype: `"float16"`, `"float32"` or `None` for any.
        bucket_of: int64 array, the bucket of each record, or -1.
        used: int64 array, the records that are encoded.
        place_of: int64 array, its place in the bucket, or -1.
        images: List of int64 arrays, the records of each bucket in order.
        keys: uint64 array, sorted, one for each distinct caption.
        flips: Boolean, whether each image is followed by its mirror image.
        dtype: String, the dtype on the disk.

    Raises:
        ValueError: If class images would be needed at several sizes.
    """

    examples: Examples
    data: dict[str, Any]
    assignment: Assignment
    options: Options
    encoders: Encoders
    contexts: bool
    wanted_dtype: str | None

    def __post_init__(self) -> None:
        self.adopt(None)
        self.records = self.examples.records
        self.sizes = self.assignment.sizes
        self.bucket_of = _buckets(self.examples, self.assignment)
        self.place_of = np.full(len(self.bucket_of), -1, np.int64)
        self.images = []
        for bucket in range(len(self.sizes)):
            records = np.flatnonzero(self.bucket_of == bucket)
            self.place_of[records] = np.arange(len(records))
            self.images.append(records)
        self.used = np.flatnonzero(self.bucket_of >= 0)
        # Of a million texts, two have one key once in 30 million data sets.
        keys = np.fromiter(map(text_key, self._texts()), np.uint64)
        self.keys, self._places = np.unique(keys, return_index=True)
        self.data = self.data | {
            "the sizes (height, width)": [list(size) for size in self.sizes],
            _BUCKETS: _digest(self.bucket_of[self.used].tobytes()),
        }
        if self.contexts:
            self.data[_CAPTIONS] = _digest(self.keys.tobytes())

    def adopt(self, state: State | None) -> None:
        """Takes over what a valid cache has more of than is asked for."""
        self.flips = self.options.horizontal_flip
        self.dtype = self.wanted_dtype or DTYPES[0]
        if state is not None:
            self.flips, self.dtype = state.flips, state.dtype

    @property
    def per_image(self) -> int:
        """Rows of an image: itself, and mirrored."""
        return 2 if self.flips else 1

    def caption_stores(self) -> dict[Store, int]:
        """Returns the store of the contexts, if any, and rows of a caption."""
        if not self.contexts:
            return {}
        shape = self.encoders.context_shape
        return {Store("contexts", len(self.keys), shape, self.dtype): 1}

    def image_stores(self) -> list[dict[Store, int]]:
        """Returns the stores of each bucket, and rows of an image in each."""
        found, each = [], self.per_image
        for (height, width), images in zip(
            self.sizes, self.images, strict=True
        ):
            rows, columns = (
                height // PIXELS_PER_LATENT,
                width // PIXELS_PER_LATENT,
            )
            shape = (rows, columns, self.encoders.moments_channels)
            size, count = f"{columns}x{rows}", len(images)
            moments = Store(f"moments-{size}", count * each, shape, self.dtype)
            found.append({moments: each})
            if self.options.masks is not None:
                shape = (rows, columns, 1)
                masks = Store(f"masks-{size}", count, shape, _MASK_DTYPE)
                found[-1][masks] = 1
        return found

    def stores(self) -> list[Store]:
        """Returns all stores that the cache has."""
        parts = [self.caption_stores(), *self.image_stores()]
        return [store for stores in parts for store in stores]

    def texts(self) -> list[str]:
        """Returns the distinct captions, in the order of `keys`."""
        texts = list(self._texts())
        return [texts[place] for place in self._places.tolist()]

    def _texts(self) -> Iterator[str]:
        """Yields each caption that training may show, the empty one first."""
        if not self.contexts:
            return
        yield ""
        held = getattr(self.records, "captions", None)
        for record in self.used.tolist():
            captions: Any = ()
            # Of an image that cannot be read, nothing is shown.
            with contextlib.suppress(UnreadableImage):
                captions = (
                    held[record] if held else self.records[record].captions
                )
            for caption in several(captions):
                for template in self.options.templates:
                    yield template.replace(PLACEHOLDER, caption)

    def fingerprint(self, stored: dict[str, Any]) -> dict[str, Any]:
        """Returns what the cache is made from.

        Args:
            stored: Dict, the fingerprint of what is there.
        """
        encoders = self.encoders
        found = self.data | encoders.fingerprint("image_encoder", stored)
        if self.contexts:
            found["the tokenizer"] = _digest(encoders.token_ids())
            found |= encoders.fingerprint("text_encoder", stored)
        return found

    def differences(self, state: State) -> list[str]:
        """Says in what a cache is not what is wanted, or not enough."""
        if state.format != FORMAT:
            return [
                f"it has format {state.format}, and this version of "
                f"keras_sdft reads format {FORMAT}"
            ]
        if self.options.horizontal_flip and not state.flips:
            return ["it holds no mirrored images (`horizontal_flip`)"]
        if self.wanted_dtype == "float32" != state.dtype:
            return [f"it holds {state.dtype}, not float32"]
        if not state.complete and state.contexts != self.contexts:
            words = "with" if state.contexts else "without"
            return [f"it was begun {words} captions"]
        reasons: list[str] = []
        for part, value in self.fingerprint(state.fingerprint).items():
            before = state.fingerprint.get(part)
            # Buckets follow from images and sizes, which come first.
            if before == value or (part == _BUCKETS and reasons):
                continue
            if part == _CAPTIONS and before is None:
                return [*reasons, "it holds no captions (`contexts=True`)"]
            if not part.startswith("source"):
                is_hash = str(value).startswith("#")
                values = "" if is_hash else f" (now {value}, were {before})"
                reasons.append(f"{part} changed{values}")
        return reasons


def _buckets(examples: Examples, assignment: Assignment) -> np.ndarray:
    """Returns the bucket of each record, or -1."""
    own = len(assignment.bucket_of)
    if own < len(examples) and len(assignment.sizes) > 1:
        raise ValueError(
            "Class images cannot be cached with buckets: each is shown at "
            "the size of the photo before it, another one each time. Leave "
            "`buckets` or the cache out."
        )
    bucket_of = np.full(len(examples.records), -1, np.int64)
    bucket_of[examples.rows] = 0
    bucket_of[examples.rows[:own]] = assignment.bucket_of
    return bucket_of


def stored_mask(mask: np.ndarray) -> np.ndarray:
    """Returns a mask of `masks.latent_mask` as whole numbers, exactly."""
    return np.rint(mask * np.float32(_MASK_SCALE)).astype(_MASK_DTYPE)


def loaded_mask(stored: np.ndarray) -> np.ndarray:
    """Returns the mask of `stored_mask`, float32, to the bit."""
    area = np.float32(PIXELS_PER_LATENT**2)
    return stored.astype(np.float32) / area / np.float32(255)


# === The fingerprint ===


def identify_images(examples: Examples, masks: str | None) -> dict[str, Any]:
    """Returns the part of a fingerprint that is about images and masks."""
    used = np.unique(examples.rows).tolist()
    pairs = _identities(examples.records, used, masks)
    keys = np.fromiter((text_key(f"{pair}") for pair in pairs), np.uint64)
    return {
        "the number of images": len(used),
        "the images (names, sizes, times of change)": _digest(keys.tobytes()),
        "the masks": masks or "none",
    }


def text_key(value: str | bytes) -> int:
    """Returns a hash of a text as an integer of 64 bits."""
    if isinstance(value, str):
        # Lone surrogates come from file names that are no UTF-8.
        value = value.encode("utf-8", "surrogatepass")
    whole = hashlib.blake2b(value, digest_size=8).digest()
    return int.from_bytes(whole, "little")


def _digest(content: bytes) -> str:
    return "#" + hashlib.blake2b(content, digest_size=16).hexdigest()


def _identities(
    records: Any, used: list[int], masks: str | None
) -> Iterator[tuple[str, Any]]:
    """Yields the name of each image, and what changes with its content."""
    identity = getattr(records, "identity", None)
    for index in used:
        if identity is not None:
            yield identity, index
            continue
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
