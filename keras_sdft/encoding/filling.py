"""Filling a cache: images and captions through the encoders, into its stores.

What has reached the disk stays: an interrupted filling goes on behind it. This
file must not know batches or TensorFlow.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from keras_sdft.data.images import UnreadableImage
from keras_sdft.data.masks import read_cropped
from keras_sdft.encoding.contents import MASK_DTYPE
from keras_sdft.encoding.contents import Contents
from keras_sdft.encoding.contents import latent_sides
from keras_sdft.encoding.contents import stored_mask
from keras_sdft.encoding.encoders import TEXTS_AT_ONCE
from keras_sdft.encoding.encoders import Encoders
from keras_sdft.encoding.state import State
from keras_sdft.encoding.store import RowWriter
from keras_sdft.encoding.store import Store

# What a killed process loses at most.
FLUSH_SECONDS = 30.0
_THREADS = 8
# Groups of images that are decoded while one is encoded.
_GROUPS_AHEAD = 2


class _Decoded(NamedTuple):
    """An image and its mask, or its name and why it is unreadable."""

    record: int
    pixels: np.ndarray
    mask: np.ndarray | None
    unreadable: list[str] | None = None


@dataclasses.dataclass
class Filling:
    """Fills one cache, from where its state says it was left.

    Args:
        directory: String, locked.
        state: `State`, kept up to date in memory and on the disk.
        contents: `Contents`.
        encoders: `Encoders`.
        progress: Boolean, whether to show a bar.
    """

    directory: str
    state: State
    contents: Contents
    encoders: Encoders
    progress: bool

    def run(self) -> None:
        """Encodes what is missing, and marks the cache as complete."""
        contents = self.contents
        if contents.contexts:
            store = contents.captions()
            with self._bar("caption", store.rows, [{store: 1}]) as bar:
                self._fill({store: 1}, self._captions, bar)
        stores = [self._stores(bucket) for bucket in range(len(contents.sizes))]
        with self._bar("image", len(contents.used), stores) as bar:
            for bucket, part in enumerate(stores):
                groups = functools.partial(self._images, bucket)
                self._fill(part, groups, bar)
        self.state.complete = True
        self.state.write(self.directory)

    def _stores(self, bucket: int) -> dict[Store, int]:
        """The stores of a bucket, and the rows of an image in each."""
        contents = self.contents
        stores = {contents.moments(bucket): contents.per_image}
        if contents.options.masks is not None:
            stores[contents.masks(bucket)] = 1
        return stores

    def _done(self, stores: dict[Store, int]) -> int:
        """How many images or captions all the stores have."""
        rows = self.state.rows
        return min(rows.get(s.name, 0) // each for s, each in stores.items())

    def _fill(self, stores: dict[Store, int], groups: Any, bar: Any) -> None:
        """Writes stores side by side, and notes what has reached the disk.

        Args:
            stores: Dict of rows for each image or caption, by `Store`.
            groups: Function of the number that is done, which yields arrays
                of rows, one for each store.
            bar: Progress bar, moved by one for each image or caption.
        """
        done, rounding = self._done(stores), self.state.rounding
        writers = {
            store: RowWriter(self.directory, store, done * each)
            for store, each in stores.items()
        }
        since = time.monotonic()
        try:
            for parts in groups(done):
                for store, rows in zip(stores, parts, strict=True):
                    change = writers[store].write(rows)
                    most = max(change, rounding.get(store.name, 0.0))
                    rounding[store.name] = most
                count = len(rows) // stores[store]
                done += count
                bar.update(count)
                if time.monotonic() - since >= FLUSH_SECONDS:
                    self._note(writers, stores, done)
                    since = time.monotonic()
        finally:
            # Also by Ctrl-C, and as far as a full disk lets it.
            self._note(writers, stores, done)

    def _note(
        self,
        writers: dict[Store, RowWriter],
        stores: dict[Store, int],
        done: int,
    ) -> None:
        for store, writer in writers.items():
            writer.flush()
            self.state.rows[store.name] = done * stores[store]
        self.state.write(self.directory)

    def _captions(self, done: int) -> Iterator[list[np.ndarray]]:
        texts = self.contents.texts()
        for first in range(done, len(texts), TEXTS_AT_ONCE):
            part = texts[first : first + TEXTS_AT_ONCE]
            yield [self.encoders.contexts(part)]

    def _images(self, bucket: int, done: int) -> Iterator[list[np.ndarray]]:
        unreadable = self.state.unreadable
        for group in self._decoded(bucket, done):
            pixels = np.stack([picture.pixels for picture in group])
            kinds = [pixels]
            if self.contents.flips:
                kinds.append(pixels[:, :, ::-1])
            moments = [self.encoders.moments(kind) for kind in kinds]
            rows = np.stack(moments, axis=1)
            parts = [rows.reshape(-1, *rows.shape[2:])]
            if self.contents.options.masks is not None:
                parts.append(np.stack([picture.mask for picture in group]))
            for picture in group:
                # What is read again may be readable now.
                unreadable.pop(str(picture.record), None)
                if picture.unreadable is not None:
                    unreadable[str(picture.record)] = picture.unreadable
            yield parts

    def _decoded(self, bucket: int, done: int) -> Iterator[list[_Decoded]]:
        """Yields images in groups for the encoder."""
        size = self.contents.sizes[bucket]
        records = self.contents.images[bucket][done:].tolist()
        at_once = self.encoders.images_at_once(*size)
        read = functools.partial(self._read, size)
        waiting: collections.deque[Iterator[Any]] = collections.deque()
        with ThreadPoolExecutor(_THREADS) as pool:
            for first in range(0, len(records), at_once):
                group = records[first : first + at_once]
                waiting.append(pool.map(read, group))
                if len(waiting) > _GROUPS_AHEAD:
                    yield list(waiting.popleft())
            while waiting:
                yield list(waiting.popleft())

    def _read(self, size: tuple[int, int], record: int) -> _Decoded:
        kind, name = self.contents.options.masks, f"example {record}"
        try:
            example = self.contents.records[record]
            name = example.name
            pixels, mask = read_cropped(example, kind, size)
        except UnreadableImage as error:
            black = np.zeros((*size, 3), np.uint8)
            nothing = np.zeros((*latent_sides(size), 1), MASK_DTYPE)
            return _Decoded(record, black, nothing, [name, str(error)])
        return _Decoded(
            record, pixels, None if mask is None else stored_mask(mask)
        )

    def _bar(
        self, unit: str, total: int, stores: list[dict[Store, int]]
    ) -> Any:
        return tqdm(
            total=total,
            initial=sum(map(self._done, stores)),
            desc=f"encode {unit}s",
            unit=unit,
            disable=not self.progress,
        )
