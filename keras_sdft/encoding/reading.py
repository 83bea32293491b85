"""Reading a complete cache: a row of an epoch -> moments, context and mask.

Draws the same numbers as `ExampleBuilder`, so that an epoch from the cache is
the epoch without it. This file must not know TensorFlow or encoders.
"""

import dataclasses
from typing import Any

import numpy as np

from keras_sdft.data.epochs import Row
from keras_sdft.data.example_builder import ExampleBuilder
from keras_sdft.data.examples import Example
from keras_sdft.encoding.contents import Contents
from keras_sdft.encoding.contents import loaded_mask
from keras_sdft.encoding.contents import text_key
from keras_sdft.encoding.store import Rows
from keras_sdft.encoding.store import State


class CacheReader:
    """The open files of a complete cache, read from any thread.

    `unreadable` has the name of an image and why it cannot be read, by record.
    """

    def __init__(self, directory: str, state: State, contents: Contents):
        stores = contents.stores()
        rows = [Rows(directory, store, store.rows) for store in stores]
        self.captions = rows.pop(0) if contents.contexts else None
        self.buckets = rows
        self.unreadable = {int(k): v for k, v in state.unreadable.items()}


@dataclasses.dataclass(kw_only=True, eq=False)
class CachedExampleBuilder(ExampleBuilder):
    """Makes one example of an epoch from a `Cache`."""

    cache: Any

    # Most may be of another size.
    max_attempts = 10_000

    def __post_init__(self) -> None:
        super().__post_init__()
        names = {"images": "moments"}
        if self.cache.contents.contexts:
            names["token_ids"] = "context"
        self.keys = tuple(names.get(key, key) for key in self.keys)

    def specs(
        self, size: tuple[int | None, int | None]
    ) -> dict[str, tuple[tuple[int | None, ...], Any]]:
        specs, encoders = super().specs(size), self.cache.encoders
        latents = specs["loss_mask"][0][:2]
        specs["moments"] = ((*latents, encoders.moments_channels), np.float32)
        specs["context"] = (encoders.context_shape, np.float32)
        return specs

    def _seen(
        self, index: int, row: Row, corner: Any, flips: bool
    ) -> tuple[Example, dict[str, Any]] | None:
        contents, reader = self.cache.contents, self.cache.reader
        record = int(self.examples.rows[index])
        # Another image has moments of its own bucket's size alone.
        if contents.bucket_of[record] != row.bucket:
            return None
        if record in reader.unreadable:
            self._note(*reader.unreadable[record])
            return None
        place = int(np.searchsorted(contents.images[row.bucket], record))
        fields = reader.buckets[row.bucket][place]
        made = {"moments": fields["moments"][int(flips)].astype(np.float32)}
        if self.options.masks is not None:
            mask = loaded_mask(fields["mask"])
            made["loss_mask"] = mask[:, ::-1] if flips else mask
        return self.examples.records[record], made

    def _said(self, text: str) -> dict[str, Any]:
        if not self.cache.contents.contexts:
            return super()._said(text)
        key, keys = np.uint64(text_key(text)), self.cache.contents.keys
        place = int(np.searchsorted(keys, key))
        if place == len(keys) or keys[place] != key:
            raise RuntimeError(f"The cache holds no caption {text!r}.")
        fields = self.cache.reader.captions[place]
        return {"context": fields["context"].astype(np.float32)}
