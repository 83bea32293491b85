"""Keras' HDF5 weight files: what is in one, and putting it into a network.

Must not know which network a file should belong to.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import h5py


def weight_shapes(path: Path) -> dict[str, tuple[tuple[int, ...], str]]:
    """Shape and dtype of every weight in a Keras HDF5 file, by its key.

    The optimizer's variables are left out.

    Raises:
        ValueError: If it is no HDF5 file.
    """
    found: dict[str, tuple[tuple[int, ...], str]] = {}

    def visit(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset) and not name.startswith("optimizer"):
            found[name] = (tuple(item.shape), str(item.dtype))

    try:
        with h5py.File(path, "r") as file:
            file.visititems(visit)
    except (OSError, RuntimeError) as error:
        raise ValueError(
            f"{str(path)!r} is no readable weight file. Expected a Keras "
            "`.weights.h5` or `.h5` file."
        ) from error
    return found


def load_weights(network: Any, path: str | Path) -> None:
    """Reads a network's weights, and says in which way they do not fit.

    Args:
        network: A built `keras.Model`.
        path: A `.weights.h5` file, or an `.h5` file in Keras 2's layout.

    Raises:
        ValueError: If it is damaged, or holds another network's weights.
    """
    shapes = Counter(shape for shape, _ in weight_shapes(Path(path)).values())
    wanted = Counter(tuple(weight.shape) for weight in network.weights)
    try:
        # Keras may leave what it does not find as it was, with a warning.
        if wanted - shapes:
            raise ValueError("Weights are missing.")
        network.load_weights(path)
    except (ValueError, OSError, KeyError, RuntimeError) as error:
        raise ValueError(
            f"The weights in {str(path)!r} do not fit the network "
            f"{network.name!r}, which has {wanted.total()}; the file has "
            f"{shapes.total()}. Of these shapes there are too few: "
            f"{_listing(wanted - shapes)}; too many: "
            f"{_listing(shapes - wanted)}."
        ) from error


def _listing(shapes: Counter) -> str:
    names = [str(shape) for shape in shapes.elements()]
    if not names:
        return "none"
    more = ", ..." if len(names) > 5 else ""
    return f"{len(names)} ({', '.join(names[:5])}{more})"
