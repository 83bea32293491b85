"""Making from a cache: a row of an epoch -> moments, context, weight and mask.

Draws the same numbers as `making`, so that an epoch from the cache is the
epoch without it. This file must not know TensorFlow or encoders.
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from typing import Any

import numpy as np

from keras_sdft.data.epochs import Row
from keras_sdft.data.example_builder import ExampleBuilder
from keras_sdft.data.examples import Example

if TYPE_CHECKING:
    from keras_sdft.data.cache import Cache

# Draws of another image that end on one of another size.
_MAX_DRAWS = 10_000


class CachedExampleBuilder(ExampleBuilder):
    """Makes one example of an epoch from a cache.

    Args:
        cache: `Cache`, planned; it must be filled when the first example is
            made.
        *arguments: As for `ExampleBuilder`.
        **options: As for `ExampleBuilder`.
    """

    def __init__(self, cache: Cache, *arguments: Any, **options: Any):
        super().__init__(*arguments, **options)
        self._cache = cache
        names = {"images": "moments"}
        if cache.layout.context_shape is not None:
            names["token_ids"] = "context"
        self.keys = tuple(names.get(key, key) for key in self.keys)

    def specs(
        self, size: tuple[int | None, int | None]
    ) -> dict[str, tuple[tuple[int | None, ...], Any]]:
        layout = self._cache.layout
        specs = super().specs(size)
        latents = specs["loss_mask"][0][:2]
        specs["moments"] = ((*latents, layout.moments_channels), np.float32)
        specs["context"] = (layout.context_shape, np.float32)
        return specs

    def _seen(
        self,
        row: Row,
        draws: np.random.Generator,
        corner: tuple[float | None, float | None],
        flips: bool,
    ) -> tuple[Example, dict[str, Any]]:
        record = self._readable(row, draws)
        made = {"moments": self._cache.reader.moments(record, flips)}
        if self._options.masks is not None:
            made["loss_mask"] = self._cache.reader.mask(record, flips)
        return self._examples.records[record], made

    def _said(self, text: str) -> dict[str, Any]:
        if self._cache.layout.context_shape is None:
            return super()._said(text)
        return {"context": self._cache.reader.context(text)}

    def _readable(self, row: Row, draws: np.random.Generator) -> int:
        """The record to show: another one for what was unreadable."""
        index, kind = row.example, self._kind(row.example)
        for _ in range(_MAX_DRAWS):
            record = int(self._examples.rows[index])
            reason = self._cache.reader.unreadable.get(record)
            # Another image has moments of its own bucket's size alone.
            if self._cache.layout.bucket_of[record] == row.bucket:
                if reason is None:
                    return record
                self._note(self._examples.records[record].name, reason)
            index = int(draws.integers(*kind))
        raise RuntimeError(
            "No image of the cache could be found in place of one that "
            f"cannot be read. The last were:\n{self._report.table(5)}"
        )
