"""Safetensors files: a header that is not trusted, tensors one at a time.

Nothing is allocated by a number from the file before that number has been
held against the file's own size. Must not know what tensors mean.
"""

import dataclasses
import functools
import json
from collections.abc import Callable
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from keras_sdft.files import atomic_file
from keras_sdft.models.weight_files import check_finite
from keras_sdft.parsing import MAX_JSON_BYTES
from keras_sdft.parsing import DamagedFile
from keras_sdft.parsing import parse_json

_SIZES = {
    "BOOL": 1,
    "U8": 1,
    "I8": 1,
    "F8_E4M3": 1,
    "F8_E5M2": 1,
    "U16": 2,
    "I16": 2,
    "F16": 2,
    "BF16": 2,
    "U32": 4,
    "I32": 4,
    "F32": 4,
    "U64": 8,
    "I64": 8,
    "F64": 8,
}
_FLOATS = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn),
    "F8_E5M2": np.dtype(ml_dtypes.float8_e5m2),
}
# Our names of the dtypes that can be read, by the format's.
NAMES = {word: str(dtype) for word, dtype in _FLOATS.items()}
DTYPES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}


@dataclasses.dataclass(frozen=True)
class Tensor:
    """A weight that is not in memory yet.

    Attributes:
        shape: Its shape.
        dtype: Its dtype in the file, in the format's words (`"F32"`).
        read: Function without arguments that returns it as a float32
            array.
    """

    shape: tuple[int, ...]
    dtype: str
    read: Callable[[], np.ndarray]


@dataclasses.dataclass(frozen=True)
class Header:
    """The header of a file.

    Attributes:
        metadata: Dict of strings.
        tensors: Dict by name of `(dtype, shape, first byte, last byte)`,
            bytes counted from the file's start.
    """

    metadata: dict[str, str]
    tensors: dict[str, tuple[str, tuple[int, ...], int, int]]


def read_header(path: str | Path) -> Header:
    """Reads and checks the header of a safetensors file.

    Args:
        path: The file.

    Returns:
        A `Header`.

    Raises:
        ValueError: If the file is truncated, or is no safetensors file.
    """
    path = Path(path)
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or not length:
            raise _damaged(path, "it does not begin with a header's length")
        if length > size - 8:
            raise _damaged(
                path, f"its header has {length} bytes, the file {size}"
            )
        if length > MAX_JSON_BYTES:
            raise _damaged(
                path,
                f"its header has {length:,} bytes, beyond the budget of "
                f"{MAX_JSON_BYTES:,}",
            )
        text = file.read(length)
    table = parse_json(text, path, "safetensors header")
    if not isinstance(table, dict):
        raise _damaged(path, "its header is no JSON object")
    metadata = table.pop("__metadata__", {})
    if not _is_text(metadata):
        raise _damaged(path, "its metadata is no table of strings")
    tensors = {
        name: _entry(path, name, entry, 8 + length)
        for name, entry in table.items()
    }
    _check_bytes(path, tensors, 8 + length, size)
    return Header(metadata, tensors)


def _damaged(path: Path, reason: str) -> ValueError:
    return DamagedFile(
        f"{str(path)!r} is damaged, truncated or no safetensors file: "
        f"{reason}. Fetch or write it again."
    )


def _is_text(metadata: Any) -> bool:
    return isinstance(metadata, dict) and all(
        isinstance(value, str) for value in metadata.values()
    )


def _entry(
    path: Path, name: str, entry: Any, start: int
) -> tuple[str, tuple[int, ...], int, int]:
    """Checks one tensor's entry; its numbers are still the file's word."""
    try:
        dtype, shape = entry["dtype"], entry["shape"]
        first, last = entry["data_offsets"]
        numbers = [*shape, first, last]
    except (KeyError, TypeError, ValueError) as error:
        raise _damaged(path, f"the entry of {name!r} is incomplete") from error
    if not all(type(n) is int and 0 <= n < 2**63 for n in numbers):
        raise _damaged(path, f"the entry of {name!r} has strange numbers")
    if not isinstance(dtype, str) or dtype not in _SIZES or len(shape) > 16:
        raise _damaged(path, f"the entry of {name!r} has dtype {dtype!r}")
    size = _SIZES[dtype]
    for side in shape:
        size *= side
    if last - first != size:
        raise _damaged(
            path,
            f"{name!r} of shape {shape} and dtype {dtype} needs {size} "
            f"bytes and has {last - first}",
        )
    return dtype, tuple(shape), start + first, start + last


