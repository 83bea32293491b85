"""Checks that a network can be built from a spec that a file holds.

A file's numbers are not trusted: whoever lists a network's weights does as
many steps as the spec says there are layers. Must not know formats.
"""

import functools
from typing import Any

from keras_sdft.models.spec import StableDiffusionSpec

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
    wrong = [
        name
        for name, is_right in _KINDS.items()
        if not is_right(_value(spec, name))
    ]
    # How fields fit each other, once each of them is a number.
    if not wrong:
        wrong = [n for n, is_right in _relations(spec).items() if not is_right]
    if wrong:
        values = ", ".join(f"{name}={_text(spec, name)}" for name in wrong[:5])
        raise ValueError(
            f"{where} describes no Stable Diffusion model that can be built: "
            f"{values}."
        )
    return spec


def _relations(spec: StableDiffusionSpec) -> dict[str, bool]:
    unet, text, vae = spec.diffusion_model, spec.text_encoder, spec.autoencoder
    return {
        "diffusion_model.widths": _divide(unet.groups, unet.widths),
        "diffusion_model.num_heads": len(unet.num_heads) == len(unet.widths)
        and not any(
            width % heads
            for width, heads in zip(unet.widths, unet.num_heads, strict=True)
        ),
        "text_encoder.num_heads": text.width % text.num_heads == 0,
        "autoencoder.encoder_widths": _divide(vae.groups, vae.encoder_widths),
        "autoencoder.decoder_widths": _divide(vae.groups, vae.decoder_widths),
        "clip_skip": spec.clip_skip <= text.depth,
    }


def _divide(divisor: int, numbers: Any) -> bool:
    return not any(number % divisor for number in numbers)


def _value(spec: Any, name: str) -> Any:
    return functools.reduce(getattr, name.split("."), spec)


def _text(spec: Any, name: str) -> str:
    text = repr(_value(spec, name))
    return text if len(text) <= 60 else f"{text[:60]}..."


def _count(limit: int, least: int = 1) -> Any:
    return lambda value: type(value) is int and least <= value <= limit


def _counts(least: int, most: int) -> Any:
    is_width = _count(_MAX_WIDTH)
    return lambda values: (
        isinstance(values, tuple)
        and least <= len(values) <= most
        and all(is_width(value) for value in values)
    )


def _one_of(*choices: Any) -> Any:
    return lambda value: any(value is c or value == c for c in choices)


def _is_bool(value: Any) -> bool:
    return isinstance(value, bool)


# What each field may be by itself.
_KINDS = {
    "name": lambda value: isinstance(value, str),
    "resolution": lambda value: _count(1 << 16)(value) and value % 8 == 0,
    "prediction_type": _one_of("epsilon", "v_prediction"),
    "pad_token": lambda value: value == "end" or _count(1 << 24, 0)(value),
    "zero_terminal_snr": _is_bool,
    "timestep_spacing": _one_of(None, "linspace", "leading", "trailing"),
    "steps_offset": _count(999, 0),
    "clip_skip": _count(_MAX_LAYERS),
    "num_steps": _count(1000),
    "guidance_scale": lambda value: (
        type(value) in (int, float) and 0 <= value < 1e6
    ),
    "diffusion_model.widths": _counts(2, _MAX_LEVELS),
    "diffusion_model.blocks": _count(_MAX_LAYERS),
    "diffusion_model.num_heads": _counts(2, _MAX_LEVELS),
    "diffusion_model.context_width": _count(_MAX_WIDTH),
    "diffusion_model.linear_projection": _is_bool,
    "diffusion_model.groups": _count(_MAX_WIDTH),
    "diffusion_model.latent_channels": _count(64),
    "text_encoder.vocabulary_size": _count(1 << 24),
    "text_encoder.width": _count(_MAX_WIDTH),
    "text_encoder.depth": _count(_MAX_LAYERS),
    "text_encoder.num_heads": _count(_MAX_WIDTH),
    "text_encoder.activation": _one_of("quick_gelu", "gelu"),
    "text_encoder.max_length": _count(1 << 16),
    # Four levels make latents of an eighth of the image's size.
    "autoencoder.encoder_widths": _counts(4, 4),
    "autoencoder.encoder_blocks": _count(_MAX_LAYERS),
    "autoencoder.decoder_widths": _counts(4, 4),
    "autoencoder.decoder_blocks": _count(_MAX_LAYERS),
    "autoencoder.groups": _count(_MAX_WIDTH),
    "autoencoder.latent_channels": _count(64),
    "autoencoder.latent_scale": lambda value: (
        isinstance(value, float) and 0 < value < 1e6
    ),
}
