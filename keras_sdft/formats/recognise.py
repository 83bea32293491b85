"""What a file or folder is, by its content; what is refused, and why.

Reads headers and first bytes only. Must not know how weights are mapped.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from keras_sdft.formats import diffusers
from keras_sdft.formats.ldm_sizes import FIRST_KEY
from keras_sdft.formats.safetensors_files import read_header

_PICKLES = (".ckpt", ".pt", ".pth", ".bin", ".pkl")
_LORA_FILES = {
    "pytorch_lora_weights.safetensors",
    "adapter_model.safetensors",
    "adapter_config.json",
}
_HDF5 = b"\x89HDF\r\n\x1a\n"
# Signs of other things among the keys: (a part of a key, what it is).
_ADDITIONS = (
    ("lora_", "a LoRA"),
    (".lora.", "a LoRA"),
    ("lora_A", "a LoRA"),
    ("lora_linear_layer", "a LoRA"),
    ("hada_w1", "a LoHa"),
    ("lokr_w1", "a LoKr"),
    ("emb_params", "a textual inversion embedding"),
    ("motion_modules.", "an AnimateDiff motion module"),
    ("control_model.", "a ControlNet"),
    ("controlnet_cond_embedding", "a ControlNet"),
)
_OTHER_MODELS = (
    ("conditioner.embedders.", "a Stable Diffusion XL model"),
    ("label_emb.", "a Stable Diffusion XL model"),
    ("add_embedding.linear_1", "a Stable Diffusion XL U-Net"),
    ("double_blocks.", "a Flux model"),
    ("single_transformer_blocks.", "a Flux model"),
    ("joint_blocks.", "a Stable Diffusion 3 model"),
    ("context_embedder.", "a Stable Diffusion 3 model"),
)
_COMPONENT_KEYS = {
    "down_blocks.0.resnets.0.time_emb_proj.weight": "U-Net",
    "encoder.down_blocks.0.resnets.0.conv1.weight": "VAE",
    "text_model.embeddings.token_embedding.weight": "text encoder",
    "embeddings.token_embedding.weight": "text encoder",
}


def recognise(path: str | Path) -> str | None:
    """Which foreign format a path is of.

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
        _refuse_pickle(path, start)
    if is_header or path.suffix == ".safetensors":
        _check_keys(path, read_header(path).tensors)
        return "ldm"
    return None


def _recognise_directory(path: Path) -> str | None:
    if diffusers.is_folder(path):
        return "diffusers"
    names = {entry.name for entry in path.iterdir()}
    what = None
    if "config.json" in names:
        what = "is one component of a diffusers pipeline"
    elif names & _LORA_FILES:
        what = "is a LoRA"
    elif {"unet", "vae"} <= names:
        what = f"is a diffusers pipeline without {diffusers.INDEX_FILE}"
    if what is not None:
        raise ValueError(
            f"{str(path)!r} {what}. Expected the whole folder of a pipeline, "
            f"with {diffusers.INDEX_FILE!r} in it."
        )
    return None


def _is_header(start: bytes, path: Path) -> bool:
    length = int.from_bytes(start, "little")
    if not 2 <= length <= path.stat().st_size - 8:
        return False
    with path.open("rb") as file:
        file.seek(8)
        return file.read(2) in (b'{"', b"{}")


def _refuse_pickle(path: Path, start: bytes) -> None:
    is_pickle = start[:1] == b"\x80" and start[1:2] <= b"\x05"
    is_zip = start[:4] == b"PK\x03\x04"
    if path.suffix in _PICKLES or is_pickle or is_zip:
        raise ValueError(
            f"{str(path)!r} is a pickle, and loading a pickle can execute "
            "code that is hidden in it, so it is refused. If you trust "
            "where it comes from, convert it elsewhere: load it with "
            "`torch.load(path, weights_only=True)`, take `['state_dict']`, "
            "write it with `safetensors.torch.save_file`, and give that "
            "`.safetensors` file."
        )


def _check_keys(path: Path, keys: Collection[str]) -> None:
    """Passes original checkpoints, names everything else."""
    where = repr(str(path))
    if FIRST_KEY in keys:
        others = [kind for part, kind in _OTHER_MODELS if _has(keys, part)]
        if others:
            raise ValueError(
                f"{where} is {others[0]}. Expected Stable Diffusion 1.x or 2.x."
            )
        return
    for part, kind in _ADDITIONS + _OTHER_MODELS:
        if _has(keys, part):
            raise ValueError(
                f"{where} is {kind}. Expected a whole model, Stable Diffusion "
                "1.x or 2.x."
            )
    for key, component in _COMPONENT_KEYS.items():
        if key in keys:
            raise ValueError(
                f"{where} is the {component} of a diffusers pipeline alone. "
                "Give the folder of the whole pipeline."
            )
    raise ValueError(
        f"{where} is no Stable Diffusion model: it has {len(keys)} weights "
        f"({', '.join(sorted(keys)[:5])})."
    )


def _has(keys: Collection[str], part: str) -> bool:
    return any(part in key for key in keys)
