"""Text encoders, image encoders and decoders of any width, in `keras.ops`.

KerasCV's classes fix their widths, and importing keras_cv imports
TensorFlow; these networks run on every Keras backend. Class and attribute
names repeat those of KerasCV's layers on purpose, and layers are made in
KerasCV's order, so that one weight file fits both. Must not know keras_cv,
losses or files.
"""

import types
from typing import Any

import keras
import numpy as np
from keras import layers
from keras import ops

from keras_sdft import checks
from keras_sdft.models.dtypes import dtype_policy_scope
from keras_sdft.models.spec import AutoencoderSpec
from keras_sdft.models.spec import TextEncoderSpec
from keras_sdft.models.unet.layers import GroupNormalization

# === Text ===


def build_text_encoder(spec: TextEncoderSpec, dtype: Any = None) -> Any:
    """Builds a causal text transformer with fresh weights.

    Args:
        spec: A `TextEncoderSpec`.
        dtype: A dtype policy's name, or `None` for the global one.

    Returns:
        A `keras.Model` of `{"tokens": (B, T), "positions": (B, T)}` to a
        context `(B, T, width)`, where `T` is `spec.max_length`.
    """
    with dtype_policy_scope(dtype):
        shape = (spec.max_length,)
        tokens = layers.Input(shape, dtype="int32", name="tokens")
        positions = layers.Input(shape, dtype="int32", name="positions")
        embedding = CLIPEmbedding(
            spec.vocabulary_size, spec.width, spec.max_length
        )
        x = embedding([tokens, positions])
        for _ in range(spec.depth):
            # KerasCV fixes the feed-forward at four times the width.
            x = CLIPEncoderLayer(spec.width, spec.num_heads, spec.activation)(x)
        x = layers.LayerNormalization(epsilon=1e-5)(x)
        return keras.Model([tokens, positions], x)


def quick_gelu(x: Any) -> Any:
    """Computes CLIP's approximation of the GELU."""
    return x * ops.sigmoid(x * 1.702)


ACTIVATIONS = {"quick_gelu": quick_gelu, "gelu": ops.gelu}


def skip_last_layers(text_encoder: Any, count: int) -> None:
    """Makes a text encoder pass over its last layers.

    They stay part of the network and of its weight files, but learn nothing.
    The normalization at the end stays. It must be done before the network is
    first called outside its construction.

    Args:
        text_encoder: A built text encoder, KerasCV's or ours.
        count: Integer >= 0.

    Raises:
        ValueError: If it has not so many layers.
    """
    blocks = [la for la in text_encoder.layers if hasattr(la, "clip_attn")]
    checks.integer("clip_skip", count + 1, 1, len(blocks))
    for layer in blocks[len(blocks) - count :]:
        layer.trainable = False
        layer.call = types.MethodType(_unchanged, layer)


def _unchanged(layer: Any, inputs: Any) -> Any:
    return inputs


class CLIPEmbedding(layers.Layer):
    """The sum of the embeddings of tokens and of their positions."""

    def __init__(
        self, input_dim: int, output_dim: int, max_length: int, **kwargs: Any
    ):
        super().__init__(**kwargs)
        self.token_embedding = layers.Embedding(input_dim, output_dim)
        self.position_embedding = layers.Embedding(max_length, output_dim)

    def build(self, input_shape: Any) -> None:
        tokens, positions = input_shape
        self.token_embedding.build(tokens)
        self.position_embedding.build(positions)

    def call(self, inputs: Any) -> Any:
        tokens, positions = inputs
        return self.token_embedding(tokens) + self.position_embedding(positions)


class CLIPEncoderLayer(layers.Layer):
    """Causal self-attention, then a feed-forward, each with a residual."""

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        activation: str = "quick_gelu",
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        self.layer_norm1 = layers.LayerNormalization(epsilon=1e-5)
        self.clip_attn = CLIPAttention(embed_dim, num_heads)
        self.layer_norm2 = layers.LayerNormalization(epsilon=1e-5)
        self.fc1 = layers.Dense(embed_dim * 4)
        self.fc2 = layers.Dense(embed_dim)
        self.activation = ACTIVATIONS[activation]

    def build(self, input_shape: Any) -> None:
        for layer in (self.layer_norm1, self.clip_attn, self.layer_norm2):
            layer.build(input_shape)
        self.fc1.build(input_shape)
        self.fc2.build((*input_shape[:-1], self.fc1.units))

    def call(self, inputs: Any) -> Any:
        x = inputs + self.clip_attn(self.layer_norm1(inputs))
        return x + self.fc2(self.activation(self.fc1(self.layer_norm2(x))))


