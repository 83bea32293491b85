"""Original Stable Diffusion keys and diffusers', paired as data.

Modules are paired by prefix; what is inside a module is renamed part by
part. Both directions come from one dict. Must not know files.
"""

import functools
from collections.abc import Mapping

from keras_sdft.models.spec import StableDiffusionSpec
from keras_sdft.models.weight_names import COMPONENTS
from keras_sdft.models.weight_names import component_rows
from keras_sdft.models.weight_names import vae_layers_per_block

UNET = "model.diffusion_model."
VAE = "first_stage_model."
CLIP = "cond_stage_model.transformer."
OPEN_CLIP = "cond_stage_model.model."

_UNET_ENDS = (
    ("conv_in", "input_blocks.0.0"),
    ("time_embedding.linear_1", "time_embed.0"),
    ("time_embedding.linear_2", "time_embed.2"),
    ("mid_block.resnets.0", "middle_block.0"),
    ("mid_block.attentions.0", "middle_block.1"),
    ("mid_block.resnets.1", "middle_block.2"),
    ("conv_norm_out", "out.0"),
    ("conv_out", "out.2"),
)
_UNET_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
_VAE_PARTS = {
    "conv_norm_out": "norm_out",
    "conv_shortcut": "nin_shortcut",
    "group_norm": "norm",
    "to_q": "q",
    "to_k": "k",
    "to_v": "v",
    "to_out.0": "proj_out",
}
_OPEN_CLIP_LAYER = {
    "layer_norm1": "ln_1",
    "self_attn.out_proj": "attn.out_proj",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
}
_OPEN_CLIP_ENDS = {
    "text_model.embeddings.token_embedding.weight": "token_embedding.weight",
    "text_model.embeddings.position_embedding.weight": "positional_embedding",
    "text_model.final_layer_norm.weight": "ln_final.weight",
    "text_model.final_layer_norm.bias": "ln_final.bias",
}


def is_open_clip(spec: StableDiffusionSpec) -> bool:
    """Returns whether the text encoder is OpenCLIP's (SD 2.x)."""
    return spec.text_encoder.activation == "gelu"


@functools.lru_cache(maxsize=8)
def original_keys(
    spec: StableDiffusionSpec, open_clip: bool | None = None
) -> Mapping[str, Mapping[str, str | tuple[str, int]]]:
    """Returns where each weight is in an original checkpoint.

    Args:
        spec: A `StableDiffusionSpec`.
        open_clip: Boolean, whether the text encoder has OpenCLIP's keys.
            Defaults to what files of such a model have.

    Returns:
        A dict by component of dicts by diffusers' key of the original key,
        or of a pair `(key, i)` for the `i`-th third of that tensor: OpenCLIP
        keeps query, key and value in one.
    """
    if open_clip is None:
        open_clip = is_open_clip(spec)
    modules = {
        "unet": (UNET, _unet_modules(spec)),
        "vae": (VAE, _vae_modules(spec)),
        "text_encoder": (CLIP, []),
    }
    result: dict[str, dict[str, str | tuple[str, int]]] = {}
    for component in COMPONENTS:
        prefix, pairs = modules[component]
        keys = [row.theirs for row in component_rows(component, spec)]
        if component == "text_encoder" and open_clip:
            result[component] = {key: _open_clip(key) for key in keys}
        else:
            result[component] = {
                key: prefix + _renamed(key, pairs) for key in keys
            }
    return result


def _renamed(key: str, pairs: list[tuple[str, str, Mapping[str, str]]]) -> str:
    for theirs, original, inside in pairs:
        if key.startswith(theirs + "."):
            layer, _, leaf = key.removeprefix(f"{theirs}.").rpartition(".")
            parts = (original, inside.get(layer, layer), leaf)
            return ".".join(part for part in parts if part)
    return key


def _unet_modules(spec: StableDiffusionSpec) -> list:
    unet = spec.diffusion_model
    stride, levels = unet.blocks + 1, len(unet.widths)
    pairs: list = []
    for theirs, original in _UNET_ENDS:
        inside = _UNET_RESNET if "resnets" in theirs else {}
        pairs.append((theirs, original, inside))
    for i in range(levels):
        down, up = f"down_blocks.{i}", f"up_blocks.{i}"
        for j in range(unet.blocks):
            block = f"input_blocks.{stride * i + j + 1}"
            pairs.append((f"{down}.resnets.{j}", f"{block}.0", _UNET_RESNET))
            pairs.append((f"{down}.attentions.{j}", f"{block}.1", {}))
        block = f"input_blocks.{stride * (i + 1)}.0.op"
        pairs.append((f"{down}.downsamplers.0.conv", block, {}))
        for j in range(stride):
            block = f"output_blocks.{stride * i + j}"
            pairs.append((f"{up}.resnets.{j}", f"{block}.0", _UNET_RESNET))
            pairs.append((f"{up}.attentions.{j}", f"{block}.1", {}))
        # After the attention where there is one: not at the bottom.
        place = 1 if i == 0 else 2
        block = f"output_blocks.{stride * i + unet.blocks}.{place}.conv"
        pairs.append((f"{up}.upsamplers.0.conv", block, {}))
    return pairs


def _vae_modules(spec: StableDiffusionSpec) -> list:
    levels = len(spec.autoencoder.encoder_widths)
    blocks = vae_layers_per_block(spec.autoencoder) + 1
    pairs: list = []
    for side in ("encoder", "decoder"):
        for j in range(2):
            block = (
                f"{side}.mid_block.resnets.{j}",
                f"{side}.mid.block_{j + 1}",
            )
            pairs.append((*block, _VAE_PARTS))
        attention = f"{side}.mid_block.attentions.0"
        pairs.append((attention, f"{side}.mid.attn_1", _VAE_PARTS))
        norm = (f"{side}.conv_norm_out", f"{side}.norm_out")
        pairs.append((*norm, {}))
    for i in range(levels):
        # The original numbers the decoder's levels from the image.
        for theirs, original in (
            (f"encoder.down_blocks.{i}", f"encoder.down.{i}"),
            (f"decoder.up_blocks.{i}", f"decoder.up.{levels - 1 - i}"),
        ):
            for j in range(blocks):
                block = (f"{theirs}.resnets.{j}", f"{original}.block.{j}")
                pairs.append((*block, _VAE_PARTS))
            for way in ("down", "up"):
                pairs.append(
                    (
                        f"{theirs}.{way}samplers.0.conv",
                        f"{original}.{way}sample.conv",
                        {},
                    )
                )
    return pairs


def _open_clip(key: str) -> str | tuple[str, int]:
    if key in _OPEN_CLIP_ENDS:
        return OPEN_CLIP + _OPEN_CLIP_ENDS[key]
    _, _, _, number, rest = key.split(".", 4)
    stem = f"{OPEN_CLIP}transformer.resblocks.{number}."
    module, leaf = rest.rsplit(".", 1)
    for index, letter in enumerate("qkv"):
        if module == f"self_attn.{letter}_proj":
            return f"{stem}attn.in_proj_{leaf}", index
    return f"{stem}{_OPEN_CLIP_LAYER[module]}.{leaf}"
