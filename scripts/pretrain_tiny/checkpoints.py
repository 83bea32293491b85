"""Everything that training consists of, in one file, and back.

Must not know what the variables compute.
"""

import json
import os
import pathlib
from typing import Any

import numpy as np
from keras import ops

_NOTES = "notes"


def save(path: pathlib.Path, groups: "dict[str, list]", notes: dict) -> None:
    """Writes variables by group and place; the file is whole or absent.

    Args:
        path: Path of the `.npz` file.
        groups: Dictionary of group names to lists of `keras.Variable`.
        notes: Dictionary that JSON can hold.
    """
    arrays = {
        f"{group}/{index:04d}": _array(variable)
        for group, variables in groups.items()
        for index, variable in enumerate(variables)
    }
    arrays[_NOTES] = np.array(json.dumps(notes))
    path.parent.mkdir(parents=True, exist_ok=True)
    staging = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(staging, "wb") as file:
            np.savez(file, **arrays)
            file.flush()
            os.fsync(file.fileno())
        os.replace(staging, path)
    finally:
        staging.unlink(missing_ok=True)


def load(path: pathlib.Path, groups: "dict[str, list]") -> dict:
    """Fills variables from a file; nothing changes unless all of them fit.

    Args:
        path: Path of the `.npz` file.
        groups: As for `save`; groups not named are left out.

    Returns:
        The notes.

    Raises:
        ValueError: If the file's variables are not those of `groups`.
    """
    with np.load(path) as archive:
        notes = json.loads(str(archive[_NOTES]))
        arrays = {
            group: [
                archive[key]
                for key in sorted(archive.files)
                if key.startswith(f"{group}/")
            ]
            for group in groups
        }
    for group, variables in groups.items():
        expected = [tuple(variable.shape) for variable in variables]
        received = [array.shape for array in arrays[group]]
        if expected != received:
            raise ValueError(
                f"{path} does not fit the networks: its group {group!r} has "
                f"{len(received)} variables, {len(expected)} were expected, "
                "or shapes differ. Was it written with another spec? Give "
                "another --directory."
            )
    for group, variables in groups.items():
        for variable, array in zip(variables, arrays[group], strict=True):
            variable.assign(array)
    return notes


def read_notes(path: pathlib.Path) -> dict:
    """The notes of a file alone."""
    with np.load(path) as archive:
        return json.loads(str(archive[_NOTES]))


def _array(variable: Any) -> np.ndarray:
    return np.asarray(ops.convert_to_numpy(variable))