class CLIPAttention(layers.Layer):
    """Multi-head self-attention in which no token sees a later one."""

    def __init__(self, embed_dim: int, num_heads: int, **kwargs: Any):
        super().__init__(**kwargs)
        self.num_heads = num_heads
        self.head_dim = embed_dim // num_heads
        self.q_proj = layers.Dense(embed_dim)
        self.k_proj = layers.Dense(embed_dim)
        self.v_proj = layers.Dense(embed_dim)
        self.out_proj = layers.Dense(embed_dim)

    def build(self, input_shape: Any) -> None:
        for layer in (self.q_proj, self.k_proj, self.v_proj, self.out_proj):
            layer.build(input_shape)

    def call(self, inputs: Any) -> Any:
        length = inputs.shape[1]
        query = self._heads(self.q_proj(inputs) * self.head_dim**-0.5)
        key = self._heads(self.k_proj(inputs))
        value = self._heads(self.v_proj(inputs))
        score = ops.matmul(query, ops.transpose(key, (0, 1, 3, 2)))
        mask = np.triu(np.full((length, length), -np.inf, "float32"), 1)
        score = score + ops.convert_to_tensor(mask, dtype=score.dtype)
        x = ops.matmul(ops.softmax(score, axis=-1), value)
        x = ops.transpose(x, (0, 2, 1, 3))
        width = self.num_heads * self.head_dim
        return self.out_proj(ops.reshape(x, (-1, length, width)))

    def _heads(self, x: Any) -> Any:
        shape = (-1, x.shape[1], self.num_heads, self.head_dim)
        return ops.transpose(ops.reshape(x, shape), (0, 2, 1, 3))


# === Images ===


def build_image_encoder(spec: AutoencoderSpec, dtype: Any = None) -> Any:
    """Builds an image encoder with fresh weights.

    Args:
        spec: An `AutoencoderSpec`.
        dtype: A dtype policy's name, or `None` for the global one.

    Returns:
        A `keras.Sequential` of images `(B, H, W, 3)` in [-1, 1] to the mean
        of the latents `(B, H/8, W/8, 4)`, scaled.
    """
    with dtype_policy_scope(dtype):
        stack: list[Any] = [layers.Input((None, None, 3))]
        stack.append(PaddedConv2D(spec.encoder_widths[0], 3))
        bottom = len(spec.encoder_widths) - 1
        for level, width in enumerate(spec.encoder_widths):
            stack += _blocks(width, spec.encoder_blocks, spec.groups)
            if level < bottom:
                stack.append(PaddedConv2D(width, 3, strides=2))
        stack += _middle(spec.encoder_widths[-1], spec.groups)
        stack += _exit(2 * spec.latent_channels, spec.groups)
        stack.append(PaddedConv2D(2 * spec.latent_channels, 1))
        stack.append(_scaled_mean(spec))
        return keras.Sequential(stack)


