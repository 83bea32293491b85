"""The only file that touches private parts of Keras and TensorFlow.

Each function says what it relies on and in which versions it was seen, and
what happens where it is missing. KerasCV's private parts are in
`models/keras_cv_parts.py`. Imports nothing of this library.
"""

from __future__ import annotations

from typing import Any


def flatten_layers(layer: Any) -> list[Any]:
    """Returns a layer and all layers inside it, in the order of making.

    Relies on `Layer._flatten_layers` (Keras 3.0 to 3.15); `layers` lists
    those of a model alone, not those that a layer holds.
    """
    return list(layer._flatten_layers())


def onednn_is_on() -> bool:
    """Returns whether TensorFlow uses oneDNN's kernels.

    Relies on a wrapper without a public name (TensorFlow 2.16 to 2.21).
    """
    from tensorflow.python.util import _pywrap_util_port

    return bool(_pywrap_util_port.IsMklEnabled())
