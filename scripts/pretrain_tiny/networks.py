"""Builds the networks to train, with their initial weights.

Needs no keras_cv. Must not know data or losses.
"""

import dataclasses

import numpy as np
from keras import ops

from keras_sdft.models import PRESETS
from keras_sdft.models import DiffusionModel
from keras_sdft.models import StableDiffusionSpec
from keras_sdft.models import small_encoders
from keras_sdft.models.initialise import initialise
from keras_sdft.models.unet import blocks

_LOG_VARIANCE = -5.0


def tiny_spec(blocks: "int | None" = None) -> StableDiffusionSpec:
    """Returns the preset's spec, with another number of blocks if given."""
    spec = PRESETS["tiny"].spec
    if blocks is None:
        return spec
    unet = dataclasses.replace(spec.diffusion_model, blocks=blocks)
    return dataclasses.replace(spec, diffusion_model=unet)


def build_autoencoder(spec: StableDiffusionSpec, seed: int = 0):
    """Builds an image encoder that returns moments, and a decoder.

    Args:
        spec: A `StableDiffusionSpec`.
        seed: Integer >= 0.

    Returns:
        Tuple of `keras.Model`: moments model, decoder.
    """
    parts = spec.autoencoder
    encoder = small_encoders.build_image_encoder(parts)
    decoder = small_encoders.build_decoder(parts)
    for index, model in enumerate((encoder, decoder)):
        initialise(model, seed + 1000 * index)
        _zero_residual_branches(model)
    # The first latents hardly scatter, or the decoder would see noise.
    last = encoder.layers[-2].conv2d
    bias = np.zeros(last.bias.shape, "float32")
    bias[parts.latent_channels :] = _LOG_VARIANCE
    last.bias.assign(bias)
    return small_encoders.moments_model(encoder), decoder


def build_text_to_image(
    spec: StableDiffusionSpec, seed: int = 0, dtype: "str | None" = None
):
    """Builds a text encoder and a U-Net whose output depends on the caption.

    With the usual initialization (small embeddings, large positions) the
    states of different captions hardly differ, and training learns images
    without their captions. Most of the 77 states are those of padding, so
    these must depend on the caption too.

    Args:
        spec: A `StableDiffusionSpec`.
        seed: Integer >= 0.
        dtype: Name of a dtype policy, or `None`.

    Returns:
        Tuple of `keras.Model`: text encoder, diffusion model.
    """
    text_encoder = small_encoders.build_text_encoder(spec.text_encoder, dtype)
    unet = DiffusionModel(
        spec.diffusion_model,
        max_length=spec.text_encoder.max_length,
        dtype=dtype,
        name="diffusion_model",
    )
    initialise(text_encoder, seed + 2000)
    initialise(unet, seed + 3000)
    generator = np.random.default_rng([seed, 4000])
    _scale_token_embeddings(
        text_encoder, generator, spec.text_encoder.vocabulary_size
    )
    _zero_residual_branches(unet)
    for layer in unet._flatten_layers():
        if isinstance(layer, blocks.BasicTransformerBlock):
            _scale_cross_attention(layer.attn2, generator)
    return text_encoder, unet


def _scale_token_embeddings(text_encoder, generator, vocabulary_size):
    for layer in text_encoder._flatten_layers():
        if isinstance(layer, small_encoders.CLIPEmbedding):
            tokens = layer.token_embedding.embeddings
            _draw(tokens, 1.0, generator)
            _draw(layer.position_embedding.embeddings, 0.05, generator)
            # Start, and end, which pads: nearly nothing of their own, so
            # that their states are made of what attention brings.
            values = np.array(ops.convert_to_numpy(tokens))
            values[vocabulary_size - 2 :] *= 0.01
            tokens.assign(values)


def _scale_cross_attention(attention, generator):
    for dense, gain in (
        (attention.to_q, 1.5),
        (attention.to_k, 1.5),
        (attention.to_v, 1.0),
        (attention.out_proj, 1.0),
    ):
        fan_in = dense.kernel.shape[0]
        _draw(dense.kernel, gain / fan_in**0.5, generator)


def _draw(variable, deviation, generator):
    variable.assign(generator.normal(0.0, deviation, tuple(variable.shape)))


def _zero_residual_branches(model):
    """Zeroes the last layer of each block, so that it adds nothing at first."""
    for layer in model._flatten_layers():
        if isinstance(layer, blocks.ResBlock):
            last = layer.exit_flow[-1].conv2d
        elif isinstance(layer, blocks.SpatialTransformer):
            last = getattr(layer.proj2, "conv2d", layer.proj2)
        elif isinstance(layer, small_encoders.ResnetBlock):
            last = layer.conv2.conv2d
        elif isinstance(layer, small_encoders.AttentionBlock):
            last = layer.proj_out.conv2d
        else:
            continue
        last.kernel.assign(np.zeros(last.kernel.shape, "float32"))
