"""Aspect-ratio buckets: the sizes that images are trained at, and whose.

Every bucket is one size in pixels, near the area of the resolution. This file
knows sizes alone. It must not know pixels, captions or TensorFlow.
"""

from __future__ import annotations

import dataclasses
import logging
import math
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from keras_sdft.data.examples import Examples
from keras_sdft.data.images import UnreadableImage
from keras_sdft.data.images import image_size

logger = logging.getLogger(__name__)

_THREADS = 8


@dataclasses.dataclass(frozen=True)
class Buckets:
    """Which sizes the images of a data set are sorted into.

    Each width that is a multiple of `step` gets the largest height that does
    not exceed the resolution's area, and each height the largest width; so
    the plain resolution needs the most memory of all.

    Args:
        step: Integer, a multiple of 64, pixels between two sides. Defaults to
            `64`.
        min_side: Integer, the shortest side in pixels. `None` (the default)
            is half of the resolution's shorter side.
        max_side: Integer, the longest side in pixels. `None` (the default) is
            twice the resolution's longer side.
        max_aspect_ratio: Float >= 1, the longer side over the shorter at
            most. Longer images are cropped to it. Defaults to `2.5`.

    Example:

    ```python
    buckets = keras_sdft.data.Buckets(max_aspect_ratio=2.0)
    print(buckets.sizes((512, 512)))
    ```
    """

    step: int = 64
    min_side: int | None = None
    max_side: int | None = None
    max_aspect_ratio: float = 2.5

    def __post_init__(self) -> None:
        for name in ("step", "min_side", "max_side"):
            value = getattr(self, name)
            if value is None and name != "step":
                continue
            whole = isinstance(value, (int, np.integer))
            if not whole or value < 64 or value % 64:
                raise ValueError(
                    f"`{name}` of `Buckets` must be a multiple of 64 pixels. "
                    f"Received: {name}={value!r}."
                )
        if not self.max_aspect_ratio >= 1:
            raise ValueError(
                "`max_aspect_ratio` must be at least 1. "
                f"Received: {self.max_aspect_ratio!r}."
            )

    def sizes(self, size: tuple[int, int]) -> tuple[tuple[int, int], ...]:
        """Returns the sizes `(height, width)`, from upright to wide.

        Args:
            size: `(height, width)`, the resolution in pixels. It is always
                one of the sizes.

        Raises:
            ValueError: If the resolution is outside the limits.
        """
        least = self.min_side or min(size) // 2
        most = self.max_side or max(size) * 2
        if not least <= min(size) <= max(size) <= most:
            raise ValueError(
                "The resolution must be inside the limits of `Buckets`. "
                f"Received: resolution={size}, min_side={least}, "
                f"max_side={most}."
            )
        area = size[0] * size[1]
        found = {(int(size[0]), int(size[1]))}
        first = math.ceil(least / self.step) * self.step
        for side in range(first, most + 1, self.step):
            other = min(area // side // self.step * self.step, most)
            if other >= first and self._allows(side, other):
                found |= {(side, other), (other, side)}
        return tuple(sorted(found, key=lambda pair: (pair[1] / pair[0], pair)))

    def _allows(self, side: int, other: int) -> bool:
        ratio = max(side, other) / min(side, other)
        return ratio <= self.max_aspect_ratio


@dataclasses.dataclass(frozen=True)
class Assignment:
    """The buckets that a data set uses, and the bucket of each example.

    Attributes:
        sizes: Tuple of `(height, width)`.
        bucket_of: Integer array of shape `(N,)`, indices of `sizes`.
    """

    sizes: tuple[tuple[int, int], ...]
    bucket_of: np.ndarray

    def table(self) -> str:
        """Returns a line per bucket: its size and its number of examples."""
        counts = np.bincount(self.bucket_of, minlength=len(self.sizes))
        return "\n".join(
            f"{width}x{height}: {count}"
            for (height, width), count in zip(self.sizes, counts, strict=True)
        )


def one_bucket(count: int, size: tuple[int, int]) -> Assignment:
    """Returns the assignment of all examples to one size."""
    return Assignment((size,), np.zeros(count, np.int64))


def assign(
    examples: Examples, buckets: Buckets, size: tuple[int, int]
) -> Assignment:
    """Sorts examples into the buckets of the nearest aspect ratio.

    Args:
        examples: `Examples`; of each image the head is read, not the pixels.
        buckets: `Buckets`.
        size: `(height, width)`, the resolution. Images that cannot be read go
            where it is; another image will take their place.

    Returns:
        `Assignment`, without the buckets that no example needs.
    """
    table = buckets.sizes(size)
    if len(table) == 1:
        logger.warning(
            "Buckets change nothing: at %dx%d pixels, steps of %d leave one "
            "size alone within an aspect ratio of %g. Use a larger resolution "
            "or a larger `max_aspect_ratio`.",
            size[1],
            size[0],
            buckets.step,
            buckets.max_aspect_ratio,
        )
    records = np.unique(examples.rows)

    def size_of(record: int) -> tuple[int, int]:
        try:
            return image_size(examples.records[int(record)].image)
        except UnreadableImage:
            return size

    with ThreadPoolExecutor(_THREADS) as pool:
        sizes = list(pool.map(size_of, records))
    nearest = nearest_sizes(sizes, table)
    of_record = np.zeros(len(examples.records), np.int64)
    of_record[records] = nearest
    used, bucket_of = np.unique(of_record[examples.rows], return_inverse=True)
    result = Assignment(tuple(table[index] for index in used), bucket_of)
    logger.info(
        "%d buckets (width x height: images):\n%s", len(used), result.table()
    )
    return result


def nearest_sizes(
    sizes: list[tuple[int, int]], table: tuple[tuple[int, int], ...]
) -> np.ndarray:
    """Returns for each size the place of the nearest one in the table.

    Near is the aspect ratio, in proportion: twice as wide is as far as half
    as wide. Of two that are equally near, the larger one is taken.

    Args:
        sizes: List of `(height, width)` in pixels.
        table: Sequence of `(height, width)` in pixels.

    Returns:
        int64 array of shape `(len(sizes),)`.
    """
    # The table's larger sizes first, since `argmin` takes the first of equals.
    order = np.argsort([-height * width for height, width in table])
    aspects = np.array([_log_aspect(table[index]) for index in order])
    own = np.array([_log_aspect(size) for size in sizes])
    distances = np.abs(own[:, None] - aspects[None, :]).round(9)
    return order[distances.argmin(axis=1)].astype(np.int64)


def _log_aspect(size: tuple[int, int]) -> float:
    return math.log(size[1] / size[0])
