"""Examples: an image, its captions and its weight.

Must not know files, pixels, tokens or TensorFlow.
"""

import dataclasses
import os
import re
from collections.abc import Iterable
from collections.abc import Iterator
from typing import Any
from typing import Protocol

import numpy as np

from keras_sdft.reprs import first_five

_SURROGATE = re.compile("[\ud800-\udfff]")

# Rows of an epoch, about 50 bytes each, that repeats may make.
MAX_REPEATED = 10_000_000


@dataclasses.dataclass(frozen=True, slots=True)
class Example:
    """One image with its captions.

    Args:
        image: What the image is read from: a path (string or `os.PathLike`),
            the bytes of an image file, a `PIL.Image.Image`, or a uint8 array
            of shape `(H, W)`, `(H, W, 1)`, `(H, W, 3)` or `(H, W, 4)`.
        captions: Tuple of one or more strings; one of them is drawn for each
            epoch.
        weight: Float, the weight of the example in the loss. Defaults to
            `1.0`.
        name: String, what reports call the image. Defaults to `""`.
        mask: Where the loss counts: an image of the same size, of any kind
            that `image` can be, white where it counts and black where not.
            `None` counts the whole image.
    """

    image: Any
    captions: tuple[str, ...]
    weight: float = 1.0
    name: str = ""
    mask: Any = None


class Records(Protocol):
    """What holds examples, or makes them when they are asked for."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Example: ...


@dataclasses.dataclass
class Columns:
    """Image paths and captions held as two lists, not as a million objects.

    A caption is a string, or a tuple where an image has several; `masks` are
    paths by the images' paths, all relative to `root`.
    """

    root: str
    paths: list[str]
    captions: list[Any]
    masks: dict[str, str] = dataclasses.field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Example:
        path = self.paths[index]
        mask = self.masks.get(path)
        return Example(
            os.path.join(self.root, path),
            several(self.captions[index]),
            name=path,
            mask=None if mask is None else os.path.join(self.root, mask),
        )


@dataclasses.dataclass(eq=False)
class Examples:
    """Rows of a set of records: repeated, or left out, without copying it.

    Args:
        records: `Records`. A record may be made when it is asked for; it is
            asked for from several threads.
        rows: Integer array, the record of each example. `None` (the default)
            takes every record once.
        left_out: Dict of images' names by the reason why they are left out.
        notes: List of sentences, how the source was read.
        name: String, the source in a report.
        buckets: Dict of images by `"WIDTHxHEIGHT"`, where there are buckets.
    """

    records: Records
    rows: Any = None
    left_out: dict[str, list[str]] = dataclasses.field(default_factory=dict)
    notes: list[str] = dataclasses.field(default_factory=list)
    name: str = ""
    buckets: dict[str, int] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.rows is None:
            self.rows = np.arange(len(self.records), dtype=np.int64)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Example:
        return self.records[int(self.rows[index])]

    def __iter__(self) -> Iterator[Example]:
        return (self.records[int(row)] for row in self.rows)

    @property
    def shown(self) -> np.ndarray:
        """The records that are shown, each once, in their order."""
        return np.unique(self.rows)

    @property
    def found(self) -> int:
        """Images that there are, shown or not."""
        return len(self.shown) + sum(map(len, self.left_out.values()))

    def summary(self) -> str:
        """Returns a line of what was found, and one for each reason or note."""
        counts = f"{self.found:,} images found, {len(self.shown):,} used"
        reasons = [
            f"left out: {len(names):,} {reason}: {first_five(names)}"
            for reason, names in self.left_out.items()
        ]
        return "\n  ".join([f"{self.name}: {counts}", *reasons, *self.notes])

    def leave_out(self, reason: str, names: list[str]) -> None:
        """Notes images that are left out, if there are any."""
        if names:
            self.left_out[reason] = names

    def repeated(self, times: int | list[int]) -> "Examples":
        """Returns the examples with each one several times in a row.

        Raises:
            ValueError: If that makes more than ten million.
        """
        total = times * len(self) if isinstance(times, int) else sum(times)
        if total > max(MAX_REPEATED, len(self)):
            raise ValueError(
                f"An epoch may show at most {MAX_REPEATED:,} examples where "
                f"they are repeated. Received: `repeats` that make {total:,}. "
                "Repeat them less often, and train for more epochs."
            )
        if not isinstance(times, int):
            unshown = [n for n, time in enumerate(times) if not time]
            names = [self[number].name for number in unshown]
            self.leave_out("with 0 repeats", names)
        return dataclasses.replace(self, rows=np.repeat(self.rows, times))

    def without(self, records: Iterable[int]) -> "Examples":
        """Returns the examples that do not come from these records."""
        bad = np.fromiter(records, dtype=np.int64)
        left = self.rows[~np.isin(self.rows, bad)]
        return dataclasses.replace(self, rows=left)


def check_captions(value: Any, where: str) -> str | tuple[str, ...]:
    """Returns the captions as a string, or a tuple where there are several.

    Raises:
        ValueError: If `value`, which stands at `where`, is not text.
    """
    items = value if isinstance(value, (list, tuple)) else [value]
    # Half a pair of UTF-16, as JSON may hold it, is no text.
    if items and all(
        isinstance(item, str) and not _SURROGATE.search(item) for item in items
    ):
        return items[0] if len(items) == 1 else tuple(items)
    raise ValueError(
        "A caption must be a string, or a non-empty list of strings. "
        f"Received: {value!r} ({where}). Write the caption as text; use an "
        'empty string ("") for an image without one.'
    )


def several(captions: str | tuple[str, ...]) -> tuple[str, ...]:
    """Returns one caption or several as a tuple."""
    return (captions,) if isinstance(captions, str) else captions
