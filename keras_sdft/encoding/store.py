"""Stores: rows of one shape in one file, at known places, with checksums.

This file must not know images, captions, encoders or TensorFlow.
"""

from __future__ import annotations

import dataclasses
import os
import weakref
import zlib

import numpy as np

_CHECKSUM_BYTES = 4


@dataclasses.dataclass(frozen=True)
class Store:
    """Rows of one shape in one file, each with its checksum behind it.

    `numpy.fromfile(path, store.row)["values"]` reads them all.

    Attributes:
        name: String, the file's name without its ending.
        rows: Integer, how many there are when all is stored.
        shape: Tuple of integers, of one row.
        dtype: String, NumPy's name of the dtype on the disk.
    """

    name: str
    rows: int
    shape: tuple[int, ...]
    dtype: str

    @property
    def row(self) -> np.dtype:
        """The dtype of a row on the disk."""
        return np.dtype(
            [("values", self.dtype, self.shape), ("checksum", "<u4")]
        )

    def path(self, directory: str) -> str:
        """Returns the path of the file in a cache's directory."""
        return os.path.join(directory, f"{self.name}.rows")


class Rows:
    """Reads the first `done` rows of a store, from any thread.

    Each row is read with one call rather than mapped into memory: mapped pages
    count as memory, and a file that is cut would end the process.

    Raises:
        ValueError: If the file is missing or too short.
    """

    def __init__(self, directory: str, store: Store, done: int):
        self._path = store.path(directory)
        self._store = store
        self._bytes = store.row.itemsize
        try:
            self._handle = os.open(self._path, os.O_RDONLY)
        except FileNotFoundError:
            raise ValueError(f"{self._path} is missing") from None
        weakref.finalize(self, os.close, self._handle)
        size, expected = os.fstat(self._handle).st_size, done * self._bytes
        if size < expected:
            raise ValueError(f"{self._path} has {size} bytes of {expected}")

    def __getitem__(self, row: int) -> np.ndarray:
        """Returns a row, not to be written to.

        Raises:
            ValueError: If it is not what was written.
        """
        data = os.pread(self._handle, self._bytes, row * self._bytes)
        values = memoryview(data)[:-_CHECKSUM_BYTES]
        checksum = int.from_bytes(data[-_CHECKSUM_BYTES:], "little")
        if len(data) < self._bytes or _checksum(values, row) != checksum:
            raise ValueError(
                f"{self._path}: row {row} of {self._store.rows} is damaged: "
                "it is not what was written. Check the disk, remove this file "
                "and encode again."
            )
        store = self._store
        return np.frombuffer(values, store.dtype).reshape(store.shape)


class RowWriter:
    """Writes rows of a store behind the first `done`, which it has."""

    def __init__(self, directory: str, store: Store, done: int):
        path = store.path(directory)
        if not done and os.path.exists(path):
            # A process that reads a cache which is replaced keeps its file.
            os.unlink(path)
        self.store = store
        self.done = done
        self._handle = os.open(path, os.O_WRONLY | os.O_CREAT, 0o666)
        weakref.finalize(self, os.close, self._handle)

    def write(self, values: np.ndarray) -> None:
        """Writes `(n, *store.shape)` rows; `flush` brings them to the disk.

        Raises:
            ValueError: If the store's dtype does not hold a value.
        """
        rows = np.empty(len(values), self.store.row)
        with np.errstate(over="ignore"):
            rows["values"] = values
        if not np.isfinite(rows["values"]).all():
            raise ValueError(
                f"The encoders gave values for {self.store.name} that are "
                f"not finite in {self.store.dtype}. Encode with "
                "`dtype='float32'`; if that does not help, the encoders' "
                "weights are damaged."
            )
        for number, row in enumerate(rows, self.done):
            row["checksum"] = _checksum(row["values"].tobytes(), number)
        content = memoryview(rows.tobytes())
        offset = self.done * rows.itemsize
        while content:
            # A disk that is nearly full takes a part first.
            written = os.pwrite(self._handle, content, offset)
            content, offset = content[written:], offset + written
        self.done += len(values)

    def flush(self) -> None:
        """Waits until all that was written is on the disk."""
        os.fsync(self._handle)


def _checksum(content: bytes | memoryview, row: int) -> int:
    # Begun with its number, so that a row in another's place is found too.
    return zlib.crc32(content, row)
