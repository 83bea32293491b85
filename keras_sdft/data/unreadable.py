"""The check before training: which images cannot be read, and are too small."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np

from keras_sdft.data.examples import Examples
from keras_sdft.data.images import UnreadableImage
from keras_sdft.data.images import read_rgb
from keras_sdft.data.report import Report

# So many images are decoded before training; a larger set is sampled evenly.
CHECK_LIMIT = 2000
# Images that are enlarged by more than this are told of.
_ENLARGED = 1.5

_THREADS = 8


class _Look(NamedTuple):
    """What the check saw of an image; its size is `(height, width)`."""

    name: str
    reason: str = ""
    size: tuple[int, int] = (0, 0)


def sample_records(examples: Examples, limit: int) -> np.ndarray:
    """Returns the records of examples, each once; of many, an even sample."""
    records = np.unique(examples.rows)
    if len(records) > limit:
        records = records[np.linspace(0, len(records) - 1, limit).astype(int)]
    return records


def drop_unreadable(
    examples: Examples,
    size: tuple[int, int],
    report: Report,
    max_unreadable: float = 0.1,
    *,
    buckets: bool = False,
    limit: int = CHECK_LIMIT,
) -> tuple[Examples, list[str]]:
    """Decodes the images, or an even sample of many, and drops the bad ones.

    Args:
        examples: `Examples`.
        size: `(height, width)` that the images will be resized to.
        report: `Report`, which receives the images that were dropped.
        max_unreadable: Float in `[0, 1]`, the largest share of unreadable
            images among those that are checked.
        buckets: Boolean, whether they are resized to about the area of `size`.
        limit: Integer, the most images to check.

    Returns:
        `(examples, names)`, those that are left and what is dropped. A note of
        the examples says how many are enlarged.

    Raises:
        ValueError: If a larger share is unreadable, with a table of them.
    """
    records = sample_records(examples, limit)

    def look(record: int) -> _Look:
        name = f"record {record}"
        try:
            example = examples.records[int(record)]
            name = example.name
            image = read_rgb(example.image, size)
        except UnreadableImage as error:
            return _Look(name, str(error))
        return _Look(name, size=(image.size[1], image.size[0]))

    with ThreadPoolExecutor(_THREADS) as pool:
        seen = list(pool.map(look, records))
    found = Report()
    for one in seen:
        if one.reason:
            found.add(one.name, one.reason)
            report.add(one.name, one.reason)
    if len(found) > max_unreadable * len(records):
        raise ValueError(
            f"{len(found)} of {len(records)} images cannot be read, more than "
            f"`max_unreadable={max_unreadable}` allows:\n{found.table(10)}\n"
            "Replace these images, or raise `max_unreadable` (at most 1.0) "
            "to train without them."
        )
    bad = [row for row, one in zip(records, seen, strict=True) if one.reason]
    examples = examples.without(bad) if bad else examples
    note = _enlarged(seen, size, buckets)
    if note:
        examples.findings.notes.append(note)
    return examples, [name for name, _ in found.rows]


def _enlarged(seen: list[_Look], size: tuple[int, int], buckets: bool) -> str:
    """Says how many images are smaller than what they are shown at."""

    def factor(one: _Look) -> float:
        sides = (size[0] / one.size[0], size[1] / one.size[1])
        return math.sqrt(sides[0] * sides[1]) if buckets else max(sides)

    small = [one for one in seen if not one.reason and factor(one) > _ENLARGED]
    if not small:
        return ""
    most = max(small, key=factor)
    return (
        f"{len(small):,} of {len(seen):,} images are enlarged to "
        f"{size[1]}x{size[0]} pixels, by up to {factor(most):.1f} times "
        f"({most.name}, {most.size[1]}x{most.size[0]})."
    )
