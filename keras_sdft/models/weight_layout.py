"""Weights in a built network, found by path and turned into their layout.

Must not know which weights there are: that is `weight_names`'s.
"""

from collections.abc import Iterable
from typing import Any

import numpy as np

from keras_sdft.models.weight_names import Row


def find_variables(model: Any, rows: tuple[Row, ...]) -> dict[str, Any]:
    """The variables that the rows of one network name.

    Args:
        model: Our network, or KerasCV's.
        rows: Rows of that network.

    Returns:
        A dict of variable by `Row.theirs`.

    Raises:
        ValueError: If the network has other weights than the rows say.
    """
    by_class = _by_class(model)
    found = {
        row.theirs: _follow(by_class, row.ours)
        for row in rows
        if row.ours is not None
    }
    wanted = {id(variable) for variable in found.values()}
    if wanted != {id(variable) for variable in model.weights}:
        raise ValueError(
            f"The network {model.name!r} has {len(model.weights)} weights, "
            f"of which {len(wanted)} are known. Was it built for another "
            "spec, or do adapters still sit in it?"
        )
    return found


def find_layers(model: Any, paths: Iterable[str]) -> dict[str, Any]:
    """Finds layers of a built network.

    Args:
        model: Our network, or KerasCV's.
        paths: Paths of layers, as in `Row.ours` without the weight's name.

    Returns:
        A dict of layer by path.
    """
    by_class = _by_class(model)
    return {path: _follow(by_class, path) for path in paths}


def _by_class(model: Any) -> dict[str, list[Any]]:
    by_class: dict[str, list[Any]] = {}
    for layer in model.layers:
        by_class.setdefault(type(layer).__name__, []).append(layer)
    return by_class


def _follow(by_class: dict[str, list[Any]], path: str) -> Any:
    layer, *attributes = path.split(".")
    name, _, number = layer.removesuffix("]").partition("[")
    item = by_class[name][int(number)]
    for attribute in attributes:
        if attribute.isdigit():
            item = item[int(attribute)]
        else:
            item = getattr(item, attribute)
    return item


def to_theirs(row: Row, array: np.ndarray) -> np.ndarray:
    """A weight of ours in their layout.

    Kernels are turned from `(in, out)` to `(out, in)` and from
    `(height, width, in, out)` to `(out, in, height, width)`; a 1x1
    convolution becomes a matrix where theirs is one.
    """
    if row.ours.endswith(".kernel"):
        if array.ndim == 4:
            array = array.transpose(3, 2, 0, 1)
        else:
            array = array.transpose()
    return array.reshape(row.shape)


def to_ours(row: Row, array: np.ndarray) -> np.ndarray:
    """The inverse of `to_theirs`, except for the 1s of a convolution."""
    if row.ours.endswith(".kernel"):
        if array.ndim == 4:
            return array.transpose(2, 3, 1, 0)
        return array.transpose()
    return array
