"""The check before training: which images cannot be read, and are too small."""

import collections
import math
from collections.abc import Callable
from collections.abc import Iterator
from concurrent.futures import Future
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from typing import NamedTuple

import numpy as np

from keras_sdft.data.examples import Example
from keras_sdft.data.examples import Examples
from keras_sdft.data.images import UnreadableImage
from keras_sdft.data.images import read_image
from keras_sdft.data.options import Options
from keras_sdft.data.report import Report

# So many images are decoded before training; a larger set is sampled evenly.
CHECK_LIMIT = 2000
# Why these are left out.
UNREADABLE = "that cannot be read"
# Images that are enlarged by more than this are told of.
_ENLARGED = 1.5

_THREADS = 8


class Attempt(NamedTuple):
    """What was read of an example: `None`, and the reason, if it cannot be."""

    name: str
    found: Any
    reason: str = ""


def attempt(
    records: Any, index: int, read: Callable[[Example], Any]
) -> Attempt:
    """Reads of an example what a function returns, if it can be read."""
    name = f"example {index}"
    try:
        example = records[index]
        name = example.name
        return Attempt(name, read(example))
    except UnreadableImage as error:
        return Attempt(name, None, str(error))


def attempts(
    records: Any,
    rows: np.ndarray,
    read: Callable[[Example], Any],
    ahead: int = 4 * _THREADS,
) -> Iterator[Attempt]:
    """Reads of several records, in threads, and yields in their order.

    At most `ahead` are read before they are asked for.
    """
    waiting: collections.deque[Future] = collections.deque()
    with ThreadPoolExecutor(_THREADS) as pool:
        for row in rows.tolist():
            waiting.append(pool.submit(attempt, records, row, read))
            if len(waiting) > ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def sample_records(examples: Examples) -> np.ndarray:
    """Returns the records of examples, each once; of many, an even sample."""
    records = examples.shown
    if len(records) <= CHECK_LIMIT:
        return records
    return records[np.linspace(0, len(records) - 1, CHECK_LIMIT).astype(int)]


def drop_unreadable(
    examples: Examples, options: Options, report: Report
) -> Examples:
    """Decodes the images, or an even sample of many, and drops the bad ones.

    The images will be resized to the resolution, with `buckets` to about its
    area; a note of the examples says how many are enlarged by that.

    Raises:
        ValueError: If a larger share than `max_unreadable` of those that are
            checked is unreadable, with a table of them.
    """
    records, size = sample_records(examples), options.size
    read = attempts(
        examples.records, records, lambda e: read_image(e.image, size).size
    )
    seen = list(read)
    found = Report()
    for name, _, reason in seen:
        if reason:
            found.add(name, reason)
            report.add(name, reason)
    most = options.max_unreadable
    if len(found) > most * len(records):
        raise ValueError(
            f"{len(found)} of {len(records)} images cannot be read, more than "
            f"`max_unreadable={most}` allows:\n{found.table(10)}\n"
            "Replace these images, or raise `max_unreadable` (at most 1.0) "
            "to train without them."
        )
    bad = [row for row, one in zip(records, seen, strict=True) if one.reason]
    examples = examples.without(bad) if bad else examples
    examples.leave_out(UNREADABLE, [name for name, _ in found.rows])
    note = _enlarged(seen, size, options.buckets)
    if note:
        examples.notes.append(note)
    return examples


def _enlarged(seen: list[Attempt], size: tuple[int, int], buckets: bool) -> str:
    """Says how many images are smaller than what they are shown at."""
    factors = {}
    for name, found, _ in seen:
        if found is not None:
            sides = (size[0] / found[1], size[1] / found[0])
            factor = math.sqrt(sides[0] * sides[1]) if buckets else max(sides)
            factors[f"{name}, {found[0]}x{found[1]}"] = factor
    small = [name for name in factors if factors[name] > _ENLARGED]
    if not small:
        return ""
    most = max(small, key=factors.__getitem__)
    return (
        f"{len(small):,} of {len(seen):,} images are enlarged to "
        f"{size[1]}x{size[0]} pixels, by up to {factors[most]:.1f} times "
        f"({most})."
    )
