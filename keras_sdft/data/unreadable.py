"""The report of unreadable images, and the check before training.

This file knows which images cannot be read and why. It must not know captions,
tokens or TensorFlow, and it never touches the files that it reports.
"""

from __future__ import annotations

import csv
import os
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from keras_sdft.data.examples import Examples
from keras_sdft.data.images import UnreadableImage
from keras_sdft.data.images import read_rgb

# So many images are decoded before training; a larger set is sampled evenly.
CHECK_LIMIT = 2000

_THREADS = 8


class Unreadable:
    """A table of the images that could not be read, each once.

    `keras_sdft.data.load` fills it: when it checks the images, and later from
    the threads that read them.

    Example:

    ```python
    report = keras_sdft.data.Unreadable()
    dataset = keras_sdft.data.load("photos", tokenizer, report=report)
    trainer.fit(dataset)
    print(report.table())
    report.write("run/unreadable.csv")
    ```
    """

    def __init__(self) -> None:
        self._rows: dict[str, str] = {}
        self._lock = threading.Lock()

    @property
    def rows(self) -> list[tuple[str, str]]:
        """List of `(image, reason)`, in the order in which they were found."""
        with self._lock:
            return list(self._rows.items())

    def __len__(self) -> int:
        return len(self._rows)

    def add(self, image: str, reason: str) -> bool:
        """Adds an image; returns whether it is new in the table."""
        with self._lock:
            new = image not in self._rows
            self._rows.setdefault(image, reason)
        return new

    def table(self, limit: int | None = None) -> str:
        """Returns the table as text.

        Args:
            limit: Integer, the most rows to show. `None` shows them all.

        Returns:
            String of one line per image; `""` if there are none.
        """
        rows = self.rows
        shown = rows[:limit]
        width = max((len(image) for image, _ in shown), default=0)
        lines = [f"{image:<{width}}  {reason}" for image, reason in shown]
        if len(shown) < len(rows):
            lines.append(f"... and {len(rows) - len(shown)} more")
        return "\n".join(lines)

    def write(self, path: str | os.PathLike) -> None:
        """Writes the table as CSV with the columns `image` and `reason`."""
        with open(path, "w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(("image", "reason"))
            writer.writerows(self.rows)


def sample_records(examples: Examples, limit: int) -> np.ndarray:
    """Returns the records of examples, each once; of many, an even sample."""
    records = np.unique(examples.rows)
    if len(records) > limit:
        records = records[np.linspace(0, len(records) - 1, limit).astype(int)]
    return records


def drop_unreadable(
    examples: Examples,
    size: tuple[int, int],
    report: Unreadable,
    max_unreadable: float = 0.1,
    limit: int = CHECK_LIMIT,
) -> Examples:
    """Decodes the images, or an even sample of many, and drops the bad ones.

    Args:
        examples: `Examples`.
        size: `(height, width)` that the images will be resized to; a JPEG is
            decoded no larger than that needs.
        report: `Unreadable`, which receives the images that were dropped.
        max_unreadable: Float in `[0, 1]`, the largest share of unreadable
            images among those that are checked.
        limit: Integer, the most images to check.

    Returns:
        `Examples` without the images that were found unreadable.

    Raises:
        ValueError: If a larger share is unreadable, with a table of them.
    """
    records = sample_records(examples, limit)

    def reason_of(record: int) -> tuple[str, str] | None:
        example = examples.records[int(record)]
        try:
            read_rgb(example.image, size)
        except UnreadableImage as error:
            return example.name, str(error)
        return None

    with ThreadPoolExecutor(_THREADS) as pool:
        reasons = list(pool.map(reason_of, records))
    found = Unreadable()
    for reason in filter(None, reasons):
        found.add(*reason)
        report.add(*reason)
    bad = [row for row, why in zip(records, reasons, strict=True) if why]
    if len(bad) > max_unreadable * len(records):
        raise ValueError(
            f"{len(bad)} of {len(records)} images cannot be read, more than "
            f"`max_unreadable={max_unreadable}` allows:\n{found.table(10)}\n"
            "Replace these images, or raise `max_unreadable` (at most 1.0) "
            "to train without them."
        )
    return examples.without(bad) if bad else examples
