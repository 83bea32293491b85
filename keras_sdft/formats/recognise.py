"""Recognises files and folders by their content, refuses others by name.

Reads headers and first bytes only. Must not know how weights are mapped.
"""

from collections.abc import Collection
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from keras_sdft.formats import diffusers
from keras_sdft.formats.diffusers_configs import KINDS_BY_CHANNELS
from keras_sdft.formats.ldm_sizes import FIRST_KEY
from keras_sdft.formats.safetensors_files import read_header
from keras_sdft.models.exported import METADATA_FILE
from keras_sdft.parsing import read_json
from keras_sdft.parsing import read_text

_PICKLES = (".ckpt", ".pt", ".pth", ".bin", ".pkl")
_LORA_FILES = {
    "pytorch_lora_weights.safetensors",
    "adapter_model.safetensors",
    "adapter_config.json",
}
_HDF5 = b"\x89HDF\r\n\x1a\n"
_EXPECTED = "Expected a whole text-to-image model, Stable Diffusion 1.x or 2.x"
# Signs among the keys: (a part of a key, what such a file is).
_ADDITIONS = (
    ("lora_", "a LoRA"),
    (".lora.", "a LoRA"),
    ("lora_A", "a LoRA"),
    ("lora_linear_layer", "a LoRA"),
    ("hada_w1", "a LoHa"),
    ("lokr_w1", "a LoKr"),
    ("oft_blocks", "an OFT adapter"),
    ("emb_params", "an embedding (textual inversion)"),
    ("emp_params", "an embedding (textual inversion)"),
    ("string_to_param", "an embedding (textual inversion)"),
    ("motion_modules.", "an AnimateDiff motion module"),
    ("control_model.", "a ControlNet"),
    ("controlnet_cond_embedding", "a ControlNet"),
    ("ip_adapter.", "an IP-Adapter"),
    ("image_proj.", "an IP-Adapter"),
)
_OTHER_MODELS = (
    ("noise_augmentor.", "an unCLIP model"),
    ("embedder.model.visual.", "an unCLIP model"),
    ("depth_model.", "a depth model"),
    ("low_scale_model.", "an upscaling model"),
    ("conditioner.embedders.", "a Stable Diffusion XL model"),
    ("label_emb.", "a Stable Diffusion XL model"),
    ("add_embedding.linear_1", "a Stable Diffusion XL U-Net"),
    ("double_blocks.", "a Flux model"),
    ("single_transformer_blocks.", "a Flux model"),
    ("joint_blocks.", "a Stable Diffusion 3 model"),
    ("context_embedder.", "a Stable Diffusion 3 model"),
)
_VAE = "an autoencoder alone (it may be given as `vae`)"
_TEXT = "a text encoder alone"
_UNET = "a U-Net alone"
# Keys that one component alone has, in each dialect.
_COMPONENT_KEYS = {
    "down_blocks.0.resnets.0.time_emb_proj.weight": _UNET,
    "input_blocks.0.0.weight": _UNET,
    "encoder.down_blocks.0.resnets.0.conv1.weight": _VAE,
    "decoder.up_blocks.0.resnets.0.conv1.weight": _VAE,
    "encoder.down.0.block.0.conv1.weight": _VAE,
    "decoder.up.0.block.0.conv1.weight": _VAE,
    "first_stage_model.encoder.conv_in.weight": _VAE,
    "first_stage_model.decoder.conv_in.weight": _VAE,
    "text_model.embeddings.token_embedding.weight": _TEXT,
    "embeddings.token_embedding.weight": _TEXT,
    "token_embedding.weight": _TEXT,
    "cond_stage_model.transformer.text_model.final_layer_norm.weight": _TEXT,
    "cond_stage_model.model.ln_final.weight": _TEXT,
}
# What each part of a whole checkpoint begins with.
_STAGES = {
    "first_stage_model.": "no autoencoder",
    "cond_stage_model.": "no text encoder",
}
_COMPONENT_CLASSES = {
    "AutoencoderKL": _VAE,
    "CLIPModel": "a whole CLIP",
    "CLIPTextModel": _TEXT,
    "ControlNetModel": "a ControlNet",
    "UNet2DConditionModel": _UNET,
}


def find_snapshot(path: str | Path) -> Path:
    """Follows the root of a hub's cache to the snapshot it points to.

    Args:
        path: Any path.

    Returns:
        The snapshot's directory for a root (`snapshots/` and `refs/` in
        it), else `path`.

    Raises:
        ValueError: If there are several snapshots and none is the main one,
            or the path is a cache of several models.
    """
    path = Path(path)
    if (path / "snapshots").is_dir() and not diffusers.is_folder(path):
        found = sorted(p for p in (path / "snapshots").iterdir() if p.is_dir())
        main = path / "refs" / "main"
        if main.is_file():
            name = read_text(main, 1000).strip()
            found = [p for p in found if p.name == name] or found
        if len(found) == 1:
            return found[0]
        raise ValueError(
            f"{str(path)!r} is a hub's cache with the snapshots "
            f"{[p.name for p in found][:5]}. Give the path of one of them."
        )
    if path.is_dir():
        models = sorted(p.name for p in path.glob("models--*"))
        if models:
            raise ValueError(
                f"{str(path)!r} is a hub's cache of {len(models)} models. "
                f"Give the path of one of them: {models[:5]}."
            )
    return path


