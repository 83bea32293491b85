"""The report of what was read: images found, used and left out, and why.

Must not know pixels, tokens or TensorFlow; changes no file that it reports.
"""

import csv
import dataclasses
import hashlib
import os
import threading
from collections.abc import Iterable

from keras_sdft.data.examples import Examples
from keras_sdft.files import atomic_file
from keras_sdft.reprs import first_five

# Of so many images on each side, the bytes are compared.
COMPARE_LIMIT = 10_000


class Report:
    """What `keras_sdft.data.load` has read, and could not read.

    It is filled when images are checked, and later from the threads that read
    them. As a table it holds the unreadable images, each once.

    Attributes:
        sources: List of `Examples`, in the order in which they were read.

    Example:

    ```python
    report = keras_sdft.data.Report()
    dataset = keras_sdft.data.load("photos", tokenizer, report=report)
    print(report.summary())
    trainer.fit(dataset)
    report.write("run/unreadable.csv")
    ```
    """

    def __init__(self) -> None:
        self.sources: list[Examples] = []
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
        """Adds an unreadable image; returns whether it is new."""
        with self._lock:
            count = len(self._rows)
            self._rows.setdefault(image, reason)
            return len(self._rows) > count

    def add_source(self, name: str, examples: Examples) -> Examples:
        """Adds examples that are shown, or replaces those of the same name."""
        notes = list(examples.notes)
        new = dataclasses.replace(examples, name=name, notes=notes)
        names = [source.name for source in self.sources]
        place = names.index(name) if name in names else len(names)
        self.sources[place : place + 1] = [new]
        return new

    def compare_held_out(self) -> int:
        """Returns how many images of the last source are in the first as well.

        Where there are some, a note of the last source says so.
        """
        if len(self.sources) < 2:
            return 0
        first, last = self.sources[0], self.sources[-1]
        identity = getattr(first.records, "identity", first)
        if identity == getattr(last.records, "identity", last):
            last.notes.append("It is what is trained on.")
            return len(last.shown)
        shared = shared_files(_paths(first), _paths(last))
        if shared:
            last.notes.append(
                f"{len(shared):,} of its {len(last.shown):,} images are "
                "trained on as well, so its loss does not tell what was "
                f"memorized: {first_five(name for _, name in shared)}"
            )
        return len(shared)

    def summary(self) -> str:
        """Returns how many images were found, used and left out, and why."""
        return "\n".join(source.summary() for source in self.sources)

    def table(self, limit: int | None = None) -> str:
        """Returns the unreadable images as text, `limit` of them at most."""
        rows = self.rows
        shown = rows[:limit]
        width = max((len(image) for image, _ in shown), default=0)
        lines = [f"{image:<{width}}  {reason}" for image, reason in shown]
        if len(shown) < len(rows):
            lines.append(f"... and {len(rows) - len(shown)} more")
        return "\n".join(lines)

    def write(self, path: str | os.PathLike) -> None:
        """Writes the table as CSV with the columns `image` and `reason`."""
        with atomic_file(path, "w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(("image", "reason"))
            writer.writerows(self.rows)


def shared_files(
    first: Iterable[str], second: Iterable[str]
) -> list[tuple[str, str]]:
    """Returns pairs of paths of the same file, or of files of equal bytes.

    Only files whose sizes occur on both sides are read.
    """
    files = [
        {path: os.path.getsize(path) for path in paths if os.path.isfile(path)}
        for paths in (first, second)
    ]
    common = set(files[0].values()) & set(files[1].values())
    known, others = (
        [(_digest(path), path) for path, size in one.items() if size in common]
        for one in files
    )
    paths = dict(known)
    return [(paths[digest], p) for digest, p in others if digest in paths]


def _paths(examples: Examples) -> list[str]:
    records = examples.shown[:COMPARE_LIMIT]
    images = (examples.records[int(record)].image for record in records)
    return [os.fspath(i) for i in images if isinstance(i, (str, os.PathLike))]


def _digest(path: str) -> bytes:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").digest()
