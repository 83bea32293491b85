"""Examples: an image, its captions and its weight.

This file knows what an example is and how rows are picked from a set of
them. It must not know files, pixels, tokens or TensorFlow.
"""

from __future__ import annotations

import dataclasses
import itertools
import os
from collections.abc import Iterable
from collections.abc import Iterator
from typing import Any
from typing import Protocol

import numpy as np


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


class Columns:
    """Image paths and captions held as two lists, not as a million objects.

    Args:
        root: String, the folder that the paths are relative to.
        paths: List of strings.
        captions: List of the same length; each entry is a string, or a tuple
            of strings where an image has several captions.
        masks: Dict of the masks' paths by the images' paths.
    """

    def __init__(
        self,
        root: str,
        paths: list[str],
        captions: list[str | tuple[str, ...]],
        masks: dict[str, str] | None = None,
    ):
        self.root = root
        self.paths = paths
        self.captions = captions
        self.masks = masks or {}

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


class Examples:
    """Rows of a set of records: repeated, or left out, without copying it.

    Args:
        records: `Records`. A record may be made when it is asked for; it is
            asked for from several threads.
        rows: Integer array, the record of each example. `None` (the default)
            takes every record once.
    """

    def __init__(self, records: Records, rows: np.ndarray | None = None):
        self.records = records
        if rows is None:
            rows = np.arange(len(records), dtype=np.int64)
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Example:
        return self.records[int(self.rows[index])]

    def __iter__(self) -> Iterator[Example]:
        return (self.records[int(row)] for row in self.rows)

    def repeated(self, times: int) -> Examples:
        """Returns the examples with each one several times in a row."""
        return Examples(self.records, np.repeat(self.rows, times))

    def without(self, records: Iterable[int]) -> Examples:
        """Returns the examples that do not come from these records."""
        bad = np.fromiter(records, dtype=np.int64)
        return Examples(self.records, self.rows[~np.isin(self.rows, bad)])


def check_captions(value: Any, where: str) -> str | tuple[str, ...]:
    """Returns the captions as a string, or a tuple where there are several.

    Args:
        value: A string, or a non-empty list or tuple of strings.
        where: String that says where the value stands, for the error.

    Raises:
        ValueError: If `value` is neither.
    """
    if isinstance(value, str):
        return value
    if (
        isinstance(value, (list, tuple))
        and value
        and all(isinstance(item, str) for item in value)
    ):
        return value[0] if len(value) == 1 else tuple(value)
    raise ValueError(
        "A caption must be a string, or a non-empty list of strings. "
        f"Received: {value!r} ({where}). Write the caption as text; use an "
        'empty string ("") for an image without one.'
    )


def several(captions: str | tuple[str, ...]) -> tuple[str, ...]:
    """Returns one caption or several as a tuple."""
    return (captions,) if isinstance(captions, str) else captions


def first_five(names: Iterable[str]) -> str:
    """Returns `"a, b, c, d, e and 7 more"` for the text of an error."""
    names = list(names)
    text = ", ".join(repr(name) for name in itertools.islice(names, 5))
    return text if len(names) <= 5 else f"{text} and {len(names) - 5} more"
