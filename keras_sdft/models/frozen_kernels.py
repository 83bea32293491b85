"""Kernels of layers that do not learn, held in bfloat16 or int8.

Layers compute in their own dtype; biases, normalizations and embeddings stay
as they are. Works for every dense and convolutional layer of Keras, KerasCV's
included. Must not know why a layer is frozen.
"""

import contextlib
import contextvars
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_sdft import keras_internals
from keras_sdft.models.adapted import adapters_of
from keras_sdft.models.adapted import forget_graphs
from keras_sdft.models.kernels.convolution import convolve
from keras_sdft.models.kernels.widening import product
from keras_sdft.models.kernels.widening import quantize


class Kernel(keras.Variable):
    """A kernel in fewer bits, which takes values of full precision.

    Args:
        values: Float array `(..., out)`.
        dtype: `"bfloat16"` or `"int8"`.

    Attributes:
        scale: Float32 `keras.Variable` `(out,)` that values are multiplied
            with; of int8 alone.
    """

    def __init__(self, values: Any, dtype: str):
        if dtype == "int8":
            values, scale = quantize(values)
            self.scale = keras.Variable(
                scale, trainable=False, autocast=False, name="scale"
            )
        super().__init__(
            values, dtype=dtype, trainable=False, autocast=False, name="kernel"
        )

    def assign(self, value: Any) -> Any:
        """Rounds and takes values of full precision."""
        if hasattr(self, "scale"):
            value, scale = quantize(ops.convert_to_numpy(value))
            self.scale.assign(scale)
        return super().assign(value)


_held_in: contextvars.ContextVar[str | None] = contextvars.ContextVar(
    "new_kernels_held_in", default=None
)


@contextlib.contextmanager
def new_kernels_held_in(dtype: str | None) -> Iterator[None]:
    """Context manager in which the U-Net's new kernels are held in `dtype`.

    So that a network is never in memory in full precision. `None` changes
    nothing.
    """
    token = _held_in.set(dtype)
    try:
        yield
    finally:
        _held_in.reset(token)


def hold_new(layer: Any) -> None:
    """Holds a layer's kernel as `new_kernels_held_in` says, if it does."""
    if _held_in.get() is not None:
        _hold_layer(layer, _held_in.get())


def hold(network: Any, dtype: str) -> None:
    """Holds all kernels of a network in another dtype, for good.

    Args:
        network: A built `keras.Model`.
        dtype: A name of `FROZEN_DTYPES`. `"float32"` changes nothing.

    Raises:
        ValueError: If they are held in another dtype already, or if
            adapters are attached.
    """
    before = held_dtype(network)
    if before not in ("float32", dtype):
        raise ValueError(
            f"The kernels of {network.name!r} are held in {before} already. "
            f"Received: dtype={dtype!r}. Load the model again, or use "
            f"{before!r}."
        )
    if dtype == "float32":
        return
    for layer in _layers(network):
        if type(layer.kernel) is not Kernel:
            _hold_layer(layer, dtype)
    forget_graphs(network)


def held_dtype(network: Any) -> str:
    """Returns the dtype that a network's kernels are held in.

    `"float32"` also where the network's own dtype is another.
    """
    for layer in held_layers(network):
        return keras.backend.standardize_dtype(layer.kernel.dtype)
    return "float32"


def full_kernel(layer: Any) -> Any:
    """Returns a layer's kernel as it computes, a float32 tensor."""
    kernel = layer.kernel
    values = ops.cast(kernel, "float32")
    scale = getattr(kernel, "scale", None)
    return values if scale is None else values * ops.convert_to_tensor(scale)


def held_layers(network: Any) -> list[Any]:
    """Returns the layers whose kernels are held in fewer bits."""
    return [la for la in _layers(network) if isinstance(la.kernel, Kernel)]


def _layers(network: Any) -> list[Any]:
    kinds = (keras.layers.Dense, keras.layers.Conv2D)
    return [
        layer
        for layer in keras_internals.flatten_layers(network)
        if isinstance(layer, kinds)
    ]


def _hold_layer(layer: Any, dtype: str) -> None:
    if adapters_of(layer):
        raise ValueError(
            f"The layer {layer.path!r} has adapters, so its kernel cannot be "
            f"held in {dtype} any more. Give the first of them the dtype."
        )
    values = np.asarray(ops.convert_to_numpy(layer.kernel), "float32")
    kernel = Kernel(values, dtype)
    keras_internals.replace_kernel(layer, kernel)
    layer.call = _Call(layer)


class _Call:
    """What a layer computes with a kernel that is held in fewer bits."""

    def __init__(self, layer: Any):
        self.layer = layer
        self.is_dense = isinstance(layer, keras.layers.Dense)

    def __call__(self, inputs: Any, training: bool = False) -> Any:
        layer, kernel = self.layer, self.layer.kernel
        scale = getattr(kernel, "scale", None)
        outputs = product(
            ops.matmul if self.is_dense else self._convolve,
            inputs,
            # The value, not the variable, which the gradient would read where
            # blocks share a function of their weights.
            kernel.value,
            None if scale is None else scale.value,
        )
        if layer.bias is not None:
            outputs = ops.add(outputs, layer.bias)
        return (
            outputs if layer.activation is None else layer.activation(outputs)
        )

    def _convolve(self, inputs: Any, kernel: Any) -> Any:
        if self.layer.strides == (1, 1) and self.layer.padding == "same":
            return convolve(inputs, kernel)
        return self.layer.convolution_op(inputs, kernel)
