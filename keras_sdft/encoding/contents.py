"""What a cache holds: which rows, whose they are, and what they are made from.

All of it follows from the data, its options and the encoders. This file must
not know how rows are written or read, or TensorFlow.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any
from typing import NamedTuple

import numpy as np

from keras_sdft.data.buckets import Assignment
from keras_sdft.data.examples import Examples
from keras_sdft.data.examples import several
from keras_sdft.data.images import UnreadableImage
from keras_sdft.data.masks import PIXELS_PER_LATENT
from keras_sdft.data.options import PLACEHOLDER
from keras_sdft.data.options import Options
from keras_sdft.encoding import fingerprint
from keras_sdft.encoding.encoders import Encoders
from keras_sdft.encoding.state import State
from keras_sdft.encoding.store import Store

DTYPES = ("float16", "float32")
# A sum of 64 pixels of 0 to 255, so that no precision is lost.
MASK_DTYPE = "uint16"
_MASK_SCALE = PIXELS_PER_LATENT**2 * 255


class Contents:
    """What a cache holds, or is to hold.

    Args:
        examples: `Examples`; those beyond the assignment are class images.
        assignment: `Assignment`.
        options: `Options`.
        encoders: `Encoders`.
        contexts: Boolean, whether captions are encoded too.
        dtype: `"float16"`, `"float32"` or `None` for any.

    Attributes:
        used: int64 array, the records that are encoded.
        bucket_of: int64 array, the bucket of each record, or -1.
        place_of: int64 array, its place in the bucket, or -1.
        images: List of int64 arrays, the records of each bucket in order.
        keys: uint64 array, sorted, one for each distinct caption.
        flips: Boolean, whether each image is followed by its mirror image.
        dtype: String, the dtype on the disk.

    Raises:
        ValueError: If class images would be needed at several sizes.
    """

    def __init__(
        self,
        examples: Examples,
        assignment: Assignment,
        options: Options,
        encoders: Encoders,
        contexts: bool,
        dtype: str | None,
    ):
        self.records = examples.records
        self.options = options
        self.sizes = assignment.sizes
        self.contexts = contexts
        self._encoders = encoders
        self._dtype = dtype
        self.adopt(None)
        self.bucket_of = _buckets(examples, assignment)
        self.place_of = np.full(len(self.bucket_of), -1, np.int64)
        self.images = []
        for bucket in range(len(self.sizes)):
            records = np.flatnonzero(self.bucket_of == bucket)
            self.place_of[records] = np.arange(len(records))
            self.images.append(records)
        self.used = np.flatnonzero(self.bucket_of >= 0)
        self.keys, self._places = fingerprint.text_keys(self._texts())

    def adopt(self, state: State | None) -> None:
        """Takes over what a valid cache has more of than is asked for."""
        self.flips = self.options.horizontal_flip
        self.dtype = self._dtype or DTYPES[0]
        if state is not None:
            self.flips, self.dtype = state.flips, state.dtype

    @property
    def per_image(self) -> int:
        """Rows of an image: itself, and mirrored."""
        return 2 if self.flips else 1

    def captions(self) -> Store:
        """Returns the store of the contexts."""
        shape = self._encoders.context_shape
        return Store("contexts", len(self.keys), shape, self.dtype)

    def moments(self, bucket: int) -> Store:
        """Returns the store of a bucket's moments."""
        height, width = latent_sides(self.sizes[bucket])
        shape = (height, width, self._encoders.moments_channels)
        count = len(self.images[bucket]) * self.per_image
        return Store(f"moments-{width}x{height}", count, shape, self.dtype)

    def masks(self, bucket: int) -> Store:
        """Returns the store of a bucket's masks."""
        height, width = latent_sides(self.sizes[bucket])
        name, count = f"masks-{width}x{height}", len(self.images[bucket])
        return Store(name, count, (height, width, 1), MASK_DTYPE)

    def stores(self) -> list[Store]:
        """Returns all that the cache holds."""
        buckets = range(len(self.sizes))
        found = [self.captions()] if self.contexts else []
        found += [self.moments(bucket) for bucket in buckets]
        if self.options.masks is not None:
            found += [self.masks(bucket) for bucket in buckets]
        return found

    def texts(self) -> list[str]:
        """Returns the distinct captions, in the order of `keys`."""
        texts = list(self._texts())
        return [texts[place] for place in self._places.tolist()]

    def _texts(self) -> Iterator[str]:
        """Yields each caption that training may show, the empty one first."""
        if not self.contexts:
            return
        yield ""
        for captions in self._captions_of_images():
            for caption in several(captions):
                for template in self.options.templates:
                    yield template.replace(PLACEHOLDER, caption)

    def _captions_of_images(self) -> Iterator[str | tuple[str, ...]]:
        held = getattr(self.records, "captions", None)
        for record in self.used.tolist():
            if held is not None:
                yield held[record]
                continue
            # Of one that cannot be read, nothing is shown.
            with contextlib.suppress(UnreadableImage):
                yield self.records[record].captions

    def fingerprint(
        self, table: np.ndarray, stored: dict[str, Any]
    ) -> dict[str, Any]:
        """Returns what the cache is made from.

        Args:
            table: `fingerprint.image_table` of the images.
            stored: Dict, the fingerprint of what is there.
        """
        digest, encoders = fingerprint.digest, self._encoders
        found: dict[str, Any] = {
            **fingerprint.of_images(table, self.options.masks),
            "the sizes (height, width)": [list(size) for size in self.sizes],
            fingerprint.BUCKETS: digest(self.bucket_of[self.used].tobytes()),
            **encoders.fingerprint("image_encoder", stored),
        }
        if self.contexts:
            found[fingerprint.CAPTIONS] = digest(self.keys.tobytes())
            found["the tokenizer"] = digest(encoders.token_ids())
            found |= encoders.fingerprint("text_encoder", stored)
        return found

    def shortcomings(self, state: State) -> list[str]:
        """Says in what a cache is not enough, or not what it says it is."""
        if self.options.horizontal_flip and not state.flips:
            return ["it holds no mirrored images (`horizontal_flip`)"]
        if self._dtype == "float32" != state.dtype:
            return [f"it holds {state.dtype}, not float32"]
        if not state.complete and state.contexts != self.contexts:
            words = "with" if state.contexts else "without"
            return [f"it was begun {words} captions"]
        return []


class CacheNeeds(NamedTuple):
    """What a cache would take, to decide whether it is worth it.

    Attributes:
        num_images: Integer, images of the cache, mirrored ones included.
        num_captions: Integer, distinct captions of the cache.
        num_rows: Integer, examples that an epoch shows.
        num_bytes: Integer, bytes still to be written.
        free_bytes: Integer, bytes that are free on the disk.
        is_complete: Boolean, whether all is encoded already.
    """

    num_images: int
    num_captions: int
    num_rows: int
    num_bytes: int
    free_bytes: int
    is_complete: bool


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
    return np.rint(mask * np.float32(_MASK_SCALE)).astype(MASK_DTYPE)


def loaded_mask(stored: np.ndarray) -> np.ndarray:
    """Returns the mask of `stored_mask`, float32, to the bit."""
    area = np.float32(PIXELS_PER_LATENT**2)
    return stored.astype(np.float32) / area / np.float32(255)


def latent_sides(size: tuple[int, int]) -> tuple[int, int]:
    """Returns height and width of the latents of a size in pixels."""
    return size[0] // PIXELS_PER_LATENT, size[1] // PIXELS_PER_LATENT
