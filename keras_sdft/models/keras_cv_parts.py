"""The only file that knows KerasCV's private blocks.

keras-cv 0.9.0 is the last release and is pinned; what we need of its insides
is imported here and nowhere else. SD 1.x and 2.x get KerasCV's own encoder
and decoder classes; narrower models are put together from the same blocks.
"""

from __future__ import annotations

from typing import Any

import keras
from keras import layers
from keras import ops
from keras_cv.models import StableDiffusion as KerasCVStableDiffusion
from keras_cv.models.stable_diffusion import Decoder
from keras_cv.models.stable_diffusion import (
    DiffusionModel as KerasCVDiffusionModel,
)
from keras_cv.models.stable_diffusion import ImageEncoder
from keras_cv.models.stable_diffusion import SimpleTokenizer
from keras_cv.models.stable_diffusion import TextEncoder
from keras_cv.models.stable_diffusion import TextEncoderV2
from keras_cv.src.models.stable_diffusion.attention_block import AttentionBlock
from keras_cv.src.models.stable_diffusion.constants import _ALPHAS_CUMPROD
from keras_cv.src.models.stable_diffusion.padded_conv2d import PaddedConv2D
from keras_cv.src.models.stable_diffusion.resnet_block import ResnetBlock
from keras_cv.src.models.stable_diffusion.stable_diffusion import (
    StableDiffusionBase,
)
from keras_cv.src.models.stable_diffusion.text_encoder import CLIPEmbedding
from keras_cv.src.models.stable_diffusion.text_encoder import CLIPEncoderLayer
from keras_cv.src.models.stable_diffusion.text_encoder import quick_gelu

from keras_sdft.models.dtypes import dtype_policy_scope
from keras_sdft.models.spec import AutoencoderSpec
from keras_sdft.models.spec import TextEncoderSpec

__all__ = [
    "KerasCVDiffusionModel",
    "KerasCVStableDiffusion",
    "SimpleTokenizer",
    "StableDiffusionBase",
    "build_decoder",
    "build_image_encoder",
    "build_text_encoder",
    "moments_model",
    "sampler_alphas_cumprod",
]

_SD1_TEXT = TextEncoderSpec()
_SD2_TEXT = TextEncoderSpec(
    width=1024, depth=23, num_heads=16, activation="gelu"
)
_FULL_AUTOENCODER = AutoencoderSpec()
_ACTIVATIONS = {"quick_gelu": quick_gelu, "gelu": ops.gelu}


def sampler_alphas_cumprod() -> list[float]:
    """The table that KerasCV samples with, to check ours against."""
    return list(_ALPHAS_CUMPROD)


def build_text_encoder(spec: TextEncoderSpec, dtype: Any = None) -> Any:
    """A text encoder with fresh weights.

    Args:
        spec: A `TextEncoderSpec`.
        dtype: A dtype policy's name, or `None` for the global one.

    Returns:
        A `keras.Model` of `{"tokens": (B, 77), "positions": (1, 77)}` to a
        context `(B, 77, width)`: KerasCV's class for SD 1.x and 2.x.
    """
    with dtype_policy_scope(dtype):
        if spec == _SD1_TEXT:
            return TextEncoder(spec.max_length, download_weights=False)
        if spec == _SD2_TEXT:
            return TextEncoderV2(spec.max_length, download_weights=False)
        return _narrow_text_encoder(spec)


def _narrow_text_encoder(spec: TextEncoderSpec) -> Any:
    shape = (spec.max_length,)
    tokens = layers.Input(shape, dtype="int32", name="tokens")
    positions = layers.Input(shape, dtype="int32", name="positions")
    embedding = CLIPEmbedding(spec.vocabulary_size, spec.width, spec.max_length)
    x = embedding([tokens, positions])
    for _ in range(spec.depth):
        layer = CLIPEncoderLayer(
            spec.width,
            spec.num_heads,
            activation=_ACTIVATIONS[spec.activation],
        )
        # KerasCV's layer fixes the feed-forward at four times the width.
        x = layer(x)
    x = layers.LayerNormalization(epsilon=1e-5)(x)
    return keras.Model([tokens, positions], x)


