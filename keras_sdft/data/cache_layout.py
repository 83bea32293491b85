"""The layout of a cache: which rows it has, and whose they are.

Everything follows from the data and its options, so nothing of it is stored.
This file must not know files, encoders or TensorFlow.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from keras_sdft.data.buckets import Assignment
from keras_sdft.data.cache_shards import Store
from keras_sdft.data.examples import Examples
from keras_sdft.data.masks import PIXELS_PER_LATENT

# A sum of 64 pixels of 0 to 255, so that no precision is lost.
MASK_DTYPE = "uint16"
_MASK_SCALE = PIXELS_PER_LATENT**2 * 255


@dataclasses.dataclass(frozen=True)
class Layout:
    """Which image stands in which row.

    Attributes:
        sizes: Tuple of `(height, width)` in pixels, one for each bucket.
        images: List of int64 arrays: for each bucket its records, in the
            order of their rows.
        place_of: int64 array, the place of each record in its bucket, or -1.
        bucket_of: int64 array, the bucket of each record, or -1.
        flips: Boolean, whether each image is followed by its mirror image.
        masks: Boolean, whether there are masks.
        moments_channels: Integer.
        context_shape: `(77, D)`, or `None` where captions are not encoded.
        num_captions: Integer, distinct captions.
        dtype: `"float16"` or `"float32"`, on disk.
    """

    sizes: tuple[tuple[int, int], ...]
    images: list[np.ndarray]
    place_of: np.ndarray
    bucket_of: np.ndarray
    flips: bool
    masks: bool
    moments_channels: int
    context_shape: tuple[int, int] | None
    num_captions: int
    dtype: str

    @property
    def per_image(self) -> int:
        """Rows of an image: itself, and mirrored."""
        return 2 if self.flips else 1

    def moments(self, bucket: int) -> Store:
        """The moments of a bucket."""
        height, width = latent_sides(self.sizes[bucket])
        return Store(
            f"moments-{width}x{height}",
            len(self.images[bucket]) * self.per_image,
            (height, width, self.moments_channels),
            self.dtype,
        )

    def mask(self, bucket: int) -> Store:
        """The masks of a bucket, one for each image."""
        height, width = latent_sides(self.sizes[bucket])
        count = len(self.images[bucket])
        return Store(
            f"masks-{width}x{height}", count, (height, width, 1), MASK_DTYPE
        )

    @property
    def contexts(self) -> Store | None:
        """The contexts of the captions."""
        if self.context_shape is None:
            return None
        return Store(
            "contexts", self.num_captions, self.context_shape, self.dtype
        )

    def stores(self) -> list[Store]:
        """All that the cache holds."""
        found = [self.contexts] if self.contexts else []
        for bucket in range(len(self.sizes)):
            found.append(self.moments(bucket))
            if self.masks:
                found.append(self.mask(bucket))
        return found


def buckets_of_records(
    examples: Examples, assignment: Assignment
) -> tuple[np.ndarray, np.ndarray, list[np.ndarray]]:
    """Returns which record is encoded at which size.

    Args:
        examples: `Examples`; those beyond the assignment are class images.
        assignment: `Assignment`.

    Returns:
        `(bucket_of, place_of, images)`, see `Layout`.

    Raises:
        ValueError: If class images would be needed at several sizes.
    """
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
    place_of = np.full(len(bucket_of), -1, np.int64)
    images = []
    for bucket in range(len(assignment.sizes)):
        records = np.flatnonzero(bucket_of == bucket)
        place_of[records] = np.arange(len(records))
        images.append(records)
    return bucket_of, place_of, images


def stored_mask(mask: np.ndarray) -> np.ndarray:
    """Returns a mask of `masks.latent_mask` as whole numbers, exactly."""
    return np.rint(mask * np.float32(_MASK_SCALE)).astype(MASK_DTYPE)


def loaded_mask(stored: np.ndarray) -> np.ndarray:
    """Returns the mask of `stored_mask`, float32, to the bit."""
    area = np.float32(PIXELS_PER_LATENT**2)
    return stored.astype(np.float32) / area / np.float32(255)


def latent_sides(size: tuple[int, int]) -> tuple[int, int]:
    """Height and width of the latents of a size in pixels."""
    return size[0] // PIXELS_PER_LATENT, size[1] // PIXELS_PER_LATENT
