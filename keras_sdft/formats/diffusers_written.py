"""diffusers' JSON configurations, written from a spec.

Must not know weights, nor how configurations are read.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from keras_sdft.models.spec import StableDiffusionSpec
from keras_sdft.models.spec import TextEncoderSpec


def write_json(path: Path, value: Any) -> None:
    """Writes JSON as diffusers does."""
    text = json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False)
    path.write_text(text + "\n", encoding="utf-8")


def unet_config(spec: StableDiffusionSpec) -> dict[str, Any]:
    """Returns the configuration of a `UNet2DConditionModel`."""
    unet = spec.diffusion_model
    levels = len(unet.widths)
    heads: Any = list(unet.num_heads)
    return {
        "_class_name": "UNet2DConditionModel",
        "_diffusers_version": "0.42.1",
        "act_fn": "silu",
        "attention_head_dim": heads[0] if len(set(heads)) == 1 else heads,
        "block_out_channels": list(unet.widths),
        "center_input_sample": False,
        "cross_attention_dim": unet.context_width,
        "down_block_types": [
            *["CrossAttnDownBlock2D"] * (levels - 1),
            "DownBlock2D",
        ],
        "downsample_padding": 1,
        "flip_sin_to_cos": True,
        "freq_shift": 0,
        "in_channels": unet.latent_channels,
        "layers_per_block": unet.blocks,
        "mid_block_scale_factor": 1,
        "norm_eps": 1e-05,
        "norm_num_groups": unet.groups,
        "out_channels": unet.latent_channels,
        "sample_size": spec.resolution // 8,
        "up_block_types": ["UpBlock2D", *["CrossAttnUpBlock2D"] * (levels - 1)],
        "use_linear_projection": unet.linear_projection,
    }


def vae_config(spec: StableDiffusionSpec, blocks: int) -> dict[str, Any]:
    """Returns the configuration of an `AutoencoderKL`.

    Args:
        spec: A `StableDiffusionSpec`.
        blocks: Integer, `layers_per_block`.
    """
    vae = spec.autoencoder
    levels = len(vae.encoder_widths)
    return {
        "_class_name": "AutoencoderKL",
        "_diffusers_version": "0.42.1",
        "act_fn": "silu",
        "block_out_channels": list(vae.encoder_widths),
        "down_block_types": ["DownEncoderBlock2D"] * levels,
        "in_channels": 3,
        "latent_channels": vae.latent_channels,
        "layers_per_block": blocks,
        "norm_num_groups": vae.groups,
        "out_channels": 3,
        "sample_size": spec.resolution,
        "scaling_factor": vae.latent_scale,
        "up_block_types": ["UpDecoderBlock2D"] * levels,
    }


def text_encoder_config(
    spec: TextEncoderSpec, start: int, end: int, pad: int
) -> dict[str, Any]:
    """Returns the configuration of a `CLIPTextModel`.

    Args:
        spec: A `TextEncoderSpec`.
        start: Integer, id of the start token.
        end: Integer, id of the end token.
        pad: Integer, id of the padding token.
    """
    return {
        "architectures": ["CLIPTextModel"],
        "attention_dropout": 0.0,
        "bos_token_id": start,
        "dropout": 0.0,
        "eos_token_id": end,
        "hidden_act": spec.activation,
        "hidden_size": spec.width,
        "initializer_factor": 1.0,
        "initializer_range": 0.02,
        "intermediate_size": 4 * spec.width,
        "layer_norm_eps": 1e-05,
        "max_position_embeddings": spec.max_length,
        "model_type": "clip_text_model",
        "num_attention_heads": spec.num_heads,
        "num_hidden_layers": spec.depth,
        "pad_token_id": pad,
        "projection_dim": spec.width,
        "vocab_size": spec.vocabulary_size,
    }


def scheduler_config(
    spec: StableDiffusionSpec, source: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Returns the configuration of the pipeline's scheduler.

    Args:
        spec: A `StableDiffusionSpec`.
        source: The configuration that the model came with, or `None`. It is
            kept, except for what training has changed.
    """
    spacing = {
        "timestep_spacing": spec.spacing,
        "steps_offset": spec.steps_offset,
    }
    conventions = {"prediction_type": spec.prediction_type}
    # Samplers that divide by the signal cannot begin at pure noise.
    new_end = spec.zero_terminal_snr and not (source or {}).get(
        "rescale_betas_zero_snr"
    )
    if source is not None and not new_end:
        return {**source, **conventions}
    common = {
        "_diffusers_version": "0.42.1",
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "beta_start": 0.00085,
        "num_train_timesteps": 1000,
        "trained_betas": None,
        **spacing,
        **conventions,
    }
    if spec.zero_terminal_snr:
        return {
            **common,
            "_class_name": "DDIMScheduler",
            "clip_sample": False,
            "rescale_betas_zero_snr": True,
            "set_alpha_to_one": True,
        }
    return {
        **common,
        "_class_name": "PNDMScheduler",
        "set_alpha_to_one": False,
        "skip_prk_steps": True,
    }


_MODEL_INDEX = {
    "_class_name": "StableDiffusionPipeline",
    "_diffusers_version": "0.42.1",
    "feature_extractor": [None, None],
    "image_encoder": [None, None],
    "requires_safety_checker": False,
    "safety_checker": [None, None],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "unet": ["diffusers", "UNet2DConditionModel"],
    "vae": ["diffusers", "AutoencoderKL"],
}


def model_index(scheduler: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the configuration of a pipeline with such a scheduler."""
    name = scheduler["_class_name"]
    return {**_MODEL_INDEX, "scheduler": ["diffusers", name]}
