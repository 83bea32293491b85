"""Products with kernels that are held in fewer bits than they compute with.

A kernel is converted where it is read, and again for the gradient, so that
no copy in the compute dtype is kept from the forward pass to the backward
pass. Must not know layers.
"""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import ops

# Eight bits of significand: a scale is the same number in bfloat16.
_SIGNIFICAND = 2.0**8
_LARGEST = 127.0


def quantize(values: Any) -> tuple[np.ndarray, np.ndarray]:
    """Rounds a kernel to int8, with a scale for each output.

    Args:
        values: Float array `(..., out)`.

    Returns:
        Tuple of an int8 array of the same shape, in [-127, 127], and float32
        scales `(out,)`. Their product differs from `values` by half a scale
        at most; a scale is the largest absolute value over 127, rounded up
        by up to 1/128.
    """
    values = np.asarray(values, "float32")
    largest = np.abs(values).max(axis=tuple(range(values.ndim - 1)))
    fraction, exponent = np.frexp(largest / _LARGEST)
    scale = np.ldexp(np.ceil(fraction * _SIGNIFICAND) / _SIGNIFICAND, exponent)
    scale = np.where(scale > 0, scale, 1.0).astype("float32")
    return np.round(values / scale).astype("int8"), scale


def product(
    multiply: Callable[[Any, Any], Any],
    inputs: Any,
    kernel: Any,
    scale: Any = None,
) -> Any:
    """Computes `multiply(inputs, kernel * scale)`.

    Args:
        multiply: Function of inputs and a kernel of their dtype, linear in
            both: a product of matrices or a convolution.
        inputs: Float tensor.
        kernel: Tensor `(..., out)` of any dtype. It does not learn.
        scale: Float32 tensor `(out,)`, or `None` for 1.

    Returns:
        Tensor of the inputs' dtype.
    """
    dtype = inputs.dtype
    # In float16 sums of integers would exceed the range. Elsewhere outputs
    # are scaled, which are fewer than weights where there are many of these.
    first = dtype == "float16"
    factor = 1.0 if scale is None else ops.cast(scale, dtype)

    def widened(after: Any) -> Any:
        wide = _cast_after(kernel, dtype, after)
        return wide * factor if first else wide

    def scaled(x: Any) -> Any:
        return x if first or scale is None else x * factor

    if kernel.dtype == dtype:
        return multiply(inputs, kernel)
    if keras.backend.backend() == "tensorflow":
        return _differentiable(multiply, inputs, widened, scaled)
    return keras.remat(lambda x: scaled(multiply(x, widened(x))))(inputs)


def _cast_after(kernel: Any, dtype: Any, after: Any) -> Any:
    """Returns the kernel in `dtype`, not before `after` is known.

    TensorFlow would otherwise convert all kernels of a network at the
    start of a step, or keep what is converted for the gradient.
    """
    if keras.backend.backend() != "tensorflow":
        return ops.cast(kernel, dtype)
    import tensorflow as tf

    with tf.control_dependencies([after]):
        return tf.cast(kernel, dtype)


def _differentiable(
    multiply: Callable[[Any, Any], Any],
    inputs: Any,
    widened: Callable[[Any], Any],
    scaled: Callable[[Any], Any],
) -> Any:
    import tensorflow as tf

    @tf.custom_gradient
    def call(x: Any) -> Any:
        known, shape = x.shape, tf.shape(x)

        def gradient(upstream: Any) -> Any:
            kernel, upstream = widened(upstream), scaled(upstream)
            if multiply is ops.matmul:
                return ops.matmul(upstream, ops.transpose(kernel))
            # Linear, so that any inputs do, and these are not kept.
            zeros = tf.zeros(shape, x.dtype)
            zeros.set_shape(known)
            with tf.GradientTape() as tape:
                tape.watch(zeros)
                outputs = multiply(zeros, kernel)
            return tape.gradient(outputs, zeros, output_gradients=upstream)

        return scaled(multiply(x, widened(_before_padding(x)))), gradient

    return call(inputs)


def _before_padding(x: Any) -> Any:
    """Returns what was padded, if `x` is that in a graph, else `x`.

    TensorFlow merges padding with the convolution that follows, which then
    would wait for a part of itself.
    """
    operation = getattr(x, "op", None)
    is_padding = operation is not None and operation.type == "Pad"
    return operation.inputs[0] if is_padding else x
