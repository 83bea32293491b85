"""Convolutions of many channels as products of matrices.

TensorFlow's kernels on CPUs put a convolution's weights in an order of
their own in each call, and its gradient back again. Where there are
millions of weights and few places, as in the lower half of Stable
Diffusion's network, that takes three to six times as long as the arithmetic.
A product of the places' neighbourhoods and the weights takes them as they
are. Must not know layers.

References:
    Chellapilla et al., High Performance Convolutional Neural Networks for
    Document Processing, 2006, section 3.1.
"""

import functools
from collections.abc import Callable
from typing import Any

from keras import ops

from keras_sdft.models.kernels import gate


def convolve(images: Any, kernel: Any) -> Any:
    """Convolves with stride 1, padded with zeros to the same size.

    Args:
        images: Float tensor `(B, H, W, C)`.
        kernel: Float tensor `(K, K, C, D)`, `K` odd.

    Returns:
        Float tensor `(B, H, W, D)`.
    """
    by_products = gate.convolves_by_products(images, kernel)
    if by_products is None:
        return reference(images, kernel)
    forwards, to_inputs, to_kernel = by_products

    @ops.custom_gradient
    def convolved(x: Any, kernel: Any) -> Any:
        y = _either(forwards, _product, reference)(x, kernel)

        def gradient(*upstream: Any) -> tuple[Any, Any]:
            given = (x, kernel, *upstream)
            inputs = _either(to_inputs, _product_to_inputs, _to_inputs)
            return (
                inputs(*given),
                _either(to_kernel, _product_to_kernel, _to_kernel)(*given),
            )

        return y, gradient

    # Not a variable, whose gradient would have to be asked for by name.
    return convolved(images, ops.cast(kernel, "float32"))


def _either(
    condition: Any, first: Callable[..., Any], second: Callable[..., Any]
) -> Callable[..., Any]:
    """Returns one of two functions; that of a tensor calls one when it runs."""
    if isinstance(condition, bool):
        return first if condition else second
    return lambda *given: ops.cond(
        condition, lambda: first(*given), lambda: second(*given)
    )


def reference(images: Any, kernel: Any) -> Any:
    """Computes what `convolve` does, with the backend's own convolution."""
    return ops.conv(images, kernel, padding="same")


def _to_inputs(x: Any, kernel: Any, dy: Any) -> Any:
    """Returns the inputs' gradient, by TensorFlow's kernel."""
    import tensorflow as tf

    return tf.nn.conv2d_transpose(dy, kernel, ops.shape(x), strides=1)


def _to_kernel(x: Any, kernel: Any, dy: Any) -> Any:
    """Returns the kernel's gradient, by TensorFlow's kernel."""
    import tensorflow as tf

    return tf.raw_ops.Conv2DBackpropFilter(
        input=x,
        filter_sizes=kernel.shape,
        out_backprop=dy,
        strides=[1] * 4,
        padding="SAME",
    )


def _product(x: Any, kernel: Any) -> Any:
    rows = ops.matmul(_neighbourhoods(x, kernel.shape[0]), _matrix(kernel))
    return ops.reshape(rows, (*ops.shape(x)[:3], kernel.shape[3]))


def _product_to_inputs(x: Any, kernel: Any, dy: Any) -> Any:
    """Returns the inputs' gradient, from that of the outputs."""
    sizes = ops.shape(dy)[:3]
    depth = kernel.shape[0] * kernel.shape[1] * kernel.shape[2]
    x = ops.matmul(_rows(dy), ops.transpose(_matrix(kernel)))
    x = ops.reshape(x, (*sizes, depth))
    size = kernel.shape[0]
    for axis in (1, 2):
        shifted = [
            ops.pad(part, _around(axis, tap, size - 1 - tap))
            for tap, part in enumerate(ops.split(x, size, axis=-1))
        ]
        total = functools.reduce(ops.add, shifted)
        x = _cut(total, axis, size // 2, sizes[axis])
    return x


def _product_to_kernel(x: Any, kernel: Any, dy: Any) -> Any:
    """Returns the kernel's gradient, from that of the outputs."""
    neighbours = _neighbourhoods(x, kernel.shape[0])
    products = ops.matmul(ops.transpose(neighbours), _rows(dy))
    return ops.reshape(products, kernel.shape)


def _neighbourhoods(x: Any, size: int) -> Any:
    """Returns a row `(size * size * C,)` for each of `(B, H, W)`."""
    margin = size // 2
    for axis in (2, 1):
        length = ops.shape(x)[axis]
        padded = ops.pad(x, _around(axis, margin, margin))
        taps = [_cut(padded, axis, tap, length) for tap in range(size)]
        x = ops.concatenate(taps, axis=-1)
    return _rows(x)


def _rows(x: Any) -> Any:
    return ops.reshape(x, (-1, x.shape[-1]))


def _matrix(kernel: Any) -> Any:
    return ops.reshape(kernel, (-1, kernel.shape[3]))


def _around(axis: int, before: int, after: int) -> list[tuple[int, int]]:
    widths = [(0, 0)] * 4
    widths[axis] = (before, after)
    return widths


def _cut(x: Any, axis: int, first: int, length: Any) -> Any:
    if axis == 1:
        return x[:, first : first + length]
    return x[:, :, first : first + length]
