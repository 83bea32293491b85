"""The layers of the U-Net.

Class and attribute names repeat those of KerasCV's private layers on
purpose: Keras names the entries of a `.weights.h5` file after them, so that
one file fits both. Must not know how the layers are put together: into blocks
in `blocks.py`, and these in `model.py`.
"""

import contextlib
import contextvars
from collections.abc import Iterator
from typing import Any

from keras import layers
from keras import ops

from keras_sdft.models import frozen_kernels
from keras_sdft.models.kernels.attention import attend
from keras_sdft.models.kernels.convolution import convolve
from keras_sdft.models.kernels.custom_gradients import gated_gelu
from keras_sdft.models.kernels.custom_gradients import group_normalization
from keras_sdft.models.kernels.custom_gradients import layer_normalization
from keras_sdft.models.kernels.custom_gradients import sides


class GroupNormalization(layers.GroupNormalization):
    """Keras' layer over channels-last images, with fewer passes.

    Statistics and their application are float32 whatever the compute dtype.

    Args:
        swish: Boolean, whether `x * sigmoid(x)` follows.
        groups, epsilon: As for `keras.layers.GroupNormalization`.
    """

    def __init__(
        self, groups: int, epsilon: float, swish: bool = False, **kwargs: Any
    ):
        super().__init__(groups, epsilon=epsilon, **kwargs)
        self.swish = swish

    def call(self, inputs: Any) -> Any:
        return group_normalization(
            ops.cast(inputs, self.compute_dtype),
            ops.cast(self.gamma, "float32"),
            ops.cast(self.beta, "float32"),
            self.groups,
            self.epsilon,
            self.swish,
        )


class LayerNormalization(layers.LayerNormalization):
    """Keras' layer over rows `(N, C)`, with fewer passes."""

    def call(self, inputs: Any) -> Any:
        return layer_normalization(
            ops.cast(inputs, self.compute_dtype),
            ops.cast(self.gamma, "float32"),
            ops.cast(self.beta, "float32"),
            self.epsilon,
        )


_first_kernels: contextvars.ContextVar[Any] = contextvars.ContextVar(
    "first_kernels", default="glorot_uniform"
)


@contextlib.contextmanager
def kernels_begin_with(initializer: Any) -> Iterator[None]:
    """Context manager in which kernels of new layers use `initializer`."""
    token = _first_kernels.set(initializer)
    try:
        yield
    finally:
        _first_kernels.reset(token)


class Dense(layers.Dense):
    """Keras' layer, see `kernels_begin_with`."""

    def __init__(self, units: int, **kwargs: Any):
        kwargs.setdefault("kernel_initializer", _first_kernels.get())
        super().__init__(units, **kwargs)

    def build(self, input_shape: Any) -> None:
        super().build(input_shape)
        frozen_kernels.hold_new(self)


class Conv2D(layers.Conv2D):
    """Keras' layer, see `convolve`; kernels can add the bias as it is."""

    def __init__(self, filters: int, kernel_size: int, **kwargs: Any):
        kwargs.setdefault("kernel_initializer", _first_kernels.get())
        super().__init__(filters, kernel_size, **kwargs)

    def build(self, input_shape: Any) -> None:
        super().build(input_shape)
        frozen_kernels.hold_new(self)

    def call(self, inputs: Any) -> Any:
        if self.strides == (1, 1) and self.padding == "same":
            outputs = convolve(inputs, self.kernel)
        else:
            outputs = self.convolution_op(inputs, self.kernel)
        return ops.add(outputs, self.bias)


