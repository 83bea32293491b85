"""diffusers' JSON configurations, read into a spec.

A configuration that our networks do not compute is refused by name, never
approximated. Must not know weights.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from keras_sdft.models.prediction_types import PREDICTION_TYPES
from keras_sdft.models.prediction_types import known_prediction_type
from keras_sdft.models.presets import PRESETS
from keras_sdft.models.spec import AutoencoderSpec
from keras_sdft.models.spec import DiffusionModelSpec
from keras_sdft.models.spec import StableDiffusionSpec
from keras_sdft.models.spec import TextEncoderSpec

# Far beyond any real configuration.
_MAX_WIDTH = 1 << 20

# U-Nets that take more than latents, by their input channels.
KINDS_BY_CHANNELS = {
    5: "a depth",
    7: "an upscaling",
    8: "an instruction-editing",
    9: "an inpainting",
}

# What our networks are, in the words of each configuration: a field that is
# present and different means another network. The value is what absence
# means too.
_UNET_FIXED = {
    "act_fn": ("silu", "swish"),
    "addition_embed_type": (None,),
    "attention_type": ("default",),
    "center_input_sample": (False,),
    "class_embed_type": (None,),
    "class_embeddings_concat": (False,),
    "conv_in_kernel": (3,),
    "conv_out_kernel": (3,),
    "downsample_padding": (1,),
    "dual_cross_attention": (False,),
    "encoder_hid_dim": (None,),
    "encoder_hid_dim_type": (None,),
    "flip_sin_to_cos": (True,),
    "freq_shift": (0,),
    "mid_block_scale_factor": (1,),
    "mid_block_type": ("UNetMidBlock2DCrossAttn",),
    "norm_eps": (1e-5,),
    "num_class_embeds": (None,),
    "only_cross_attention": (False,),
    "resnet_time_scale_shift": ("default",),
    "reverse_transformer_layers_per_block": (None,),
    "time_cond_proj_dim": (None,),
    "time_embedding_type": ("positional",),
    "timestep_post_act": (None,),
    "transformer_layers_per_block": (1,),
}
_VAE_FIXED = {
    "act_fn": ("silu", "swish"),
    "in_channels": (3,),
    "latents_mean": (None,),
    "latents_std": (None,),
    "mid_block_add_attention": (True,),
    "out_channels": (3,),
    "shift_factor": (None,),
    "use_post_quant_conv": (True,),
    "use_quant_conv": (True,),
}
_TEXT_FIXED = {"layer_norm_eps": (1e-5,)}
_SPACINGS = ("linspace", "leading", "trailing")
# Those for which diffusers takes "leading" where nothing is declared.
_LEADING_SCHEDULERS = {
    "DDIMScheduler",
    "DDPMScheduler",
    "LCMScheduler",
    "PNDMScheduler",
    "TCDScheduler",
}
_SCHEDULE_FIXED = {
    "beta_start": (0.00085,),
    "beta_end": (0.012,),
    "beta_schedule": ("scaled_linear",),
    "num_train_timesteps": (1000,),
    "rescale_betas_zero_snr": (False, True),
    "trained_betas": (None,),
}


def read_unet(config: Mapping[str, Any], where: str) -> DiffusionModelSpec:
    """Reads the spec of a `UNet2DConditionModel` configuration.

    Args:
        config: The JSON object.
        where: Its path, for messages.

    Raises:
        ValueError: If it is another network than ours.
    """
    channels = config.get("in_channels", 4)
    if config.get("addition_embed_type") == "text_time":
        raise ValueError(
            f"{where!r} is a Stable Diffusion XL model. Expected SD 1.x or 2.x."
        )
    if channels != config.get("out_channels", 4):
        check_channels(where, channels)
        _check_fixed(config, {"out_channels": (channels,)}, where)
    _check_fixed(config, _UNET_FIXED, where)
    widths = _integers(config, "block_out_channels", where)
    levels = len(widths)
    down = ["CrossAttnDownBlock2D"] * (levels - 1) + ["DownBlock2D"]
    up = ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * (levels - 1)
    _check_fixed(
        config, {"down_block_types": (down,), "up_block_types": (up,)}, where
    )
    heads = config.get("num_attention_heads") or config.get(
        "attention_head_dim", 8
    )
    # diffusers calls the number of heads `attention_head_dim`.
    heads = heads if isinstance(heads, list) else [heads] * levels
    spec = DiffusionModelSpec(
        widths=widths,
        blocks=_integer(config, "layers_per_block", where, 2),
        num_heads=_integers({"heads": heads}, "heads", where),
        context_width=_integer(config, "cross_attention_dim", where),
        linear_projection=bool(config.get("use_linear_projection", False)),
        groups=_integer(config, "norm_num_groups", where, 32),
        latent_channels=_integer(config, "in_channels", where, 4),
    )
    fits = all(
        width % count == 0 for width, count in zip(widths, heads, strict=False)
    )
    if len(heads) != levels or not fits:
        raise ValueError(
            f"{where!r} has attention_head_dim={heads} (it means the number "
            f"of heads) for widths {list(widths)}."
        )
    return spec


def check_channels(where: str, channels: Any) -> None:
    """Refuses U-Nets that take more than latents, by name.

    Args:
        where: Path of the model, for the message.
        channels: The input channels.

    Raises:
        ValueError: If they are not 4.
    """
    if channels != 4:
        known = isinstance(channels, int)
        kind = KINDS_BY_CHANNELS.get(channels) if known else None
        raise ValueError(
            f"{where!r} is {kind or 'another kind of'} U-Net: it takes "
            f"{channels} channels. Expected a text-to-image model, with 4."
        )


def read_vae(
    config: Mapping[str, Any],
    where: str,
    own_blocks: tuple[int, int] | None = None,
) -> AutoencoderSpec:
    """Reads the spec of an `AutoencoderKL` configuration.

    Args:
        config: The JSON object.
        where: Its path, for messages.
        own_blocks: How many blocks of the encoder and of the decoder do
            something, if fewer than the configuration has.
    """
    _check_fixed(config, _VAE_FIXED, where)
    widths = _integers(config, "block_out_channels", where)
    levels = len(widths)
    blocks = _integer(config, "layers_per_block", where, 1)
    _check_fixed(
        config,
        {
            "down_block_types": (["DownEncoderBlock2D"] * levels,),
            "up_block_types": (["UpDecoderBlock2D"] * levels,),
        },
        where,
    )
    if levels != 4:
        raise ValueError(
            f"{where!r} has {levels} levels. Expected 4: latents of an eighth "
            "of the image's size."
        )
    own_blocks = own_blocks or (blocks, blocks + 1)
    if max(own_blocks[0], own_blocks[1] - 1) != blocks or 0 in own_blocks:
        raise ValueError(
            f"{where!r} has layers_per_block={blocks}, and the weights' "
            f"metadata declares {own_blocks} blocks."
        )
    scale = config.get("scaling_factor", 0.18215)
    if not isinstance(scale, float) or not 0 < scale < 1e6:
        raise ValueError(f"{where!r} has scaling_factor {scale!r}.")
    return AutoencoderSpec(
        encoder_widths=widths,
        encoder_blocks=own_blocks[0],
        decoder_widths=widths,
        decoder_blocks=own_blocks[1],
        groups=_integer(config, "norm_num_groups", where, 32),
        latent_channels=_integer(config, "latent_channels", where, 4),
        latent_scale=scale,
    )


def read_text_encoder(config: Mapping[str, Any], where: str) -> TextEncoderSpec:
    """Reads the spec of a `CLIPTextModel` configuration."""
    # A whole CLIP's, of which the text encoder is a part.
    part = config.get("text_config")
    config = part if isinstance(part, dict) else config
    _check_fixed(config, _TEXT_FIXED, where)
    width = _integer(config, "hidden_size", where, 512)
    if _integer(config, "intermediate_size", where, 2048) != 4 * width:
        raise ValueError(
            f"{where!r} has intermediate_size {config['intermediate_size']}. "
            f"Expected four times hidden_size: {4 * width}."
        )
    activation = config.get("hidden_act", "quick_gelu")
    if activation not in ("quick_gelu", "gelu"):
        raise ValueError(
            f"{where!r} has hidden_act {activation!r}. Expected 'quick_gelu' "
            "or 'gelu'."
        )
    return TextEncoderSpec(
        vocabulary_size=_integer(config, "vocab_size", where, 49408),
        width=width,
        depth=_integer(config, "num_hidden_layers", where, 12),
        num_heads=_integer(config, "num_attention_heads", where, 8),
        activation=activation,
        max_length=_integer(config, "max_position_embeddings", where, 77),
    )


def with_scheduler(
    spec: StableDiffusionSpec,
    config: Mapping[str, Any],
    where: str,
    prediction_type: str | None = None,
) -> StableDiffusionSpec:
    """Returns a spec with what a scheduler's configuration declares.

    Args:
        spec: The spec of the networks.
        config: The JSON object.
        where: Its path, for messages.
        prediction_type: What the user declares, or `None`.

    Raises:
        ValueError: If the schedule is not Stable Diffusion's, or what is
            predicted is not declared.
    """
    _check_fixed(config, _SCHEDULE_FIXED, where)
    name = config.get("_class_name")
    if not isinstance(name, str) or not name.isidentifier():
        raise ValueError(
            f"{where!r} has _class_name={name!r}. Expected the name of a "
            "scheduler, for example 'PNDMScheduler'."
        )
    declared = config.get("prediction_type")
    if declared is not None and declared not in PREDICTION_TYPES:
        raise ValueError(
            f"{where!r} has prediction_type {declared!r}. Expected one of "
            f"{PREDICTION_TYPES}."
        )
    predicted = known_prediction_type(where, spec, declared, prediction_type)
    zero_terminal_snr = bool(config.get("rescale_betas_zero_snr", False))
    if zero_terminal_snr and predicted == "epsilon":
        raise ValueError(
            f"{where!r} has rescale_betas_zero_snr=True with prediction_type "
            "'epsilon', which determines nothing at pure noise. Expected "
            "'v_prediction'."
        )
    return _with_spacing(
        dataclasses.replace(
            spec,
            prediction_type=predicted,
            zero_terminal_snr=zero_terminal_snr,
        ),
        config,
        where,
    )


def _with_spacing(
    spec: StableDiffusionSpec, config: Mapping[str, Any], where: str
) -> StableDiffusionSpec:
    leading = config["_class_name"] in _LEADING_SCHEDULERS
    spacing = config.get(
        "timestep_spacing", "leading" if leading else "linspace"
    )
    offset = config.get("steps_offset", 1)
    if spacing not in _SPACINGS:
        raise ValueError(
            f"{where!r} has timestep_spacing={spacing!r}. Expected one of "
            f"{_SPACINGS}."
        )
    if type(offset) is not int or not 0 <= offset < 1000:
        raise ValueError(
            f"{where!r} has steps_offset={offset!r}. Expected an integer in "
            "[0, 999]."
        )
    return dataclasses.replace(
        spec,
        # The default is left open, as our own models have it.
        timestep_spacing=None if spacing == spec.spacing else spacing,
        steps_offset=offset,
    )


def named(spec: StableDiffusionSpec) -> tuple[StableDiffusionSpec, str]:
    """Returns a spec with its family's name, and the nearest preset."""
    same = {
        name: preset.spec
        for name, preset in PRESETS.items()
        if preset.spec.diffusion_model == spec.diffusion_model
        and preset.spec.text_encoder == spec.text_encoder
    }
    if same:
        base = next(iter(same))
    else:
        base = (
            "sd2.1-base"
            if spec.text_encoder.activation == "gelu"
            else ("sd1.4")
        )
    return dataclasses.replace(spec, name=base), base


