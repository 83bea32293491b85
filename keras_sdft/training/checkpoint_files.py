"""Checkpoints on disk: directories that are whole or do not exist.

`state.safetensors` holds tensors, `checkpoint.json` all else with a checksum
of each file. No pickle. Must not know what a tensor means.
"""

import hashlib
import json
import math
import warnings
from collections.abc import Callable
from collections.abc import Mapping
from pathlib import Path
from typing import IO
from typing import Any

import ml_dtypes
import numpy as np

from keras_sdft.files import remove_files
from keras_sdft.files import staged_directory
from keras_sdft.formats.safetensors_files import read_header

FORMAT_VERSION = 1
RECORD = "checkpoint.json"
TENSORS = "state.safetensors"
_PREFIX = "step_"
_CHUNK = 2**24
_DTYPES = {
    "BOOL": np.dtype("?"),
    "U8": np.dtype("u1"),
    "I32": np.dtype("<i4"),
    "I64": np.dtype("<i8"),
    "U32": np.dtype("<u4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "F32": np.dtype("<f4"),
    "F64": np.dtype("<f8"),
}
_WORDS = {dtype: word for word, dtype in _DTYPES.items()}

# Shape, dtype and a function that returns the value.
Source = tuple[tuple[int, ...], np.dtype, Callable[[], np.ndarray]]


def path_of(directory: str | Path, step: int) -> Path:
    """Returns the path of the checkpoint of a step."""
    return Path(directory) / f"{_PREFIX}{step:08d}"


def write(
    path: Path, sources: Mapping[str, Source], content: Mapping[str, Any]
) -> None:
    """Writes a checkpoint, one tensor in memory at a time.

    Args:
        path: The directory; a checkpoint that is there is replaced.
        sources: Tensors by name, each as shape, dtype and a function that
            returns its value.
        content: What JSON can hold.

    Raises:
        OSError: If it cannot be written; `path` is then as it was.
    """
    with staged_directory(path, written_files) as new:
        with open(new / TENSORS, "wb") as file:
            hashed = _HashedFile(file)
            _write_tensors(hashed, sources)
        files = {TENSORS: {"bytes": hashed.size, "sha256": hashed.digest}}
        text = json.dumps({**content, "files": files})
        record = {
            "keras_sdft_checkpoint": FORMAT_VERSION,
            "sha256": hashlib.sha256(text.encode("utf-8")).hexdigest(),
            "content": text,
        }
        (new / RECORD).write_text(json.dumps(record), encoding="utf-8")


class _HashedFile:
    """Counts and hashes what is written."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._hash = hashlib.sha256()
        self.size = 0

    def write(self, data: Any) -> None:
        # In pieces, so that other threads run in between.
        view = memoryview(data).cast("B")
        for first in range(0, len(view), _CHUNK):
            piece = view[first : first + _CHUNK]
            self._file.write(piece)
            self._hash.update(piece)
        self.size += len(view)

    @property
    def digest(self) -> str:
        return self._hash.hexdigest()


def _write_tensors(file: _HashedFile, sources: Mapping[str, Source]) -> None:
    table: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    position = 0
    for name, (shape, dtype, _) in sources.items():
        size = math.prod(shape) * dtype.itemsize
        table[name] = {
            "dtype": _WORDS[dtype],
            "shape": list(shape),
            "data_offsets": [position, position + size],
        }
        position += size
    text = json.dumps(table, separators=(",", ":")).encode("utf-8")
    text += b" " * (-len(text) % 8)
    file.write(len(text).to_bytes(8, "little") + text)
    for _, dtype, read in sources.values():
        value = np.ascontiguousarray(read(), dtype)
        if value.size:
            file.write(value.reshape(-1).view("u1"))


def written_files(directory: Path) -> list[str]:
    """Returns the files of a checkpoint, the one that lists them last."""
    if _parsed(directory / RECORD) is None:
        return []
    return [TENSORS, RECORD]


def _parsed(path: Path) -> dict[str, Any] | None:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    ours = isinstance(record, dict) and "keras_sdft_checkpoint" in record
    return record if ours else None


def read_content(path: Path) -> dict[str, Any]:
    """Returns what a checkpoint's JSON says.

    Args:
        path: The directory.

    Raises:
        ValueError: If it is no checkpoint, or damaged.
    """
    record = _parsed(path / RECORD)
    if record is None:
        raise ValueError(f"{str(path)!r} is no checkpoint: no {RECORD!r}.")
    version = record["keras_sdft_checkpoint"]
    if version != FORMAT_VERSION:
        raise ValueError(
            f"The checkpoint {str(path)!r} has format version {version}. "
            f"Expected {FORMAT_VERSION}."
        )
    text = str(record.get("content"))
    # A lone surrogate of a damaged file has no bytes in UTF-8.
    data = text.encode("utf-8", "replace")
    if hashlib.sha256(data).hexdigest() != record.get("sha256"):
        raise ValueError(
            f"The checkpoint {str(path)!r} is damaged: {RECORD!r} has another "
            "checksum than it was written with."
        )
    return json.loads(text)


def check_whole(path: Path) -> dict[str, Any]:
    """Returns the content of a checkpoint whose files are all as written.

    Raises:
        ValueError: If it is no checkpoint, or damaged.
    """
    content = read_content(path)
    for name, expected in content["files"].items():
        file = path / name
        size = file.stat().st_size if file.is_file() else -1
        same = size == expected["bytes"] and _sha256(file) == expected["sha256"]
        if not same:
            raise ValueError(
                f"The checkpoint {str(path)!r} is damaged: {name!r} has "
                f"{max(size, 0):,} of {expected['bytes']:,} bytes, or another "
                "checksum than it was written with."
            )
    return content


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_tensors(path: Path) -> dict[str, np.ndarray]:
    """Returns the tensors of a checkpoint, mapped and not yet read."""
    file = path / TENSORS
    result = {}
    for name, (word, shape, first, last) in read_header(file).tensors.items():
        dtype = _DTYPES[word]
        if first == last:
            result[name] = np.zeros(shape, dtype)
        else:
            result[name] = np.memmap(file, dtype, "r", first, shape)
    return result


def find_all(directory: str | Path) -> list[Path]:
    """Returns the checkpoints in a directory, the newest first."""
    found = {
        int(path.name.removeprefix(_PREFIX)): path
        for path in Path(directory).glob(f"{_PREFIX}*")
        if path.name.removeprefix(_PREFIX).isdecimal()
        and (path / RECORD).is_file()
    }
    return [found[step] for step in sorted(found, reverse=True)]


def find_newest(directory: str | Path) -> tuple[Path, dict[str, Any]] | None:
    """Finds the newest whole checkpoint; damaged ones are told and skipped.

    Args:
        directory: Path of the directory of checkpoints.

    Returns:
        Its path and content, or `None` if there is none.
    """
    for path in find_all(directory):
        try:
            return path, check_whole(path)
        except ValueError as error:
            warnings.warn(f"{error} It is skipped.", stacklevel=2)
    return None


def remove_all_but(directory: str | Path, keep: int) -> None:
    """Removes the older checkpoints of a directory.

    Args:
        directory: Path of the directory of checkpoints.
        keep: Integer >= 1, how many of the newest stay.
    """
    for path in find_all(directory)[keep:]:
        # Without its record it is no checkpoint, should this be cut short.
        remove_files(path, [RECORD, TENSORS])