def build_decoder(
    spec: AutoencoderSpec,
    height: int | None = None,
    width: int | None = None,
    dtype: Any = None,
) -> Any:
    """Builds a decoder with fresh weights.

    Args:
        spec: An `AutoencoderSpec`.
        height: Integer, pixels, or `None` for any.
        width: Likewise.
        dtype: A dtype policy's name, or `None` for the global one.

    Returns:
        A `keras.Sequential` of latents `(B, H/8, W/8, 4)` to images
        `(B, H, W, 3)` in about [-1, 1].
    """
    sides = [None if side is None else side // 8 for side in (height, width)]
    with dtype_policy_scope(dtype):
        stack = [
            layers.Input((*sides, spec.latent_channels)),
            layers.Rescaling(1.0 / spec.latent_scale),
            PaddedConv2D(spec.latent_channels, 1),
            PaddedConv2D(spec.decoder_widths[-1], 3),
            *_middle(spec.decoder_widths[-1], spec.groups),
        ]
        for level in reversed(range(len(spec.decoder_widths))):
            here = spec.decoder_widths[level]
            stack += _blocks(here, spec.decoder_blocks, spec.groups)
            if level > 0:
                stack.append(layers.UpSampling2D(2))
                stack.append(PaddedConv2D(here, 3))
        stack += _exit(3, spec.groups)
        return keras.Sequential(stack)


def moments_model(image_encoder: Any) -> Any:
    """Builds an encoder without its last layer, which keeps the mean only.

    Args:
        image_encoder: What `build_image_encoder` returns, or KerasCV's.

    Returns:
        A `keras.Model` of images to moments `(B, H/8, W/8, 8)`: the mean
        and the logarithm of the variance of the latents, unscaled.
    """
    return keras.Model(
        image_encoder.inputs[0],
        image_encoder.layers[-2].output,
        name="moments",
    )


def _blocks(width: int, count: int, groups: int) -> list[Any]:
    return [ResnetBlock(width, groups) for _ in range(count)]


def _middle(width: int, groups: int) -> list[Any]:
    return [
        ResnetBlock(width, groups),
        AttentionBlock(width, groups),
        ResnetBlock(width, groups),
    ]


def _exit(channels: int, groups: int) -> list[Any]:
    return [
        GroupNormalization(groups, epsilon=1e-5),
        layers.Activation("swish"),
        PaddedConv2D(channels, 3),
    ]


def _scaled_mean(spec: AutoencoderSpec) -> Any:
    channels, scale = spec.latent_channels, spec.latent_scale
    return layers.Lambda(
        lambda x: x[..., :channels] * scale,
        output_shape=lambda shape: (*shape[:-1], channels),
    )


class PaddedConv2D(layers.Layer):
    """A convolution that keeps the size, or halves it at stride 2.

    At even sizes "same" pads what KerasCV's image encoder pads: both sides
    alike at stride 1, the far sides alone at stride 2.
    """

    def __init__(
        self, filters: int, kernel_size: int, strides: int = 1, **kwargs: Any
    ):
        super().__init__(**kwargs)
        self.conv2d = layers.Conv2D(
            filters, kernel_size, strides=strides, padding="same"
        )

    def build(self, input_shape: Any) -> None:
        self.conv2d.build(input_shape)

    def compute_output_shape(self, input_shape: Any) -> Any:
        return self.conv2d.compute_output_shape(input_shape)

    def call(self, inputs: Any) -> Any:
        return self.conv2d(inputs)


class ResnetBlock(layers.Layer):
    """Two normalised convolutions with a residual."""

    def __init__(self, output_dim: int, groups: int = 32, **kwargs: Any):
        super().__init__(**kwargs)
        self.output_dim = output_dim
        self.norm1 = GroupNormalization(groups, epsilon=1e-5)
        self.conv1 = PaddedConv2D(output_dim, 3)
        self.norm2 = GroupNormalization(groups, epsilon=1e-5)
        self.conv2 = PaddedConv2D(output_dim, 3)

    def build(self, input_shape: Any) -> None:
        hidden = (*input_shape[:-1], self.output_dim)
        self.norm1.build(input_shape)
        self.conv1.build(input_shape)
        self.norm2.build(hidden)
        self.conv2.build(hidden)
        self.residual_projection = None
        if input_shape[-1] != self.output_dim:
            self.residual_projection = PaddedConv2D(self.output_dim, 1)
            self.residual_projection.build(input_shape)

    def compute_output_shape(self, input_shape: Any) -> Any:
        return (*input_shape[:-1], self.output_dim)

    def call(self, inputs: Any) -> Any:
        x = self.conv1(ops.silu(self.norm1(inputs)))
        x = self.conv2(ops.silu(self.norm2(x)))
        if self.residual_projection is not None:
            inputs = self.residual_projection(inputs)
        return x + inputs


class AttentionBlock(layers.Layer):
    """Attention between all places of the smallest level."""

    def __init__(self, output_dim: int, groups: int = 32, **kwargs: Any):
        super().__init__(**kwargs)
        self.output_dim = output_dim
        self.norm = GroupNormalization(groups, epsilon=1e-5)
        self.q = PaddedConv2D(output_dim, 1)
        self.k = PaddedConv2D(output_dim, 1)
        self.v = PaddedConv2D(output_dim, 1)
        self.proj_out = PaddedConv2D(output_dim, 1)

    def build(self, input_shape: Any) -> None:
        for layer in (self.norm, self.q, self.k, self.v, self.proj_out):
            layer.build(input_shape)

    def compute_output_shape(self, input_shape: Any) -> Any:
        return input_shape

    def call(self, inputs: Any) -> Any:
        shape = ops.shape(inputs)
        rows = (-1, shape[1] * shape[2], self.output_dim)
        x = self.norm(inputs)
        query, key, value = (
            ops.reshape(layer(x), rows) for layer in (self.q, self.k, self.v)
        )
        query = query * self.output_dim**-0.5
        score = ops.matmul(query, ops.transpose(key, (0, 2, 1)))
        x = ops.matmul(ops.softmax(score, axis=-1), value)
        x = ops.reshape(x, (-1, shape[1], shape[2], self.output_dim))
        return self.proj_out(x) + inputs
