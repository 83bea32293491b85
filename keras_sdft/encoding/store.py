"""A cache on the disk: its state, and files of rows with checksums.

The state is one JSON file, replaced as a whole whenever rows have reached the
disk. This file must not know images, captions, encoders or TensorFlow.
"""

import dataclasses
import json
import os
import weakref
import zlib
from typing import Any

import numpy as np

from keras_sdft import files
from keras_sdft import parsing

FORMAT = 4
STATE = "cache.json"
LOCK = "lock"
# The cache of validation data, where the command keeps it.
VALIDATION = "validation"

_CHECKSUM_BYTES = 4


@dataclasses.dataclass
class State:
    """What a cache holds.

    Attributes:
        fingerprint: Dict, what it was made from.
        rows: Dict, how many rows of each store are on the disk.
        unreadable: Dict, an image's name and why it cannot be read, by record.
    """

    fingerprint: dict[str, Any]
    dtype: str = ""
    flips: bool = False
    contexts: bool = False
    complete: bool = False
    rows: dict[str, int] = dataclasses.field(default_factory=dict)
    unreadable: dict[str, list[str]] = dataclasses.field(default_factory=dict)
    format: int = FORMAT

    def write(self, directory: str) -> None:
        """Replaces the state on the disk."""
        state = dataclasses.asdict(self)
        whole = {"keras_sdft_cache": state, "checksum": _state_checksum(state)}
        text = json.dumps(whole, indent=1) + "\n"
        files.write_text(os.path.join(directory, STATE), text)


def read_state(directory: str) -> State | None:
    """Returns the state of a cache; `None` if there is none.

    Raises:
        OSError: If the directory is a file, or holds something else.
        ValueError: If the state is damaged.
    """
    if not os.path.lexists(directory):
        return None
    if not os.path.isdir(directory):
        raise NotADirectoryError(
            "A cache needs a directory of its own. Received a file: "
            f"{directory!r}."
        )
    path = os.path.join(directory, STATE)
    if os.path.isfile(path):
        with parsing.reading(path, "state of a cache"):
            whole = parsing.read_json(path)
            state = whole["keras_sdft_cache"]
            if _state_checksum(state) != whole["checksum"]:
                raise ValueError("it is not what was written")
            if state["format"] != FORMAT:
                return State({}, format=state["format"])
            return State(**state)
    # What a killed process leaves of its first write begins with a dot.
    found = sorted(
        name
        for name in os.listdir(directory)
        if name not in (LOCK, VALIDATION) and not name.startswith(f".{STATE}.")
    )
    if found:
        raise FileExistsError(
            f"{directory!r} is not empty and holds no cache of keras_sdft, so "
            f"nothing is written into it. It holds: {found[:5]}. Name "
            "another directory."
        )
    return None


def _state_checksum(state: Any) -> int:
    return zlib.crc32(json.dumps(state).encode())


@dataclasses.dataclass(frozen=True)
class Store:
    """Rows of the same fields in one file, each with its checksum behind it.

    `numpy.fromfile(path, store.row)` reads them all.

    Attributes:
        name: String, the file's name without its ending.
        rows: Integer, how many there are when all is stored.
        fields: Tuple of `(name, dtype, shape)`, as NumPy's dtypes take them.
    """

    name: str
    rows: int
    fields: tuple[tuple[str, str, tuple[int, ...]], ...]

    @property
    def row(self) -> np.dtype:
        """The dtype of a row on the disk."""
        return np.dtype([*self.fields, ("checksum", "<u4")])

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
        self._rows, self._row = store.rows, store.row
        try:
            self._handle = os.open(self._path, os.O_RDONLY)
        except FileNotFoundError:
            raise ValueError(f"{self._path} is missing") from None
        weakref.finalize(self, os.close, self._handle)
        size = os.fstat(self._handle).st_size
        expected = done * self._row.itemsize
        if size < expected:
            raise ValueError(f"{self._path} has {size} bytes of {expected}")

    def __getitem__(self, row: int) -> np.void:
        """Returns the fields of a row by name, not to be written to.

        Raises:
            ValueError: If it is not what was written.
        """
        size = self._row.itemsize
        data = os.pread(self._handle, size, row * size)
        if len(data) == size:
            (found,) = np.frombuffer(data, self._row)
            if found["checksum"] == _checksum(data, row):
                return found
        raise ValueError(
            f"{self._path}: row {row} of {self._rows} is damaged: it is not "
            "what was written. Check the disk, remove this file and encode "
            "again."
        )


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

    def write(self, fields: dict[str, np.ndarray]) -> int:
        """Writes arrays of rows, by field, and returns how many rows.

        `flush` brings them to the disk.

        Raises:
            ValueError: If a field's dtype does not hold a value.
        """
        count = len(next(iter(fields.values())))
        rows = np.empty(count, self.store.row)
        for name, values in fields.items():
            with np.errstate(over="ignore"):
                rows[name] = values
            if not np.isfinite(rows[name]).all():
                raise ValueError(
                    f"The encoders gave {name} that are not finite in "
                    f"{rows[name].dtype}. Encode with `dtype='float32'`; if "
                    "that does not help, the encoders' weights are damaged."
                )
        for number in range(count):
            content = rows[number].tobytes()
            rows["checksum"][number] = _checksum(content, self.done + number)
        content = memoryview(rows.tobytes())
        offset = self.done * rows.itemsize
        while content:
            # A disk that is nearly full takes a part first.
            written = os.pwrite(self._handle, content, offset)
            content, offset = content[written:], offset + written
        self.done += count
        return count

    def flush(self) -> None:
        """Waits until all that was written is on the disk."""
        os.fsync(self._handle)


def _checksum(row: bytes, number: int) -> int:
    # Begun with its number, so that a row in another's place is found too.
    return zlib.crc32(memoryview(row)[:-_CHECKSUM_BYTES], number)
