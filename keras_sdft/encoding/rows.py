"""Rows of a cache: filled by the encoders, and read as examples.

What has reached the disk stays: an interrupted filling goes on behind it.
Reading draws the same numbers as `ExampleBuilder`, so that an epoch from the
cache is the epoch without it. This file must not know TensorFlow.
"""

import dataclasses
import functools
import itertools
import time
from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Iterator
from typing import Any

import numpy as np
from tqdm import tqdm

from keras_sdft.data.epochs import Row
from keras_sdft.data.example_builder import ExampleBuilder
from keras_sdft.data.examples import Example
from keras_sdft.data.masks import PIXELS_PER_LATENT
from keras_sdft.data.masks import read_cropped
from keras_sdft.data.unreadable import attempts
from keras_sdft.encoding.contents import Contents
from keras_sdft.encoding.contents import loaded_mask
from keras_sdft.encoding.contents import stored_mask
from keras_sdft.encoding.contents import text_key
from keras_sdft.encoding.encoders import TEXTS_AT_ONCE
from keras_sdft.encoding.store import Rows
from keras_sdft.encoding.store import RowWriter
from keras_sdft.encoding.store import State
from keras_sdft.encoding.store import Store

# What a killed process loses at most.
FLUSH_SECONDS = 30.0
# Groups of images that are decoded while one is encoded.
_GROUPS_AHEAD = 2


@dataclasses.dataclass
class Filling:
    """Fills a locked `Cache`, from where its `State` says it was left."""

    cache: Any
    state: State

    def run(self) -> None:
        """Encodes what is missing, and marks the cache as complete."""
        contents, rows = self.cache.contents, self.state.rows
        captions = [(contents.captions(), self._captions)] * contents.contexts
        images = [
            (store, functools.partial(self._images, bucket))
            for bucket, store in enumerate(contents.buckets())
        ]
        for unit, parts in (("caption", captions), ("image", images)):
            with tqdm(
                total=sum(store.rows for store, _ in parts),
                initial=sum(rows.get(store.name, 0) for store, _ in parts),
                desc=f"encode {unit}s",
                unit=unit,
                disable=not self.cache.progress or not parts,
            ) as bar:
                for store, groups in parts:
                    self._fill(store, groups, bar)
        self.state.complete = True
        self.state.write(self.cache.directory)

    def _fill(
        self,
        store: Store,
        groups: Callable[[int], Iterable[dict[str, np.ndarray]]],
        bar: Any,
    ) -> None:
        """Writes what `groups` gives of a store from its next row on."""
        done = self.state.rows.get(store.name, 0)
        writer = RowWriter(self.cache.directory, store, done)
        since = time.monotonic()
        try:
            for fields in groups(done):
                bar.update(writer.write(fields))
                if time.monotonic() - since >= FLUSH_SECONDS:
                    self._note(writer)
                    since = time.monotonic()
        finally:
            # Also by Ctrl-C, and as far as a full disk lets it.
            self._note(writer)

    def _note(self, writer: RowWriter) -> None:
        """Notes what has reached the disk."""
        writer.flush()
        self.state.rows[writer.store.name] = writer.done
        self.state.write(self.cache.directory)

    def _captions(self, done: int) -> Iterator[dict[str, np.ndarray]]:
        texts = self.cache.contents.texts()
        for first in range(done, len(texts), TEXTS_AT_ONCE):
            part = texts[first : first + TEXTS_AT_ONCE]
            yield {"context": self.cache.encoders.contexts(part)}

    def _images(
        self, bucket: int, done: int
    ) -> Iterator[dict[str, np.ndarray]]:
        contents, encoders = self.cache.contents, self.cache.encoders
        unreadable, masks = self.state.unreadable, contents.options.masks
        size, records = contents.sizes[bucket], contents.images[bucket][done:]
        shape = (*(side // PIXELS_PER_LATENT for side in size), 1)
        black = np.zeros((*size, 3), np.uint8), np.zeros(shape, np.float32)
        at_once = encoders.images_at_once(*size)
        read = attempts(
            contents.records,
            records,
            lambda e: read_cropped(e, masks, size),
            ahead=_GROUPS_AHEAD * at_once,
        )
        pairs = zip(records.tolist(), read, strict=True)
        while group := list(itertools.islice(pairs, at_once)):
            for record, (name, _, reason) in group:
                # What is read again may be readable now.
                unreadable.pop(str(record), None)
                if reason:
                    unreadable[str(record)] = [name, reason]
            seen = [attempt.found or black for _, attempt in group]
            pixels = np.stack([pixels for pixels, _ in seen])
            kinds = [pixels, pixels[:, :, ::-1]][: 1 + contents.flips]
            moments = [encoders.moments(kind) for kind in kinds]
            fields = {"moments": np.stack(moments, axis=1)}
            if masks is not None:
                fields["mask"] = stored_mask(np.stack([m for _, m in seen]))
            yield fields


class CacheReader:
    """The open files of a complete cache, read from any thread."""

    def __init__(self, directory: str, state: State, contents: Contents):
        stores = contents.stores()
        rows = [Rows(directory, store, store.rows) for store in stores]
        self.captions = rows.pop(0) if contents.contexts else None
        self.buckets = rows
        # The name of an image and why it cannot be read, by record.
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
