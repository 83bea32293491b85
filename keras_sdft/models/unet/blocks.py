"""The U-Net's blocks: what may be recomputed, or shared when traced.

Named like KerasCV's, as the layers in `layers.py` are. Must not know
which blocks a network has.
"""

from typing import Any

import keras
from keras import layers
from keras import ops

from keras_sdft.models.kernels.custom_gradients import places
from keras_sdft.models.kernels.custom_gradients import sides
from keras_sdft.models.unet.layers import GEGLU
from keras_sdft.models.unet.layers import CrossAttention
from keras_sdft.models.unet.layers import Dense
from keras_sdft.models.unet.layers import GroupNormalization
from keras_sdft.models.unet.layers import LayerNormalization
from keras_sdft.models.unet.layers import PaddedConv2D


class Block(layers.Layer):
    """Part of the network that may be recomputed, or shared when traced.

    Args:
        remat: Boolean, whether the backward pass computes it again instead
            of keeping its activations.
        traced: A `TracedBlocks` that all blocks of a network share, or
            `None`.
    """

    def __init__(self, remat: bool = False, traced: Any = None, **kwargs: Any):
        super().__init__(**kwargs)
        self.remat = remat
        self.traced = traced

    def call(self, inputs: Any, training: bool = False) -> Any:
        remat = self.remat and training
        if self.traced is None:
            branch, shortcut = self.plain(inputs, remat)
        else:
            branch, shortcut = self.traced(self, inputs, remat)
        # Not inside: TensorFlow's kernel for a convolution and a sum holds
        # what it adds where a second call of a shared function, as in a
        # validation's other timesteps, puts its own.
        return branch + shortcut

    def plain(self, inputs: list[Any], remat: bool) -> Any:
        """Calls `compute`, not shared, and recomputed or not."""
        compute = keras.remat(self.compute) if remat else self.compute
        return compute(*inputs)

    def compute(self, *inputs: Any) -> tuple[Any, Any]:
        """Computes the two tensors whose sum is the block's output."""
        raise NotImplementedError


class ResBlock(Block):
    """Two convolutions with the timestep added in between."""

    def __init__(self, output_dim: int, groups: int = 32, **kwargs: Any):
        super().__init__(**kwargs)
        self.output_dim = output_dim
        # The activations between stay where KerasCV has them, so that the
        # paths of weights do; the normalizations apply them.
        self.entry_flow = [
            GroupNormalization(groups, epsilon=1e-5, swish=True),
            layers.Activation("swish"),
            PaddedConv2D(output_dim, 3),
        ]
        self.embedding_flow = [
            layers.Activation("swish"),
            Dense(output_dim),
        ]
        self.exit_flow = [
            GroupNormalization(groups, epsilon=1e-5, swish=True),
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

    def compute(self, inputs: Any, embedding: Any) -> tuple[Any, Any]:
        norm, _, conv = self.entry_flow
        x = conv(norm(inputs))
        for layer in self.embedding_flow:
            embedding = layer(embedding)
        x = x + ops.reshape(embedding, (-1, 1, 1, self.output_dim))
        norm, _, conv = self.exit_flow
        x = conv(norm(x))
        if self.residual_projection is not None:
            inputs = self.residual_projection(inputs)
        return x, inputs


class SpatialTransformer(Block):
    """Attention between all places and to the text."""

    def __init__(
        self,
        num_heads: int,
        head_size: int,
        fully_connected: bool = False,
        groups: int = 32,
        numerics: str = "exact",
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        width = num_heads * head_size
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

    def compute(self, inputs: Any, context: Any) -> tuple[Any, Any]:
        width = inputs.shape[-1]
        x = self.proj1(self.norm(inputs))
        # Rows, not sequences: what works on each place by itself needs no
        # more, and a product of matrices is one operation.
        rows = self.transformer_block(
            ops.reshape(x, (-1, width)),
            ops.reshape(context, (-1, context.shape[-1])),
            places=places(inputs),
            length=_length(context),
        )
        x = ops.reshape(rows, (-1, *sides(inputs), width))
        return self.proj2(x), inputs


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
        self.norm1 = LayerNormalization(epsilon=1e-5)
        self.attn1 = CrossAttention(num_heads, head_size)
        self.norm2 = LayerNormalization(epsilon=1e-5)
        self.attn2 = CrossAttention(num_heads, head_size)
        self.norm3 = LayerNormalization(epsilon=1e-5)
        self.geglu = GEGLU(dim * 4, numerics)
        self.dense = Dense(dim)

    def build(self, input_shape: Any) -> None:
        sequence, context = input_shape
        for norm in (self.norm1, self.norm2, self.norm3):
            norm.build(sequence)
        self.attn1.build([sequence, sequence])
        self.attn2.build([sequence, context])
        self.geglu.build(sequence)
        self.dense.build((*sequence[:-1], self.geglu.output_dim))

    def call(self, x: Any, context: Any, places: Any, length: Any) -> Any:
        normed = self.norm1(x)
        x = x + self.attn1(normed, normed, places=places, length=places)
        normed = self.norm2(x)
        x = x + self.attn2(normed, context, places=places, length=length)
        return self.dense(self.geglu(self.norm3(x))) + x


def _projection(width: int, fully_connected: bool) -> layers.Layer:
    if fully_connected:
        return Dense(width)
    return PaddedConv2D(width, 1)


def _length(sequences: Any) -> Any:
    """Returns the length of sequences `(B, T, D)`, an integer if known."""
    return sequences.shape[1] or ops.shape(sequences)[1]
