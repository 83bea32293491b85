"""Keras' HDF5 weight files: what is in one, and reading it into a network.

Must not know which network a file should belong to.
"""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from keras_sdft.parsing import DamagedFile
from keras_sdft.parsing import reading

# A Stable Diffusion network has 700 weights, an optimizer three times more.
_MAX_ENTRIES = 20_000
_CHUNK = 1 << 22
# Keras stores weights as they are; zeros that are compressed are a bomb.
_MAX_RATIO = 20


class NonFiniteWeights(ValueError):
    """A weight holds NaN or infinite values."""


def check_finite(path: Any, name: str, array: Any) -> None:
    """Refuses a weight that holds NaN or infinite values.

    Args:
        path: Of its file, for the message.
        name: Its name.
        array: Its values.

    Raises:
        NonFiniteWeights: If one is not finite.
    """
    finite = np.isfinite(np.asarray(array))
    if not finite.all():
        raise NonFiniteWeights(
            f"The weight {name!r} in {str(path)!r} holds "
            f"{np.count_nonzero(~finite):,} values that are NaN or infinite, "
            f"of {finite.size:,}. Expected finite numbers. The file is "
            "damaged, or its training failed: use an earlier one."
        )


def weight_shapes(path: Path) -> dict[str, tuple[tuple[int, ...], str]]:
    """Returns shape and dtype of every weight in a Keras HDF5 file.

    The optimizer's variables are left out.

    Raises:
        ValueError: If it is no HDF5 file, refers to other files, or is
            beyond the budget of entries.
    """
    with reading(path, "Keras weight file (`.weights.h5` or `.h5`)"):
        with h5py.File(path, "r") as file:
            return {
                name: (tuple(item.shape), str(item.dtype))
                for name, item in _datasets(file, path)
            }


def check_weights(path: Path) -> None:
    """Reads every weight of a Keras HDF5 file, a part at a time.

    Raises:
        NonFiniteWeights: If one holds NaN or infinite values.
        ValueError: As `weight_shapes`.
    """
    with reading(path, "Keras weight file (`.weights.h5` or `.h5`)"):
        with h5py.File(path, "r") as file:
            for name, item in _datasets(file, path):
                # Only what is stored is read: a shape alone costs nothing.
                if item.dtype.kind == "f" and item.id.get_storage_size():
                    for part in _parts(item):
                        check_finite(path, name, part)


def _parts(item: Any) -> Iterator[np.ndarray]:
    if item.ndim == 0:
        yield item[()]
        return
    rows = max(1, _CHUNK * len(item) // max(1, item.size))
    for first in range(0, len(item), rows):
        yield item[first : first + rows]


def _datasets(file: Any, path: Path) -> Iterator[tuple[str, Any]]:
    """Yields the weights; links that leave the file are refused."""
    groups, seen = [("", file)], 0
    while groups:
        prefix, group = groups.pop()
        for name in group:
            seen += 1
            if seen > _MAX_ENTRIES:
                raise DamagedFile(
                    f"{str(path)!r} is beyond the budget of "
                    f"{_MAX_ENTRIES:,} entries for a weight file."
                )
            key = f"{prefix}{name}"
            link = group.get(name, getlink=True)
            item = group[name] if isinstance(link, h5py.HardLink) else None
            is_data = isinstance(item, h5py.Dataset)
            if is_data and item.nbytes > _MAX_RATIO * path.stat().st_size:
                raise DamagedFile(
                    f"{str(path)!r} is beyond the budget: the weight {key!r} "
                    f"of shape {item.shape} takes {item.nbytes:,} bytes, "
                    f"more than {_MAX_RATIO} times the file."
                )
            if item is None or (is_data and (item.external or item.is_virtual)):
                raise DamagedFile(
                    f"{str(path)!r} refers to another place for {key!r}, so "
                    "it is refused. Expected weights inside the file."
                )
            if not is_data:
                groups.append((f"{key}/", item))
            elif not key.startswith("optimizer"):
                yield key, item


def load_weights(network: Any, path: str | Path) -> None:
    """Reads a network's weights; an error says in which way they do not fit.

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
    except Exception as error:
        raise ValueError(
            f"The weights in {str(path)!r} do not fit the network "
            f"{network.name!r}, which has {wanted.total()}; the file has "
            f"{shapes.total()}. Of these shapes there are too few: "
            f"{_listing(wanted - shapes)}; too many: "
            f"{_listing(shapes - wanted)}."
        ) from error
    for weight in network.weights:
        check_finite(path, weight.path, weight)


def _listing(shapes: Counter) -> str:
    names = [str(shape) for shape in shapes.elements()]
    if not names:
        return "none"
    more = ", ..." if len(names) > 5 else ""
    return f"{len(names)} ({', '.join(names[:5])}{more})"
