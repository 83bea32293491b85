"""Makes KerasCV's encoders and decoder compute what the original does.

The published weights were trained with a GroupNorm epsilon of 1e-6 in the
autoencoder, and SD 2.x's text encoder with the GELU of the error function.
KerasCV has 1e-5 and the GELU by tanh, and sums over a whole image in one go,
which loses a digit. docs/numerics.md has the measurements.
"""

import types
from typing import Any

import keras
from keras import ops

from keras_sdft import keras_internals

_EPSILON = 1e-6


def exact_gelu(x: Any) -> Any:
    """Computes the GELU by the error function."""
    return ops.gelu(x, approximate=False)


def use_exact_numerics(network: Any) -> None:
    """Corrects a text encoder, an image encoder or a decoder in place.

    It must be done before the network is first called outside its
    construction, and changes no weight.

    Args:
        network: A built `keras.Model`, KerasCV's or ours.
    """
    for layer in keras_internals.flatten_layers(network):
        if isinstance(layer, keras.layers.GroupNormalization):
            layer.epsilon = _EPSILON
            layer.call = types.MethodType(_normalize, layer)
        activation = getattr(layer, "activation", None)
        if getattr(activation, "__name__", "") == "gelu":
            layer.activation = exact_gelu


def _normalize(layer: Any, inputs: Any) -> Any:
    """Computes a GroupNormalization of channels-last images.

    TensorFlow adds the numbers of a reduction one after the other, so its
    error grows with the image. Summing rows first, then the rows' sums,
    keeps it at that of a row; subtracting the mean before squaring keeps it
    where the mean is large.
    """
    channels = inputs.shape[-1]
    x = ops.cast(inputs, "float32")
    centred = x - _group_means(x, layer.groups)
    variance = _group_means(ops.square(centred), layer.groups)
    x = centred * ops.rsqrt(variance + layer.epsilon)
    gamma, beta = (
        ops.cast(ops.reshape(weight, (1, 1, 1, channels)), "float32")
        for weight in (layer.gamma, layer.beta)
    )
    return ops.cast(x * gamma + beta, layer.compute_dtype)


def _group_means(x: Any, groups: int) -> Any:
    """Returns the mean of each group, for each channel: `(B, 1, 1, C)`."""
    channels = x.shape[-1]
    means = ops.mean(ops.mean(x, axis=2), axis=1)
    means = ops.reshape(means, (-1, groups, channels // groups))
    means = ops.mean(means, axis=2, keepdims=True)
    means = ops.repeat(means, channels // groups, axis=2)
    return ops.reshape(means, (-1, 1, 1, channels))
