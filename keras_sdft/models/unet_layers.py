"""The layers of the U-Net.

Class and attribute names repeat those of KerasCV's private layers on
purpose: Keras names the entries of a `.weights.h5` file after them, so that
one file fits both. Must not know how the layers are put together.
"""

from __future__ import annotations

from typing import Any

import keras
from keras import layers
from keras import ops


class GroupNormalization(layers.GroupNormalization):
    """Keras' layer over channels-last images, with fewer passes.

    Statistics and their application are float32 whatever the compute dtype.
    """

    def call(self, inputs: Any) -> Any:
        shape = ops.shape(inputs)
        channels = inputs.shape[-1]
        size = channels // self.groups
        x = ops.cast(inputs, "float32")
        grouped = ops.reshape(x, (-1, shape[1] * shape[2], self.groups, size))
        mean, variance = ops.moments(grouped, axes=[1, 3], keepdims=True)
        gamma = ops.reshape(self.gamma, (1, 1, self.groups, size))
        beta = ops.reshape(self.beta, (1, 1, self.groups, size))
        scale = ops.rsqrt(variance + self.epsilon) * ops.cast(gamma, "float32")
        shift = ops.cast(beta, "float32") - mean * scale
        scale = ops.reshape(scale, (-1, 1, 1, channels))
        shift = ops.reshape(shift, (-1, 1, 1, channels))
        return ops.cast(x * scale + shift, self.compute_dtype)


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
        self.conv2d = layers.Conv2D(
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


class ResBlock(layers.Layer):
    """Two convolutions with the timestep added in between."""

    def __init__(
        self,
        output_dim: int,
        groups: int = 32,
        remat: bool = False,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        self.output_dim = output_dim
        self.remat = remat
        self.entry_flow = [
            GroupNormalization(groups, epsilon=1e-5),
            layers.Activation("swish"),
            PaddedConv2D(output_dim, 3),
        ]
        self.embedding_flow = [
            layers.Activation("swish"),
            layers.Dense(output_dim),
        ]
        self.exit_flow = [
            GroupNormalization(groups, epsilon=1e-5),
            layers.Activation("swish"),
            PaddedConv2D(output_dim, 3),
        ]

    def build(self, input_shape: Any) -> None:
        image, embedding = input_shape
        hidden = (*image[:-1], self.output_dim)
        for layer in self.entry_flow:
            layer.build(image)
        for layer in self.embedding_flow:
            layer.build(embedding)
        for layer in self.exit_flow:
            layer.build(hidden)
        self.residual_projection = None
        if image[-1] != self.output_dim:
            self.residual_projection = PaddedConv2D(self.output_dim, 1)
            self.residual_projection.build(image)

    def compute_output_shape(self, input_shape: Any) -> Any:
        return (*input_shape[0][:-1], self.output_dim)

    def call(self, inputs: Any, training: bool = False) -> Any:
        forward = self._forward
        if self.remat and training:
            forward = keras.remat(forward)
        return forward(*inputs)

    def _forward(self, inputs: Any, embedding: Any) -> Any:
        x = inputs
        for layer in self.entry_flow:
            x = layer(x)
        for layer in self.embedding_flow:
            embedding = layer(embedding)
        x = x + embedding[:, None, None]
        for layer in self.exit_flow:
            x = layer(x)
        if self.residual_projection is not None:
            inputs = self.residual_projection(inputs)
        return x + inputs


class SpatialTransformer(layers.Layer):
    """Lets every place look at every other place and at the text."""

    def __init__(
        self,
        num_heads: int,
        head_size: int,
        fully_connected: bool = False,
        groups: int = 32,
        numerics: str = "exact",
        remat: bool = False,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        width = num_heads * head_size
        self.remat = remat
        epsilon = 1e-6 if numerics == "exact" else 1e-5
        self.norm = GroupNormalization(groups, epsilon=epsilon)
        self.proj1 = _projection(width, fully_connected)
        self.transformer_block = BasicTransformerBlock(
            width, num_heads, head_size, numerics
        )
        self.proj2 = _projection(width, fully_connected)

    def build(self, input_shape: Any) -> None:
        image, context = input_shape
        sequence = (image[0], None, image[-1])
        for layer in (self.norm, self.proj1, self.proj2):
            layer.build(image)
        self.transformer_block.build([sequence, context])

    def compute_output_shape(self, input_shape: Any) -> Any:
        return input_shape[0]

    def call(self, inputs: Any, training: bool = False) -> Any:
        forward = self._forward
        if self.remat and training:
            forward = keras.remat(forward)
        return forward(*inputs)

    def _forward(self, inputs: Any, context: Any) -> Any:
        shape = ops.shape(inputs)
        x = self.proj1(self.norm(inputs))
        x = ops.reshape(x, (-1, shape[1] * shape[2], inputs.shape[-1]))
        x = self.transformer_block([x, context])
        x = ops.reshape(x, (-1, shape[1], shape[2], inputs.shape[-1]))
        return self.proj2(x) + inputs


class BasicTransformerBlock(layers.Layer):
    """Self-attention, attention to the text, and a gated feed-forward."""

    def __init__(
        self,
        dim: int,
        num_heads: int,
        head_size: int,
        numerics: str = "exact",
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        self.norm1 = layers.LayerNormalization(epsilon=1e-5)
        self.attn1 = CrossAttention(num_heads, head_size)
        self.norm2 = layers.LayerNormalization(epsilon=1e-5)
        self.attn2 = CrossAttention(num_heads, head_size)
        self.norm3 = layers.LayerNormalization(epsilon=1e-5)
        self.geglu = GEGLU(dim * 4, numerics)
        self.dense = layers.Dense(dim)

    def build(self, input_shape: Any) -> None:
        sequence, context = input_shape
        for norm in (self.norm1, self.norm2, self.norm3):
            norm.build(sequence)
        self.attn1.build([sequence, sequence])
        self.attn2.build([sequence, context])
        self.geglu.build(sequence)
        self.dense.build((*sequence[:-1], self.geglu.output_dim))

    def call(self, inputs: Any) -> Any:
        x, context = inputs
        normed = self.norm1(x)
        x = self.attn1([normed, normed]) + x
        x = self.attn2([self.norm2(x), context]) + x
        return self.dense(self.geglu(self.norm3(x))) + x


class CrossAttention(layers.Layer):
    """Multi-head attention from a sequence to a context."""

    def __init__(self, num_heads: int, head_size: int, **kwargs: Any):
        super().__init__(**kwargs)
        width = num_heads * head_size
        self.num_heads = num_heads
        self.head_size = head_size
        self.to_q = layers.Dense(width, use_bias=False)
        self.to_k = layers.Dense(width, use_bias=False)
        self.to_v = layers.Dense(width, use_bias=False)
        self.out_proj = layers.Dense(width)

    def build(self, input_shape: Any) -> None:
        sequence, context = input_shape
        self.to_q.build(sequence)
        self.to_k.build(context)
        self.to_v.build(context)
        self.out_proj.build((*sequence[:-1], self.to_q.units))

    def call(self, inputs: Any) -> Any:
        sequence, context = inputs
        # The query is scaled, not the score: it is the smaller tensor.
        query = self._heads(self.to_q(sequence) * self.head_size**-0.5)
        key = self._heads(self.to_k(context))
        value = self._heads(self.to_v(context))
        score = ops.matmul(query, ops.transpose(key, (0, 1, 3, 2)))
        attended = ops.matmul(ops.softmax(score, axis=-1), value)
        attended = ops.transpose(attended, (0, 2, 1, 3))
        shape = (-1, ops.shape(sequence)[1], self.num_heads * self.head_size)
        return self.out_proj(ops.reshape(attended, shape))

    def _heads(self, x: Any) -> Any:
        shape = (-1, ops.shape(x)[1], self.num_heads, self.head_size)
        return ops.transpose(ops.reshape(x, shape), (0, 2, 1, 3))


class Upsample(layers.Layer):
    """Doubles height and width, then smooths with a convolution."""

    def __init__(self, channels: int, **kwargs: Any):
        super().__init__(**kwargs)
        self.ups = layers.UpSampling2D(2)
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
        return self.conv(self.ups(inputs))


class GEGLU(layers.Layer):
    """A dense layer gated by a GELU of its second half.

    References:
        Shazeer, GLU Variants Improve Transformer, 2020, section 2.
    """

    def __init__(self, output_dim: int, numerics: str = "exact", **kwargs: Any):
        super().__init__(**kwargs)
        self.output_dim = output_dim
        self.approximate = numerics == "keras_cv"
        self.dense = layers.Dense(output_dim * 2)

    def build(self, input_shape: Any) -> None:
        self.dense.build(input_shape)

    def call(self, inputs: Any) -> Any:
        x, gate = ops.split(self.dense(inputs), 2, axis=-1)
        return x * ops.gelu(gate, approximate=self.approximate)


def _projection(width: int, fully_connected: bool) -> layers.Layer:
    if fully_connected:
        return layers.Dense(width)
    return PaddedConv2D(width, 1)
