"""Shards: many arrays of one shape in few files, read one at a time.

A shard is a `.npy` file of rows, written whole or not at all. This file knows
bytes on disk. It must not know images, captions, encoders or TensorFlow.
"""

from __future__ import annotations

import bisect
import dataclasses
import io
import math
import os
import time
from collections.abc import Callable
from typing import Any
from typing import BinaryIO

import numpy as np

# A shard is closed when it holds so much, or when so much time has passed:
# what is still open is all that a killed process loses.
SHARD_BYTES = 64 * 2**20
SHARD_SECONDS = 60.0


@dataclasses.dataclass(frozen=True)
class Store:
    """Rows of one shape, in one folder of the cache.

    Attributes:
        name: String, the folder.
        rows: Integer, how many there are when all is stored.
        shape: Tuple of integers, of one row.
        dtype: String, NumPy's name of the dtype on disk.
    """

    name: str
    rows: int
    shape: tuple[int, ...]
    dtype: str

    @property
    def row_bytes(self) -> int:
        """Bytes of one row."""
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize

    def path(self, directory: str, first: int) -> str:
        """Path of the shard that begins with the row `first`."""
        return os.path.join(directory, self.name, f"{first:010d}.npy")

    def header(self, count: int) -> bytes:
        """What a shard of `count` rows begins with."""
        head = io.BytesIO()
        np.lib.format.write_array_header_1_0(
            head,
            {
                "descr": np.lib.format.dtype_to_descr(np.dtype(self.dtype)),
                "fortran_order": False,
                "shape": (count, *self.shape),
            },
        )
        return head.getvalue()


class Rows:
    """Reads rows of a store, from any thread.

    A file is opened for each row: files that stayed open, or mapped, would be
    thousands for a large data set, and mapped pages count as memory.

    Args:
        directory: String, the cache.
        store: `Store`.
        shards: List of `(first row, number of rows)`, in order; none of them
            damaged, see `shard_damage`.
    """

    def __init__(
        self, directory: str, store: Store, shards: list[tuple[int, int]]
    ):
        self._directory = directory
        self._store = store
        self._firsts = [first for first, _ in shards]
        self._offsets = [len(store.header(count)) for _, count in shards]

    def __getitem__(self, row: int) -> np.ndarray:
        """Returns a row, not to be written to."""
        store = self._store
        place = bisect.bisect_right(self._firsts, row) - 1
        first = self._firsts[place]
        offset = self._offsets[place] + (row - first) * store.row_bytes
        handle = os.open(store.path(self._directory, first), os.O_RDONLY)
        try:
            data = os.pread(handle, store.row_bytes, offset)
        finally:
            os.close(handle)
        return np.frombuffer(data, store.dtype).reshape(store.shape)


class RowWriter:
    """Collects the rows of a store in order, and writes them shard by shard.

    Args:
        directory: String, the cache, which exists.
        store: `Store`.
        done: Integer, rows that are stored already.
        on_shard: Function of `(first row, number of rows)`, called when a
            shard has reached the disk.
    """

    def __init__(
        self,
        directory: str,
        store: Store,
        done: int,
        on_shard: Callable[[int, int], None],
    ):
        self._directory = directory
        self._store = store
        self._first = done
        self._on_shard = on_shard
        self._pending: list[np.ndarray] = []
        self._since = time.monotonic()

    def add(self, rows: np.ndarray) -> None:
        """Takes the next rows, an array of shape `(n, *store.shape)`."""
        self._pending.append(rows)

    @property
    def is_due(self) -> bool:
        """Whether enough is pending, or for long enough, for a shard."""
        held = sum(len(part) for part in self._pending)
        full = held * self._store.row_bytes >= SHARD_BYTES
        return full or time.monotonic() - self._since >= SHARD_SECONDS

    def flush(self) -> None:
        """Writes what is pending as a shard.

        Raises:
            OSError: If it cannot be written; nothing of it is left then.
        """
        if not self._pending:
            return
        rows = np.concatenate(self._pending)
        store = self._store
        path = store.path(self._directory, self._first)
        os.makedirs(os.path.dirname(path), exist_ok=True)

        def write(file: BinaryIO) -> None:
            file.write(store.header(len(rows)))
            file.write(np.ascontiguousarray(rows).data.cast("B"))

        write_whole(path, write)
        self._on_shard(self._first, len(rows))
        self._first += len(rows)
        self._pending = []
        self._since = time.monotonic()


def write_whole(path: str, write: Callable[[Any], None]) -> None:
    """Writes a file that is there whole or not at all, and on the disk.

    Args:
        path: String; what is there is replaced.
        write: Function that writes to a binary file.

    Raises:
        OSError: If it cannot be written.
    """
    staging = f"{path}.part"
    try:
        with open(staging, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(staging, path)
    except BaseException:
        if os.path.exists(staging):
            os.unlink(staging)
        raise
    _sync_folder(os.path.dirname(path))


def _sync_folder(folder: str) -> None:
    """Makes the name of a new file as lasting as its content."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def shard_damage(
    directory: str, store: Store, first: int, count: int
) -> str | None:
    """Says in what a shard is not what was written, if it is not.

    Args:
        directory: String, the cache.
        store: `Store`.
        first: Integer, its first row.
        count: Integer, how many rows it should have.
    """
    path = store.path(directory, first)
    header = store.header(count)
    expected = len(header) + count * store.row_bytes
    try:
        size = os.path.getsize(path)
        with open(path, "rb") as file:
            begins = file.read(len(header))
    except FileNotFoundError:
        return f"it is damaged: {path} is missing"
    if size == expected and begins == header:
        return None
    return (
        f"it is damaged: {path} should hold {count} rows of {store.shape} "
        f"{store.dtype} in {expected} bytes, and has {size} bytes, or others"
    )