def build_image_encoder(spec: AutoencoderSpec, dtype: Any = None) -> Any:
    """An image encoder with fresh weights.

    Args:
        spec: An `AutoencoderSpec`.
        dtype: A dtype policy's name, or `None` for the global one.

    Returns:
        A `keras.Sequential` of images `(B, H, W, 3)` in [-1, 1] to the mean
        of the latents `(B, H/8, W/8, 4)`, scaled: KerasCV's `ImageEncoder`
        for SD 1.x and 2.x.
    """
    with dtype_policy_scope(dtype):
        if spec == _FULL_AUTOENCODER:
            return ImageEncoder(download_weights=False)
        stack = [layers.Input((None, None, 3))]
        stack.append(PaddedConv2D(spec.encoder_widths[0], 3, padding=1))
        bottom = len(spec.encoder_widths) - 1
        for level, width in enumerate(spec.encoder_widths):
            for _ in range(spec.encoder_blocks):
                stack.append(ResnetBlock(width))
            if level < bottom:
                far_side = ((0, 1), (0, 1))
                stack.append(
                    PaddedConv2D(width, 3, padding=far_side, strides=2)
                )
        stack += _middle(spec.encoder_widths[-1])
        stack += _exit(2 * spec.latent_channels)
        stack.append(PaddedConv2D(2 * spec.latent_channels, 1))
        stack.append(_scaled_mean(spec))
        return _sequential(stack, spec.groups)


def build_decoder(
    spec: AutoencoderSpec, height: int, width: int, dtype: Any = None
) -> Any:
    """A decoder with fresh weights.

    Args:
        spec: An `AutoencoderSpec`.
        height: Integer, pixels.
        width: Integer, pixels.
        dtype: A dtype policy's name, or `None` for the global one.

    Returns:
        A `keras.Sequential` of latents `(B, H/8, W/8, 4)` to images
        `(B, H, W, 3)` in about [-1, 1]: KerasCV's `Decoder` for SD 1.x and
        2.x.
    """
    with dtype_policy_scope(dtype):
        if spec == _FULL_AUTOENCODER:
            return Decoder(height, width, download_weights=False)
        stack = [
            layers.Input((height // 8, width // 8, spec.latent_channels)),
            layers.Rescaling(1.0 / spec.latent_scale),
            PaddedConv2D(spec.latent_channels, 1),
            PaddedConv2D(spec.decoder_widths[-1], 3, padding=1),
            *_middle(spec.decoder_widths[-1]),
        ]
        for level in reversed(range(len(spec.decoder_widths))):
            here = spec.decoder_widths[level]
            stack += [ResnetBlock(here) for _ in range(spec.decoder_blocks)]
            if level > 0:
                stack.append(layers.UpSampling2D(2))
                stack.append(PaddedConv2D(here, 3, padding=1))
        stack += _exit(3)
        return _sequential(stack, spec.groups)


def moments_model(image_encoder: Any) -> Any:
    """The same encoder without its last layer, which keeps the mean only.

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


def _middle(width: int) -> list[Any]:
    return [ResnetBlock(width), AttentionBlock(width), ResnetBlock(width)]


def _exit(channels: int) -> list[Any]:
    return [
        layers.GroupNormalization(epsilon=1e-5),
        layers.Activation("swish"),
        PaddedConv2D(channels, 3, padding=1),
    ]


def _scaled_mean(spec: AutoencoderSpec) -> Any:
    channels, scale = spec.latent_channels, spec.latent_scale
    return layers.Lambda(lambda x: x[..., :channels] * scale)


def _sequential(stack: list[Any], groups: int) -> Any:
    # KerasCV's blocks fix 32 groups; the number is read at build time.
    for layer in stack:
        if isinstance(layer, layers.Layer):
            for inner in layer._flatten_layers():
                if isinstance(inner, layers.GroupNormalization):
                    inner.groups = groups
    return keras.Sequential(stack)
