"""Python iterables of `(image, caption)` pairs as examples.

This file must not know files, pixels or tokens.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable
from collections.abc import Mapping
from typing import Any

from keras_sdft.data.examples import Example
from keras_sdft.data.examples import Examples
from keras_sdft.data.examples import check_captions
from keras_sdft.data.examples import several


def read_pairs(source: Iterable) -> Examples:
    """Reads an iterable of `(image, caption)` pairs, or of `Example`s.

    A sequence is indexed when an example is needed; what another iterable
    yields stays in memory.

    Raises:
        ValueError: If `source` is no iterable of such pairs.
    """
    indexed = hasattr(source, "__getitem__")
    if isinstance(source, (Mapping, bytes)) or not (
        hasattr(source, "__iter__") or indexed
    ):
        raise ValueError(
            "`source` must be a folder, a .csv or .jsonl file, 'tfds:NAME', "
            "or an iterable of (image, caption) pairs. "
            f"Received: {type(source).__name__}."
        )
    held = isinstance(source, (list, tuple))
    if indexed and hasattr(source, "__len__") and not held:
        return Examples(Pairs(source))
    return Examples(ListedPairs(source if held else list(source)))


class Pairs:
    """A caller's sequence of pairs, indexed from several threads."""

    def __init__(self, pairs: Any):
        self._pairs = pairs

    def __len__(self) -> int:
        return len(self._pairs)

    def __getitem__(self, index: int) -> Example:
        where = f"item {index} of the source"
        example = self._pairs[index]
        if not isinstance(example, Example):
            if not isinstance(example, (tuple, list)) or len(example) != 2:
                raise ValueError(
                    "A source that is an iterable must give "
                    "`keras_sdft.data.Example`s or (image, caption) pairs. "
                    f"Received: {type(example).__name__} ({where})."
                )
            example = Example(*example)
        captions = several(check_captions(example.captions, where))
        named = isinstance(example.image, (str, os.PathLike))
        name = os.fspath(example.image) if named else f"image {index}"
        name = example.name or name
        return dataclasses.replace(example, captions=captions, name=name)


class ListedPairs(Pairs):
    """Pairs that are in memory, all looked at once, with their captions."""

    def __init__(self, pairs: Any):
        super().__init__(pairs)
        count = range(len(pairs))
        self.captions = [self[index].captions for index in count]