def with_sampling(spec: StableDiffusionSpec) -> StableDiffusionSpec:
    """Returns a named spec with the sampling of the nearest preset.

    No configuration of diffusers holds steps or guidance.
    """
    spec, base = named(spec)
    return dataclasses.replace(spec, **PRESETS[base].spec.sampling())


def _check_fixed(
    config: Mapping[str, Any], fixed: Mapping[str, tuple], where: str
) -> None:
    for key, allowed in fixed.items():
        value = config.get(key, allowed[0])
        # Equal is not enough: True == 1.
        same = [a for a in allowed if a == value and _alike(a, value)]
        if not same:
            raise ValueError(
                f"{where!r} has {key}={value!r}, which is another model than "
                f"Stable Diffusion 1.x and 2.x. Expected: {allowed[0]!r}."
            )


def _alike(a: Any, b: Any) -> bool:
    return isinstance(a, bool) == isinstance(b, bool)


def _integer(
    config: Mapping[str, Any], key: str, where: str, default: Any = None
) -> int:
    value = config.get(key, default)
    if type(value) is not int or not 0 < value <= _MAX_WIDTH:
        raise ValueError(
            f"{where!r} has {key}={value!r}. Expected a positive integer."
        )
    return value


def _integers(
    config: Mapping[str, Any], key: str, where: str
) -> tuple[int, ...]:
    values = config.get(key)
    if not isinstance(values, list) or not 2 <= len(values) <= 8:
        raise ValueError(
            f"{where!r} has {key}={values!r}. Expected a list of integers."
        )
    return tuple(_integer({key: value}, key, where) for value in values)
