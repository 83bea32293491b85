"""Filling a cache: images and captions through the encoders, into shards.

What is stored stays stored: an interrupted filling goes on behind the last
row that reached the disk. This file must not know batches or TensorFlow.
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Callable
from collections.abc import Iterator
from concurrent.futures import Future
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from typing import Protocol
from typing import TypeVar

import numpy as np

from keras_sdft.data.cache_encoders import TEXTS_AT_ONCE
from keras_sdft.data.cache_encoders import Encoders
from keras_sdft.data.cache_layout import MASK_DTYPE
from keras_sdft.data.cache_layout import Layout
from keras_sdft.data.cache_layout import latent_sides
from keras_sdft.data.cache_layout import stored_mask
from keras_sdft.data.cache_shards import RowWriter
from keras_sdft.data.cache_shards import Store
from keras_sdft.data.cache_state import write_state
from keras_sdft.data.cache_state import writing
from keras_sdft.data.examples import Records
from keras_sdft.data.images import UnreadableImage
from keras_sdft.data.images import crop_box
from keras_sdft.data.images import cut
from keras_sdft.data.images import read_rgb
from keras_sdft.data.masks import latent_mask
from keras_sdft.data.masks import read_masked

_THREADS = 8
# Decoded images that wait for the encoder, in batches of it.
_BATCHES_AHEAD = 2

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


class Bar(Protocol):
    """What this file asks of a progress bar."""

    def update(self, count: int) -> Any: ...


@dataclasses.dataclass
class Picture:
    """A decoded image; or why there is none.

    Attributes:
        pixels: uint8 array of shape `(H, W, 3)`, black if it is unreadable.
        mask: Array of `stored_mask`, or `None`.
        reason: String, why it cannot be read, or `None`.
    """

    pixels: np.ndarray
    mask: np.ndarray | None = None
    reason: str | None = None


class Filling:
    """Fills one cache, from where its state says it was left.

    Args:
        directory: String, locked.
        state: Dict, the state of the cache; it is kept up to date, in memory
            and on the disk.
        layout: `Layout`.
        encoders: `Encoders`.
        records: `Records`.
        masks: `"files"`, `"alpha"` or `None`.
    """

    def __init__(
        self,
        directory: str,
        state: dict[str, Any],
        layout: Layout,
        encoders: Encoders,
        records: Records,
        masks: str | None,
    ):
        self._directory = directory
        self._state = state
        self._layout = layout
        self._encoders = encoders
        self._records = records
        self._masks = masks

    def fill_contexts(self, texts: list[str], bar: Bar) -> None:
        """Encodes the captions that are not stored yet.

        Args:
            texts: List of strings, one for each row.
            bar: `Bar`, moved by one for each caption.
        """
        store = self._layout.contexts
        with self._writers([(store, 1)]) as writers:
            for first in range(writers.done, store.rows, TEXTS_AT_ONCE):
                part = texts[first : first + TEXTS_AT_ONCE]
                writers.add(self._encoders.contexts(part))
                bar.update(len(part))

    def fill_images(self, bucket: int, bar: Bar) -> None:
        """Encodes the images of a bucket that are not stored yet.

        Args:
            bucket: Integer.
            bar: `Bar`, moved by one for each image.
        """
        layout = self._layout
        stores = [(layout.moments(bucket), layout.per_image)]
        if layout.masks:
            # First, so that moments are never without their masks.
            stores.insert(0, (layout.mask(bucket), 1))
        size = layout.sizes[bucket]
        at_once = self._encoders.images_at_once(*size)
        with self._writers(stores) as writers:
            records = layout.images[bucket][writers.done :]
            self._forget(records)
            for batch in self._decoded(records, size, at_once):
                writers.add(*self._encoded(batch))
                bar.update(len(batch))

    def _encoded(self, batch: list[tuple[int, Picture]]) -> list[np.ndarray]:
        """Returns the masks, if there are any, and the moments."""
        pixels = np.stack([picture.pixels for _, picture in batch])
        kinds = [pixels, pixels[:, :, ::-1]] if self._layout.flips else [pixels]
        moments = [self._encoders.moments(kind) for kind in kinds]
        stacked = np.stack(moments, axis=1)
        for record, picture in batch:
            if picture.reason is not None:
                self._state["unreadable"][str(record)] = picture.reason
        result = [stacked.reshape(-1, *stacked.shape[2:])]
        if self._layout.masks:
            result.insert(0, np.stack([picture.mask for _, picture in batch]))
        return result

    def _forget(self, records: np.ndarray) -> None:
        """What will be read again may be readable now."""
        again = set(records.tolist())
        self._state["unreadable"] = {
            record: reason
            for record, reason in self._state["unreadable"].items()
            if int(record) not in again
        }

    def _writers(self, stores: list[tuple[Store, int]]) -> _Writers:
        return _Writers(self._directory, self._state, stores)

    def _decoded(
        self, records: np.ndarray, size: tuple[int, int], at_once: int
    ) -> Iterator[list[tuple[int, Picture]]]:
        def read(record: int) -> tuple[int, Picture]:
            return record, self._picture(record, size)

        batch = []
        with ThreadPoolExecutor(_THREADS) as pool:
            ahead = max(2 * _THREADS, _BATCHES_AHEAD * at_once)
            for found in in_order(pool, read, records.tolist(), ahead):
                batch.append(found)
                if len(batch) == at_once:
                    yield batch
                    batch = []
        if batch:
            yield batch

    def _picture(self, record: int, size: tuple[int, int]) -> Picture:
        example = self._records[record]
        try:
            if self._masks is None:
                image, mask = read_rgb(example.image, size), None
            else:
                image, mask = read_masked(example, self._masks, size)
        except UnreadableImage as error:
            shape = (*latent_sides(size), 1)
            return Picture(
                np.zeros((*size, 3), np.uint8),
                None if self._masks is None else np.zeros(shape, MASK_DTYPE),
                str(error),
            )
        box = crop_box(image.size, *size)
        kept = None
        if mask is not None:
            kept = stored_mask(latent_mask(mask, image.size, box, *size))
        return Picture(np.asarray(cut(image, box, *size)), kept)


class _Writers:
    """Writes stores side by side, and keeps the state with them.

    A context: what is pending is written when it ends, also by Ctrl-C.

    Attributes:
        done: Integer, images or captions that all the stores have.
    """

    def __init__(
        self,
        directory: str,
        state: dict[str, Any],
        stores: list[tuple[Store, int]],
    ):
        self._directory = directory
        self._state = state
        self._stores = [store for store, _ in stores]
        self.done = self._level(stores)
        self._writers = [
            RowWriter(directory, store, self.done * rows, self._noting(store))
            for store, rows in stores
        ]
        self._errors = [
            HalfError(self._about(store)["error"]) for store in self._stores
        ]

    def _level(self, stores: list[tuple[Store, int]]) -> int:
        """Drops what not all stores have: a process may have been killed."""
        while True:
            done = min(
                stored_rows(self._state, s) // rows for s, rows in stores
            )
            longer = [
                self._about(store)["shards"]
                for store, rows in stores
                if stored_rows(self._state, store) > done * rows
            ]
            if not longer:
                return done
            for shards in longer:
                shards.pop()

    def __enter__(self) -> _Writers:
        return self

    def add(self, *parts: np.ndarray) -> None:
        """Takes the next rows of each store, in any dtype."""
        for store, writer, error, rows in zip(
            self._stores, self._writers, self._errors, parts, strict=True
        ):
            kept = _converted(rows, store)
            if kept.dtype.kind == "f":
                error.add(rows, kept)
            writer.add(kept)
        if self._writers[-1].is_due:
            self._flush()

    def __exit__(self, kind: Any, *error: Any) -> None:
        # Where the disk refused, a second attempt would hide why.
        if kind is None or not issubclass(kind, OSError):
            self._flush()

    def _flush(self) -> None:
        with writing(self._directory):
            for writer in self._writers:
                writer.flush()

    def _about(self, store: Store) -> dict[str, Any]:
        return self._state["stores"][store.name]

    def _noting(self, store: Store) -> Callable[[int, int], None]:
        place = self._stores.index(store)

        def note(first: int, count: int) -> None:
            about = self._about(store)
            about["shards"].append([first, count])
            about["error"] = self._errors[place].values
            write_state(self._directory, self._state)

        return note


def stored_rows(state: dict[str, Any], store: Store) -> int:
    """Returns how many rows of a store the state knows of."""
    return sum(count for _, count in state["stores"][store.name]["shards"])


class HalfError:
    """What rounding to half precision has cost, measured on all rows.

    Args:
        values: List of `values`, to go on from. `None` starts anew.

    Attributes:
        values: List of floats: the largest error, the sums of the squares of
            errors and of values, and the number of values.
    """

    def __init__(self, values: list[float] | None = None):
        self.values = list(values or [0.0, 0.0, 0.0, 0])

    def add(self, before: np.ndarray, after: np.ndarray) -> None:
        """Compares rows before and after rounding."""
        error = after.astype(np.float64) - before
        largest, errors, squares, count = self.values
        self.values = [
            max(largest, float(np.abs(error).max())),
            errors + float(np.square(error).sum()),
            squares + float(np.square(before, dtype=np.float64).sum()),
            count + before.size,
        ]

    @property
    def largest(self) -> float:
        """The largest error of a single value."""
        return self.values[0]

    @property
    def relative(self) -> float:
        """The errors' root mean square over that of the values."""
        _, errors, squares, _ = self.values
        return (errors / squares) ** 0.5 if squares else 0.0


def in_order(
    pool: ThreadPoolExecutor,
    function: Callable[[_Item], _Result],
    items: list[_Item],
    ahead: int,
) -> Iterator[_Result]:
    """Yields `function(item)` in order, at most `ahead` of them early."""
    waiting: collections.deque[Future[_Result]] = collections.deque()
    try:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) >= ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()


def _converted(rows: np.ndarray, store: Store) -> np.ndarray:
    with np.errstate(over="ignore"):
        kept = rows.astype(store.dtype)
    if not np.isfinite(kept).all():
        raise ValueError(
            f"The encoders gave values for {store.name} that are not finite "
            f"in {store.dtype}. Encode with `dtype='float32'`; if that does "
            "not help, the encoders' weights are damaged."
        )
    return kept
