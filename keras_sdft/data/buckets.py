"""Aspect-ratio buckets: the sizes that images are trained at, and whose.

Must not know pixels, captions or TensorFlow.
"""

import logging
import math
from typing import NamedTuple

import numpy as np

from keras_sdft.data.examples import Examples
from keras_sdft.data.images import image_size
from keras_sdft.data.options import Options
from keras_sdft.data.unreadable import attempts

logger = logging.getLogger(__name__)


def bucket_sizes(options: Options) -> tuple[tuple[int, int], ...]:
    """Returns the sizes that images are sorted into, from upright to wide.

    Each width that is a multiple of `bucket_step` gets the largest height
    that does not exceed the resolution's area, and each height the largest
    width; so the plain resolution, always one of them, needs the most memory.

    Raises:
        ValueError: If the resolution is outside the limits.
    """
    size, step = options.size, options.bucket_step
    least = options.bucket_min_side or min(size) // 2
    most = options.bucket_max_side or max(size) * 2
    if not least <= min(size) <= max(size) <= most:
        raise ValueError(
            "`resolution` must be within `bucket_min_side` and "
            f"`bucket_max_side`. Received: resolution={size}, "
            f"bucket_min_side={least}, bucket_max_side={most}."
        )
    area, longest = size[0] * size[1], options.bucket_max_aspect_ratio
    found = {size}
    first = math.ceil(least / step) * step
    for side in range(first, most + 1, step):
        other = min(area // side // step * step, most)
        if other >= first and max(side, other) / min(side, other) <= longest:
            found |= {(side, other), (other, side)}
    if len(found) == 1:
        logger.warning(
            "Buckets change nothing: at %dx%d pixels, one size alone is within "
            "their limits. Use a larger resolution, or a larger "
            "`bucket_max_aspect_ratio`.",
            *size[::-1],
        )
    return tuple(sorted(found, key=lambda pair: (pair[1] / pair[0], pair)))


class Assignment(NamedTuple):
    """The buckets that a data set uses, and the bucket of each example.

    Attributes:
        sizes: Tuple of `(height, width)`.
        bucket_of: Integer array of shape `(N,)`, indices of `sizes`.
    """

    sizes: tuple[tuple[int, int], ...]
    bucket_of: np.ndarray

    def counts(self) -> dict[str, int]:
        """Returns the number of examples by the bucket's width x height."""
        counts = np.bincount(self.bucket_of, minlength=len(self.sizes))
        return {
            f"{width}x{height}": int(count)
            for (height, width), count in zip(self.sizes, counts, strict=True)
        }

    def table(self) -> str:
        """Returns a line per bucket: its size and its number of examples."""
        return "\n".join(f"{k}: {v}" for k, v in self.counts().items())


def assign(examples: Examples, options: Options) -> Assignment:
    """Sorts examples into the buckets of the nearest aspect ratio.

    Of each image the head is read, not the pixels. One that cannot be read goes
    to the resolution, and so do all without `buckets`. Buckets that no example
    needs are left out.
    """
    size = options.size
    if not options.buckets:
        return Assignment((size,), np.zeros(len(examples), np.int64))
    table = bucket_sizes(options)
    records = examples.shown
    seen = attempts(examples.records, records, lambda e: image_size(e.image))
    sizes = [one.found or size for one in seen]
    of_record = np.zeros(len(examples.records), np.int64)
    of_record[records] = nearest_sizes(sizes, table)
    used, bucket_of = np.unique(of_record[examples.rows], return_inverse=True)
    return Assignment(tuple(table[index] for index in used), bucket_of)


def nearest_sizes(
    sizes: list[tuple[int, int]], table: tuple[tuple[int, int], ...]
) -> np.ndarray:
    """Returns for each size the place of the nearest one in the table.

    Near is the aspect ratio, in proportion: twice as wide is as far as half
    as wide. Of two that are equally near, the larger one is taken.
    """
    # The table's larger sizes first, since `argmin` takes the first of equals.
    order = np.argsort([-height * width for height, width in table])
    own, aspects = (
        np.array([math.log(width / height) for height, width in each])
        for each in (sizes, table)
    )
    distances = np.abs(own[:, None] - aspects[order]).round(9)
    return order[distances.argmin(axis=1)].astype(np.int64)
