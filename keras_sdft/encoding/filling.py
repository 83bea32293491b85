"""Filling a cache: images and captions through the encoders, into its stores.

What has reached the disk stays: an interrupted filling goes on behind it. This
file must not know batches or TensorFlow.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import time
from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from tqdm import tqdm

from keras_sdft.data.masks import read_cropped
from keras_sdft.data.unreadable import THREADS
from keras_sdft.data.unreadable import Attempt
from keras_sdft.data.unreadable import attempt
from keras_sdft.encoding.contents import stored_mask
from keras_sdft.encoding.encoders import TEXTS_AT_ONCE
from keras_sdft.encoding.state import State
from keras_sdft.encoding.store import RowWriter
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
        texts = self.cache.contents.caption_stores()
        captions = [(texts, self._captions)] if texts else []
        images = [
            (stores, functools.partial(self._images, bucket))
            for bucket, stores in enumerate(self.cache.contents.image_stores())
        ]
        for unit, parts in (("caption", captions), ("image", images)):
            stores = [stores for stores, _ in parts]
            with tqdm(
                total=sum(map(_count, stores)),
                initial=sum(map(self._done, stores)),
                desc=f"encode {unit}s",
                unit=unit,
                disable=not self.cache.progress or not parts,
            ) as bar:
                for part, groups in parts:
                    self._fill(part, groups, bar)
        self.state.complete = True
        self.state.write(self.cache.directory)

    def _done(self, stores: dict[Store, int]) -> int:
        """Returns how many images or captions all the stores have."""
        rows = self.state.rows
        return min(rows.get(s.name, 0) // each for s, each in stores.items())

    def _fill(
        self,
        stores: dict[Store, int],
        groups: Callable[[int], Iterable[list[np.ndarray]]],
        bar: Any,
    ) -> None:
        """Writes stores side by side, and notes what has reached the disk.

        Args:
            stores: Dict of rows for each image or caption, by `Store`.
            groups: Function of the number that is done, which yields arrays
                of rows, one for each store.
            bar: Progress bar, moved by one for each image or caption.
        """
        done = self._done(stores)
        writers = [
            RowWriter(self.cache.directory, store, done * each)
            for store, each in stores.items()
        ]
        since = time.monotonic()
        try:
            for parts in groups(done):
                for writer, rows in zip(writers, parts, strict=True):
                    writer.write(rows)
                # The last store has one row for each, or is the only one.
                bar.update(len(rows) // list(stores.values())[-1])
                if time.monotonic() - since >= FLUSH_SECONDS:
                    self._note(writers)
                    since = time.monotonic()
        finally:
            # Also by Ctrl-C, and as far as a full disk lets it.
            self._note(writers)

    def _note(self, writers: list[RowWriter]) -> None:
        for writer in writers:
            writer.flush()
            self.state.rows[writer.store.name] = writer.done
        self.state.write(self.cache.directory)

    def _captions(self, done: int) -> Iterator[list[np.ndarray]]:
        texts = self.cache.contents.texts()
        for first in range(done, len(texts), TEXTS_AT_ONCE):
            part = texts[first : first + TEXTS_AT_ONCE]
            yield [self.cache.encoders.contexts(part)]

    def _images(self, bucket: int, done: int) -> Iterator[list[np.ndarray]]:
        contents, unreadable = self.cache.contents, self.state.unreadable
        size = contents.sizes[bucket]
        nothing = (np.zeros((*size, 3), np.uint8), None)
        *_, last = contents.image_stores()[bucket]
        for group in self._decoded(size, contents.images[bucket][done:]):
            seen = []
            for record, (name, found, reason) in group:
                # What is read again may be readable now.
                unreadable.pop(str(record), None)
                if reason:
                    unreadable[str(record)] = [name, reason]
                seen.append(found or nothing)
            pixels = np.stack([pixels for pixels, _ in seen])
            kinds = [pixels, pixels[:, :, ::-1]][: contents.per_image]
            moments = [self.cache.encoders.moments(kind) for kind in kinds]
            rows = np.stack(moments, axis=1)
            parts = [rows.reshape(-1, *rows.shape[2:])]
            if contents.options.masks is not None:
                blank = np.zeros(last.shape, np.float32)
                masks = [blank if mask is None else mask for _, mask in seen]
                parts.append(stored_mask(np.stack(masks)))
            yield parts

    def _decoded(
        self, size: tuple[int, int], records: np.ndarray
    ) -> Iterator[list[tuple[int, Attempt]]]:
        """Yields images and masks in groups for the encoder."""
        at_once = self.cache.encoders.images_at_once(*size)
        kind = self.cache.contents.options.masks

        def read(record: int) -> tuple[int, Attempt]:
            return record, attempt(
                self.cache.contents.records,
                record,
                lambda example: read_cropped(example, kind, size),
            )

        waiting: collections.deque[Iterator] = collections.deque()
        with ThreadPoolExecutor(THREADS) as pool:
            for first in range(0, len(records), at_once):
                group = records[first : first + at_once].tolist()
                waiting.append(pool.map(read, group))
                if len(waiting) > _GROUPS_AHEAD:
                    yield list(waiting.popleft())
            while waiting:
                yield list(waiting.popleft())


def _count(stores: dict[Store, int]) -> int:
    store, each = next(iter(stores.items()))
    return store.rows // each