def recognise(path: str | Path) -> str | None:
    """Recognises which foreign format a path is of.

    Args:
        path: A file or directory that exists.

    Returns:
        `"diffusers"`, `"ldm"`, or `None` if it may be one of Keras' own.

    Raises:
        ValueError: If it is something that is known and cannot be read,
            named as what it is.
    """
    path = Path(path)
    if path.is_dir():
        return _recognise_directory(path)
    with path.open("rb") as file:
        start = file.read(8)
    if start == _HDF5:
        return None
    is_header = _is_header(start, path)
    if not is_header:
        _refuse_others(path, start)
    if is_header or path.suffix == ".safetensors":
        _check_keys(path, read_header(path).tensors)
        return "ldm"
    return None


def _recognise_directory(path: Path) -> str | None:
    if diffusers.is_folder(path):
        return "diffusers"
    names = {entry.name for entry in path.iterdir()}
    if METADATA_FILE in names:
        # An export, which may hold a LoRA.
        return None
    files = sorted(n for n in names if n.endswith(".safetensors"))
    what = None
    if names & _LORA_FILES:
        what = "is a LoRA"
    elif "learned_embeds.safetensors" in names:
        what = "is an embedding (textual inversion)"
    elif "config.json" in names:
        what = f"is one component of a pipeline, {_component(path)}"
    elif {"unet", "vae"} <= names:
        what = f"is a diffusers pipeline without {diffusers.INDEX_FILE}"
    elif files:
        what = f"holds the files {files[:5]}; give the path of one of them"
    if what is not None:
        raise ValueError(
            f"{str(path)!r} {what}. Expected the whole folder of a pipeline, "
            f"with {diffusers.INDEX_FILE!r} in it."
        )
    return None


def _component(path: Path) -> str:
    config = read_json(path / "config.json")
    names = config.get("architectures")
    name = config.get("_class_name") or (
        names[0] if isinstance(names, list) and names else None
    )
    name = str(name)
    return _COMPONENT_CLASSES.get(name, f"a {name}")


def _is_header(start: bytes, path: Path) -> bool:
    length = int.from_bytes(start, "little")
    if not 2 <= length <= path.stat().st_size - 8:
        return False
    with path.open("rb") as file:
        file.seek(8)
        return file.read(2) in (b'{"', b"{}")


def _refuse_others(path: Path, start: bytes) -> None:
    is_pickle = start[:1] == b"\x80" and start[1:2] <= b"\x05"
    is_zip = start[:4] == b"PK\x03\x04"
    if start[:4] == b"GGUF":
        raise ValueError(
            f"{str(path)!r} is a GGUF file, of quantized weights. {_EXPECTED}, "
            "as '.safetensors' or a diffusers folder."
        )
    if path.suffix == ".keras" and is_zip:
        raise ValueError(
            f"{str(path)!r} is a whole Keras model. Expected its weights "
            "alone, which `model.save_weights('NAME.weights.h5')` writes."
        )
    if path.suffix in _PICKLES or is_pickle or is_zip:
        raise ValueError(
            f"{str(path)!r} is a pickle, and loading a pickle can execute "
            "code that is hidden in it, so it is refused. If you trust "
            "where it comes from, convert it elsewhere: load it with "
            "`torch.load(path, weights_only=True)`, take `['state_dict']`, "
            "write it with `safetensors.torch.save_file`, and give that "
            "`.safetensors` file."
        )


def _check_keys(path: Path, tensors: Mapping[str, Any]) -> None:
    """Accepts original checkpoints, refuses everything else by name."""
    what = _kind(tensors)
    if what is None and FIRST_KEY in tensors:
        lacking = [
            text
            for stage, text in _STAGES.items()
            if not any(key.startswith(stage) for key in tensors)
        ]
        if len(lacking) == len(_STAGES):
            what = _UNET
        elif lacking:
            what = f"a checkpoint with {lacking[0]}"
    if what is not None:
        raise ValueError(f"{str(path)!r} is {what}. {_EXPECTED}.")
    if FIRST_KEY not in tensors:
        raise ValueError(
            f"{str(path)!r} is no Stable Diffusion model: it has "
            f"{len(tensors)} weights ({', '.join(sorted(tensors)[:5])})."
        )


def _kind(tensors: Mapping[str, Any]) -> str | None:
    """Returns what a file is, or `None` for what may be a whole model."""
    if FIRST_KEY in tensors:
        shape = tensors[FIRST_KEY][1]
        if len(shape) == 4:
            # More input channels tell more than the keys beside them.
            kind = KINDS_BY_CHANNELS.get(shape[1])
            if kind is not None:
                return f"{kind} model: its U-Net takes {shape[1]} channels"
    additions = () if FIRST_KEY in tensors else _ADDITIONS
    for part, kind in (*additions, *_OTHER_MODELS):
        if _has(tensors, part):
            return kind
    if FIRST_KEY in tensors:
        return None
    for key, component in _COMPONENT_KEYS.items():
        if key in tensors:
            return component
    shapes = [shape for _, shape, _, _ in tensors.values()]
    if len(shapes) <= 2 and all(
        len(s) in (1, 2) and s[-1] in (768, 1024, 1280) for s in shapes
    ):
        return "an embedding (textual inversion)" if shapes else None
    return None


def _has(keys: Collection[str], part: str) -> bool:
    return any(part in key for key in keys)