def _check_bytes(path: Path, tensors: Any, start: int, size: int) -> None:
    """Refuses gaps and overlaps between the tensors, and after them."""
    position = start
    for name, (_, _, first, last) in sorted(
        tensors.items(), key=lambda item: item[1][2:]
    ):
        if first != position:
            raise _damaged(path, f"there is a gap or overlap before {name!r}")
        position = last
    if position != size:
        raise _damaged(
            path, f"its header describes {position} bytes, the file has {size}"
        )


def open_tensors(path: str | Path) -> dict[str, Tensor]:
    """Opens the tensors of a file, none of them read yet.

    Args:
        path: The file.

    Returns:
        A dict of `Tensor` by name.

    Raises:
        ValueError: As `read_header`.
    """
    path = Path(path)
    return {
        name: Tensor(shape, dtype, _reader(path, name, dtype, shape, first))
        for name, (dtype, shape, first, _) in read_header(path).tensors.items()
    }


def _reader(
    path: Path, name: str, dtype: str, shape: tuple[int, ...], first: int
) -> Callable[[], np.ndarray]:
    def read() -> np.ndarray:
        if dtype not in _FLOATS:
            raise ValueError(
                f"The weight {name!r} in {str(path)!r} is stored as {dtype}. "
                f"Expected one of {sorted(_FLOATS)}."
            )
        if not np.prod(shape):
            return np.zeros(shape, "float32")
        # Mapped for this tensor alone, so that what has been read does not
        # stay resident.
        mapped = np.memmap(path, _FLOATS[dtype], "r", first, shape)
        array = np.array(mapped, dtype="float32")
        check_finite(path, name, array)
        return array

    return read


def tensors_of(arrays: Mapping[str, np.ndarray]) -> dict[str, Tensor]:
    """Returns arrays as tensors for `write`.

    Args:
        arrays: Dict of float32 arrays by name.
    """
    return {
        name: Tensor(array.shape, "F32", functools.partial(np.asarray, array))
        for name, array in arrays.items()
    }


def write(
    path: str | Path,
    tensors: Mapping[str, Tensor],
    dtype: str = "float32",
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Writes a file, one tensor in memory at a time.

    It is written beside `path` and renamed, so that it is whole or absent.

    Args:
        path: The file, replaced if it exists.
        tensors: Dict of `Tensor` by name.
        dtype: `"float32"`, `"float16"` or `"bfloat16"`.
        metadata: Dict of strings for the header.

    Raises:
        ValueError: If a value does not fit into `dtype`.
    """
    names = sorted(tensors)
    with atomic_file(path) as file:
        file.write(_header(names, tensors, dtype, metadata or {}))
        for name in names:
            array = _cast(name, tensors[name].read(), dtype)
            file.write(np.ascontiguousarray(array).tobytes())


def _header(
    names: list[str],
    tensors: Mapping[str, Tensor],
    dtype: str,
    metadata: Mapping[str, str],
) -> bytes:
    word = DTYPES[dtype]
    # The field's loaders ask for "format" before they look at anything.
    table: dict[str, Any] = {"__metadata__": {"format": "pt", **metadata}}
    position = 0
    for name in names:
        shape = tensors[name].shape
        size = _SIZES[word]
        for side in shape:
            size *= side
        table[name] = {
            "dtype": word,
            "shape": list(shape),
            "data_offsets": [position, position + size],
        }
        position += size
    text = json.dumps(table, separators=(",", ":")).encode("utf-8")
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _cast(name: str, array: np.ndarray, dtype: str) -> np.ndarray:
    array = np.asarray(array, dtype="<f4")
    if dtype == "float32":
        return array
    if dtype == "bfloat16":
        return array.astype(ml_dtypes.bfloat16)
    with np.errstate(over="ignore"):
        half = array.astype("<f2")
    if not np.isfinite(half).all() and np.isfinite(array).all():
        raise ValueError(
            f"The weight {name!r} has values beyond float16 (largest: "
            f"{abs(array).max():.4g}). Use dtype 'bfloat16' or 'float32'."
        )
    return half