class PaddedConv2D(layers.Layer):
    """A convolution padded like PyTorch's: alike on both sides."""

    def __init__(
        self, filters: int, kernel_size: int, strides: int = 1, **kwargs: Any
    ):
        super().__init__(**kwargs)
        self.strides = strides
        # At stride 1 "same" pads both sides alike. At stride 2 it would pad
        # the far side only, so the near side is padded by hand; the far
        # side's padding is never reached at even sizes.
        self.conv2d = Conv2D(
            filters,
            kernel_size,
            strides=strides,
            padding="same" if strides == 1 else "valid",
        )

    def call(self, inputs: Any) -> Any:
        if self.strides == 2:
            inputs = ops.pad(inputs, ((0, 0), (1, 0), (1, 0), (0, 0)))
        return self.conv2d(inputs)

    def build(self, input_shape: Any) -> None:
        self.conv2d.build(input_shape)

    def compute_output_shape(self, input_shape: Any) -> Any:
        batch, height, width, _ = input_shape
        height, width = (
            None if side is None else side // self.strides
            for side in (height, width)
        )
        return (batch, height, width, self.conv2d.filters)


class CrossAttention(layers.Layer):
    """Multi-head attention from rows to a context's rows."""

    def __init__(self, num_heads: int, head_size: int, **kwargs: Any):
        super().__init__(**kwargs)
        width = num_heads * head_size
        self.num_heads = num_heads
        self.head_size = head_size
        self.to_q = Dense(width, use_bias=False)
        self.to_k = Dense(width, use_bias=False)
        self.to_v = Dense(width, use_bias=False)
        self.out_proj = Dense(width)

    def build(self, input_shape: Any) -> None:
        sequence, context = input_shape
        self.to_q.build(sequence)
        self.to_k.build(context)
        self.to_v.build(context)
        self.out_proj.build((*sequence[:-1], self.to_q.units))

    def call(self, x: Any, context: Any, places: Any, length: Any) -> Any:
        # The query is scaled, not the score: it is the smaller tensor.
        query = self._heads(self.to_q(x) * self.head_size**-0.5, places)
        key = self._heads(self.to_k(context), length)
        value = self._heads(self.to_v(context), length)
        attended = attend(query, key, value)
        width = self.num_heads * self.head_size
        return self.out_proj(ops.reshape(attended, (-1, width)))

    def _heads(self, x: Any, length: Any) -> Any:
        """Rows to `(B, length, heads, size)`."""
        return ops.reshape(x, (-1, length, self.num_heads, self.head_size))


class Upsample(layers.Layer):
    """Doubles height and width, then smooths with a convolution."""

    def __init__(self, channels: int, **kwargs: Any):
        super().__init__(**kwargs)
        self.conv = PaddedConv2D(channels, 3)

    def build(self, input_shape: Any) -> None:
        self.conv.build(input_shape)

    def compute_output_shape(self, input_shape: Any) -> Any:
        batch, height, width, _ = input_shape
        height, width = (
            None if side is None else 2 * side for side in (height, width)
        )
        return (batch, height, width, self.conv.conv2d.filters)

    def call(self, inputs: Any) -> Any:
        height, width = sides(inputs)
        channels = inputs.shape[-1]
        # Each pixel beside itself, then each line.
        x = ops.concatenate([inputs, inputs], axis=-1)
        x = ops.reshape(x, (-1, height, 2 * width * channels))
        x = ops.concatenate([x, x], axis=-1)
        return self.conv(ops.reshape(x, (-1, 2 * height, 2 * width, channels)))


class GEGLU(layers.Layer):
    """A dense layer gated by a GELU of its second half.

    References:
        Shazeer, GLU Variants Improve Transformer, 2020, section 2.
    """

    def __init__(self, output_dim: int, numerics: str = "exact", **kwargs: Any):
        super().__init__(**kwargs)
        self.output_dim = output_dim
        self.approximate = numerics == "keras_cv"
        self.dense = Dense(output_dim * 2)

    def build(self, input_shape: Any) -> None:
        self.dense.build(input_shape)

    def call(self, inputs: Any) -> Any:
        rows = self.dense(inputs)
        if not self.approximate:
            return gated_gelu(rows)
        x, gate = ops.split(rows, 2, axis=-1)
        return x * ops.gelu(gate, approximate=True)
