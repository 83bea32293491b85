"""KerasCV's encoders and decoder, made to compute what the original does.

The published weights were trained with a GroupNorm epsilon of 1e-6 in the
autoencoder, and SD 2.x's text encoder with the GELU of the error function.
KerasCV has 1e-5 and the GELU by tanh. docs/numerics.md has the measurements.
"""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

_EPSILON = 1e-6


def exact_gelu(x: Any) -> Any:
    """The GELU by the error function."""
    return ops.gelu(x, approximate=False)


def use_exact_numerics(network: Any) -> None:
    """Corrects a text encoder, an image encoder or a decoder in place.

    It must be done before the network is first called outside its
    construction, and changes no weight.

    Args:
        network: A built `keras.Model`, KerasCV's or ours.
    """
    for layer in network._flatten_layers():
        if isinstance(layer, keras.layers.GroupNormalization):
            layer.epsilon = _EPSILON
        activation = getattr(layer, "activation", None)
        if getattr(activation, "__name__", "") == "gelu":
            layer.activation = exact_gelu
