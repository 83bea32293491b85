"""Weights that ship inside the package: half precision, with checksums.

One `.safetensors` file for each network, its tensors in the order of the
network's weights, and a `weights.json` with the files' SHA-256. Must not
know how the weights came to be.
"""

import hashlib
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors import safe_open
from safetensors.numpy import load
from safetensors.numpy import save_file

CHECKSUMS = "weights.json"
_DTYPES = {"F16": "float16", "F32": "float32"}


def file_of(directory: str | Path, part: str) -> Path:
    """Returns the path of a part's weights."""
    return Path(directory) / f"{part}.safetensors"


def parts(directory: str | Path) -> list[str]:
    """Returns the parts that a directory holds.

    Raises:
        ValueError: If the checksums are damaged or missing.
    """
    return list(_checksums(Path(directory) / CHECKSUMS))


def write(
    directory: str | Path,
    networks: dict[str, Any],
    dtype: str = "float16",
    notes: dict[str, Any] | None = None,
) -> Path:
    """Writes networks' weights and their checksums.

    Args:
        directory: Path, made when missing.
        networks: Dict of built `keras.Model` by part.
        dtype: Name of the dtype on disk.
        notes: Dict that JSON can hold, kept beside the checksums.

    Returns:
        The path of `weights.json`, which is written last.

    Raises:
        ValueError: If a weight is not finite in `dtype`.
    """
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    checksums = directory / CHECKSUMS
    # Without it the directory counts as empty until all is written.
    checksums.unlink(missing_ok=True)
    for part, network in networks.items():
        tensors = {
            name: _converted(name, variable, dtype)
            for name, variable in _named(network)
        }
        save_file(tensors, file_of(directory, part))
        # safetensors lets the owner alone read.
        file_of(directory, part).chmod(0o644)
    digests = {part: _digest(file_of(directory, part)) for part in networks}
    content = {**(notes or {}), "dtype": dtype, "sha256": digests}
    text = json.dumps(content, indent=2) + "\n"
    checksums.write_text(text, encoding="utf-8")
    return checksums


def read(directory: str | Path, part: str, network: Any) -> None:
    """Fills a network with its packaged weights.

    Args:
        directory: Path that `write` wrote.
        part: String, a key of the `networks` written.
        network: A built `keras.Model` of the same spec.

    Raises:
        ValueError: If the file is damaged or of another spec.
        FileNotFoundError: If there is none.
    """
    path = file_of(directory, part)
    data = _checked_bytes(directory, part, path)
    try:
        tensors = load(data)
    except SafetensorError as error:
        raise _damaged(path, str(error)) from error
    expected = {name: tuple(v.shape) for name, v in _named(network)}
    received = {name: array.shape for name, array in tensors.items()}
    if expected != received:
        differing = sorted(expected.items() ^ received.items())
        raise ValueError(
            f"{str(path)!r} holds the weights of another spec. Expected "
            f"{len(expected)} tensors, received {len(received)}. The first "
            f"that differ: {differing[:4]}."
        )
    for name, variable in _named(network):
        variable.assign(tensors[name].astype("float32"))


def describe(directory: str | Path, part: str) -> dict[str, Any]:
    """Returns the file of a part, its number of weights and their dtype.

    Reads no weight.

    Raises:
        ValueError: If the file is damaged.
        FileNotFoundError: If there is none.
    """
    path = file_of(directory, part)
    if not path.is_file():
        raise _missing(path)
    try:
        with safe_open(path, "numpy") as file:
            tensors = [file.get_slice(name) for name in file.keys()]
            shapes = [tensor.get_shape() for tensor in tensors]
            dtypes = {tensor.get_dtype() for tensor in tensors}
    except SafetensorError as error:
        raise _damaged(path, str(error)) from error
    return {
        "file": path.name,
        "parameters": sum(math.prod(shape) for shape in shapes),
        "dtype": ", ".join(sorted(_DTYPES.get(d, d) for d in dtypes)),
    }


def _named(network: Any) -> list[tuple[str, Any]]:
    # A layer's own name holds a counter that depends on what was built
    # before it; the place does not.
    return [
        (f"{index:04d}.{variable.name}", variable)
        for index, variable in enumerate(network.weights)
    ]


def _converted(name: str, variable: Any, dtype: str) -> np.ndarray:
    # `describe` waits for Keras nowhere.
    from keras import ops

    values = np.asarray(ops.convert_to_numpy(variable), "float32")
    with np.errstate(over="ignore"):
        values = values.astype(dtype)
    if not np.isfinite(values).all():
        raise ValueError(
            f"The weight {name!r} has values that are not finite in {dtype}."
        )
    return np.ascontiguousarray(values)


def checksum(directory: str | Path, part: str) -> str:
    """Returns the SHA-256 of a part's weights, as they were written.

    Raises:
        ValueError: If the checksums are damaged or lack the part.
    """
    checksums = Path(directory) / CHECKSUMS
    digests = _checksums(checksums)
    if part not in digests:
        raise _damaged(checksums, f"it lacks the checksum of {part!r}")
    return digests[part]


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _checked_bytes(directory: str | Path, part: str, path: Path) -> bytes:
    if not path.is_file():
        raise _missing(path)
    expected = checksum(directory, part)
    # Read once: what is checked is what is loaded.
    data = path.read_bytes()
    received = hashlib.sha256(data).hexdigest()
    if received != expected:
        raise _damaged(path, f"its SHA-256 is {received}, not {expected}")
    return data


def _checksums(path: Path) -> dict[str, str]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return dict(content["sha256"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _damaged(path, repr(error)) from error


def _missing(path: Path) -> FileNotFoundError:
    return FileNotFoundError(
        f"There is no {str(path)!r}. Install the package again."
    )


def _damaged(path: Path, why: str) -> ValueError:
    return ValueError(
        f"The packaged file {str(path)!r} is damaged: {why}. Install the "
        "package again."
    )
