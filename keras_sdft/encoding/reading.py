"""Reading a complete cache: a row of an epoch -> moments, context and mask.

Draws the same numbers as `ExampleBuilder`, so that an epoch from the cache is
the epoch without it. This file must not know TensorFlow or encoders.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from keras_sdft.data.epochs import Row
from keras_sdft.data.example_builder import ExampleBuilder
from keras_sdft.data.examples import Example
from keras_sdft.encoding.contents import Contents
from keras_sdft.encoding.contents import loaded_mask
from keras_sdft.encoding.fingerprint import text_key
from keras_sdft.encoding.state import State
from keras_sdft.encoding.store import Rows

# Draws of another image that end on one of another size.
_MAX_DRAWS = 10_000


class CacheReader:
    """The open files of a complete cache, read from any thread.

    Attributes:
        rows: Dict of `Rows` by the store's name.
        unreadable: Dict of name and reason of images that could not be read,
            by record.
        rounding: Dict, the most that rounding has changed in each store.
    """

    def __init__(self, directory: str, state: State, contents: Contents):
        self.rows = {
            store.name: Rows(directory, store, store.rows)
            for store in contents.stores()
        }
        self.unreadable = {int(k): v for k, v in state.unreadable.items()}
        self.rounding = state.rounding


class CachedExampleBuilder(ExampleBuilder):
    """Makes one example of an epoch from a cache.

    Args:
        contents: `Contents`.
        reader: Function that returns the `CacheReader`; called when examples
            are made.
        *arguments: As for `ExampleBuilder`.
        **options: As for `ExampleBuilder`.
    """

    def __init__(
        self,
        contents: Contents,
        reader: Callable[[], CacheReader],
        *arguments: Any,
        **options: Any,
    ):
        super().__init__(*arguments, **options)
        self._contents = contents
        self._reader = reader
        names = {"images": "moments"}
        if contents.contexts:
            names["token_ids"] = "context"
        self.keys = tuple(names.get(key, key) for key in self.keys)

    def specs(
        self, size: tuple[int | None, int | None]
    ) -> dict[str, tuple[tuple[int | None, ...], Any]]:
        specs = super().specs(size)
        latents = specs["loss_mask"][0][:2]
        channels = self._contents.moments(0).shape[-1]
        specs["moments"] = ((*latents, channels), np.float32)
        specs["context"] = (self._contents.captions().shape, np.float32)
        return specs

    def _seen(
        self,
        row: Row,
        draws: np.random.Generator,
        corner: tuple[float | None, float | None],
        flips: bool,
    ) -> tuple[Example, dict[str, Any]]:
        contents, rows = self._contents, self._reader().rows
        record = self._readable(row, draws)
        place = int(contents.place_of[record])
        moments = rows[contents.moments(row.bucket).name]
        values = moments[place * contents.per_image + flips]
        made = {"moments": values.astype(np.float32)}
        if self._options.masks is not None:
            mask = loaded_mask(rows[contents.masks(row.bucket).name][place])
            made["loss_mask"] = mask[:, ::-1] if flips else mask
        return self._examples.records[record], made

    def _said(self, text: str) -> dict[str, Any]:
        if not self._contents.contexts:
            return super()._said(text)
        key, keys = np.uint64(text_key(text)), self._contents.keys
        place = int(np.searchsorted(keys, key))
        if place == len(keys) or keys[place] != key:
            raise RuntimeError(f"The cache holds no caption {text!r}.")
        context = self._reader().rows["contexts"][place]
        return {"context": context.astype(np.float32)}

    def _readable(self, row: Row, draws: np.random.Generator) -> int:
        """Returns the record to show: another one for what was unreadable."""
        index, kind = row.example, self._kind(row.example)
        for _ in range(_MAX_DRAWS):
            record = int(self._examples.rows[index])
            reason = self._reader().unreadable.get(record)
            # Another image has moments of its own bucket's size alone.
            if self._contents.bucket_of[record] == row.bucket:
                if reason is None:
                    return record
                self._note(*reason)
            index = int(draws.integers(*kind))
        raise OSError(
            "No image of the cache could be found in place of one that "
            f"cannot be read. The last were:\n{self._report.table(5)}"
        )
