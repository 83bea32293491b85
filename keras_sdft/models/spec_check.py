"""Checks that a network can be built from a spec that a file holds.

A file's numbers are not trusted: whoever lists a network's weights does as
many steps as the spec says there are layers. Must not know formats.
"""

from __future__ import annotations

from typing import Any

from keras_sdft.models.spec import AutoencoderSpec
from keras_sdft.models.spec import DiffusionModelSpec
from keras_sdft.models.spec import StableDiffusionSpec
from keras_sdft.models.spec import TextEncoderSpec

# Far beyond any Stable Diffusion.
_MAX_LAYERS = 200
_MAX_LEVELS = 8
_MAX_WIDTH = 1 << 20


def check_spec(spec: StableDiffusionSpec, where: str) -> StableDiffusionSpec:
    """Refuses sizes and conventions that no network of ours has.

    Args:
        spec: A `StableDiffusionSpec` whose fields may hold anything.
        where: Where it comes from, for the message.

    Returns:
        `spec`.

    Raises:
        ValueError: If a field is of another kind or out of its range.
    """
    checks = (
        _diffusion_model(spec.diffusion_model)
        | _text_encoder(spec.text_encoder)
        | _autoencoder(spec.autoencoder)
        | _conventions(spec)
    )
    wrong = [name for name, is_right in checks.items() if not is_right]
    if wrong:
        values = ", ".join(f"{name}={_value(spec, name)}" for name in wrong[:5])
        raise ValueError(
            f"{where} describes no Stable Diffusion model that can be built: "
            f"{values}."
        )
    return spec


def _value(spec: StableDiffusionSpec, name: str) -> str:
    value: Any = spec
    for field in name.split("."):
        value = getattr(value, field)
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}..."


def _diffusion_model(unet: DiffusionModelSpec) -> dict[str, bool]:
    widths = _widths(unet.widths) and 2 <= len(unet.widths)
    groups = _count(unet.groups, _MAX_WIDTH)
    heads = _widths(unet.num_heads)
    return {
        "diffusion_model.widths": widths
        and groups
        and not any(width % unet.groups for width in unet.widths),
        "diffusion_model.groups": groups,
        "diffusion_model.blocks": _count(unet.blocks, _MAX_LAYERS),
        "diffusion_model.num_heads": widths
        and heads
        and len(unet.num_heads) == len(unet.widths)
        and not any(
            width % count
            for width, count in zip(unet.widths, unet.num_heads, strict=True)
        ),
        "diffusion_model.context_width": _count(unet.context_width, _MAX_WIDTH),
        "diffusion_model.linear_projection": isinstance(
            unet.linear_projection, bool
        ),
        "diffusion_model.latent_channels": _count(unet.latent_channels, 64),
    }


def _text_encoder(text: TextEncoderSpec) -> dict[str, bool]:
    width = _count(text.width, _MAX_WIDTH)
    return {
        "text_encoder.vocabulary_size": _count(text.vocabulary_size, 1 << 24),
        "text_encoder.width": width,
        "text_encoder.depth": _count(text.depth, _MAX_LAYERS),
        "text_encoder.num_heads": width
        and _count(text.num_heads, _MAX_WIDTH)
        and text.width % text.num_heads == 0,
        "text_encoder.activation": text.activation in ("quick_gelu", "gelu"),
        "text_encoder.max_length": _count(text.max_length, 1 << 16),
    }


def _autoencoder(vae: AutoencoderSpec) -> dict[str, bool]:
    groups = _count(vae.groups, _MAX_WIDTH)
    checks = {"autoencoder.groups": groups}
    for name in ("encoder_widths", "decoder_widths"):
        widths = getattr(vae, name)
        # Four levels make latents of an eighth of the image's size.
        checks[f"autoencoder.{name}"] = (
            _widths(widths)
            and len(widths) == 4
            and groups
            and not any(width % vae.groups for width in widths)
        )
    for name in ("encoder_blocks", "decoder_blocks"):
        blocks = getattr(vae, name)
        checks[f"autoencoder.{name}"] = _count(blocks, _MAX_LAYERS)
    channels, scale = vae.latent_channels, vae.latent_scale
    checks["autoencoder.latent_channels"] = _count(channels, 64)
    checks["autoencoder.latent_scale"] = (
        isinstance(scale, float) and 0 < scale < 1e6
    )
    return checks


def _conventions(spec: StableDiffusionSpec) -> dict[str, bool]:
    pad = spec.pad_token
    return {
        "name": isinstance(spec.name, str),
        "resolution": _count(spec.resolution, 1 << 16)
        and spec.resolution % 8 == 0,
        "prediction_type": spec.prediction_type in ("epsilon", "v_prediction"),
        "pad_token": pad == "end" or (type(pad) is int and 0 <= pad < 1 << 24),
        "zero_terminal_snr": isinstance(spec.zero_terminal_snr, bool),
        "timestep_spacing": spec.timestep_spacing is None
        or spec.timestep_spacing in ("linspace", "leading", "trailing"),
        "steps_offset": type(spec.steps_offset) is int
        and 0 <= spec.steps_offset < 1000,
        "clip_skip": _count(spec.clip_skip, _MAX_LAYERS)
        and _count(spec.text_encoder.depth, _MAX_LAYERS)
        and spec.clip_skip <= spec.text_encoder.depth,
    }


def _count(value: Any, limit: int) -> bool:
    return type(value) is int and 0 < value <= limit


def _widths(values: Any) -> bool:
    return (
        isinstance(values, tuple)
        and 0 < len(values) <= _MAX_LEVELS
        and all(_count(value, _MAX_WIDTH) for value in values)
    )
