"""diffusers' pipeline folders.

Knows the folder: which files there are and what keys they have been written
with over the years. Configurations are `diffusers_configs`'s.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from keras_sdft.formats import diffusers_configs as configs
from keras_sdft.formats import diffusers_written as written
from keras_sdft.formats import tokenizer_files
from keras_sdft.formats.checkpoint import Checkpoint
from keras_sdft.formats.checkpoint import check_tensors
from keras_sdft.formats.output import staged_directory
from keras_sdft.formats.safetensors_files import Tensor
from keras_sdft.formats.safetensors_files import open_tensors
from keras_sdft.formats.safetensors_files import read_header
from keras_sdft.formats.safetensors_files import write
from keras_sdft.models.spec import StableDiffusionSpec
from keras_sdft.models.spec_check import check_spec
from keras_sdft.models.weight_names import COMPONENTS
from keras_sdft.models.weight_names import component_rows
from keras_sdft.models.weight_names import vae_layers_per_block

INDEX_FILE = "model_index.json"
WEIGHT_STEMS = {
    "text_encoder": "model",
    "unet": "diffusion_pytorch_model",
    "vae": "diffusion_pytorch_model",
}
FOLDERS = ("scheduler", "tokenizer", *COMPONENTS)
ENTRIES = (
    *(f"{n}/{stem}.safetensors" for n, stem in WEIGHT_STEMS.items()),
    *(f"{name}/config.json" for name in COMPONENTS),
    *(f"tokenizer/{name}" for name in tokenizer_files.FILES),
    "scheduler/scheduler_config.json",
    INDEX_FILE,
)
# diffusers' decoders have a block more than their encoders; ours may not.
# The blocks of the encoder and of the decoder that are ours: "1,1".
VAE_BLOCKS = "keras_sdft.vae_blocks"

# Spellings of the years before, as (pattern, replacement) on keys.
_OLD_KEYS = {
    "text_encoder": ((r"^(?!text_model\.)", "text_model."),),
    "unet": (),
    "vae": (
        (r"(mid_block\.attentions\.0)\.query\.", r"\1.to_q."),
        (r"(mid_block\.attentions\.0)\.key\.", r"\1.to_k."),
        (r"(mid_block\.attentions\.0)\.value\.", r"\1.to_v."),
        (r"(mid_block\.attentions\.0)\.proj_attn\.", r"\1.to_out.0."),
    ),
}
_IGNORED = re.compile(r"(^|\.)position_ids$")


def is_folder(path: Path) -> bool:
    """Whether a path is a diffusers pipeline folder."""
    return (path / INDEX_FILE).is_file()


# === Reading ===


def read(path: str | Path, variant: str | None = None, **_: Any) -> Checkpoint:
    """Opens a pipeline folder.

    Args:
        path: The folder.
        variant: Which weights to take where there are several, for example
            `"fp16"`; `None` for the plain ones, or the only ones.

    Returns:
        A `Checkpoint`.

    Raises:
        ValueError: If it is another pipeline than Stable Diffusion 1.x or
            2.x, a file is damaged or missing, or weights do not fit.
    """
    path = Path(path)
    _check_pipeline(path)
    files = {
        name: _weight_files(path / name, name, variant) for name in COMPONENTS
    }
    blocks = read_vae_blocks(files["vae"][0])
    merges = tokenizer_files.read_merges(path / "tokenizer")
    scheduler = path / "scheduler" / "scheduler_config.json"
    unet_path = path / "unet" / "config.json"
    unet_json = configs.read_json(unet_path)
    spec = configs.named(
        StableDiffusionSpec(
            name="",
            diffusion_model=configs.read_unet(unet_json, str(unet_path)),
            text_encoder=configs.read_text_encoder(
                *_config(path, "text_encoder")
            ),
            autoencoder=configs.read_vae(*_config(path, "vae"), blocks),
            resolution=_resolution(unet_json),
            **configs.read_scheduler(
                configs.read_json(scheduler), str(scheduler)
            ),
            pad_token=tokenizer_files.pad_id(path / "tokenizer", merges),
        )
    )[0]
    _check_sizes(spec, path)
    components = {
        name: check_tensors(
            path / name,
            name,
            _normal(name, _open(files[name])),
            component_rows(name, spec),
        )
        for name in COMPONENTS
    }

    def make_tokenizer(max_length: int, pad_token: Any) -> Any:
        tokenizer = tokenizer_files.make_tokenizer(
            merges, max_length, pad_token
        )
        tokenizer_files.check_vocabulary(path / "tokenizer", tokenizer)
        return tokenizer

    return Checkpoint("diffusers", str(path), spec, components, make_tokenizer)


def _check_pipeline(path: Path) -> None:
    index = configs.read_json(path / INDEX_FILE)
    name = str(index.get("_class_name"))
    if "XL" in name or "Flux" in name or "3" in name:
        raise ValueError(
            f"{str(path)!r} is a {name}. Expected Stable Diffusion 1.x or 2.x."
        )
    if "Inpaint" in name or "InstructPix2Pix" in name or "Upscale" in name:
        raise ValueError(
            f"{str(path)!r} is a {name}: its U-Net takes more than latents. "
            "Expected a text-to-image model."
        )
    missing = [c for c in COMPONENTS if not (path / c).is_dir()]
    if missing:
        raise ValueError(
            f"The pipeline {str(path)!r} ({name}) has no {missing}. Expected "
            f"the folders of a StableDiffusionPipeline: {list(FOLDERS)}."
        )


def _config(path: Path, component: str) -> tuple[dict[str, Any], str]:
    file = path / component / "config.json"
    return configs.read_json(file), str(file)


def _resolution(unet: dict[str, Any]) -> int:
    size = unet.get("sample_size", 64)
    good = type(size) is int and 8 <= size <= 512
    # A model is asked for multiples of 64 pixels.
    return max(64, size * 8 // 64 * 64) if good else 512


def _check_sizes(spec: StableDiffusionSpec, path: Path) -> None:
    check_spec(spec, f"The pipeline {str(path)!r}")
    if spec.text_encoder.width != spec.diffusion_model.context_width:
        raise ValueError(
            f"In {str(path)!r} the text encoder has width "
            f"{spec.text_encoder.width}, and the U-Net expects "
            f"{spec.diffusion_model.context_width}."
        )


def _weight_files(
    directory: Path, component: str, variant: str | None
) -> list[Path]:
    """The safetensors files of a component: one, or those of an index."""
    stem = WEIGHT_STEMS[component]
    found: dict[str, Path] = {}
    for path in sorted(directory.iterdir()):
        whole = re.fullmatch(rf"{stem}(\.[\w-]+)?\.safetensors", path.name)
        index = re.fullmatch(
            rf"{stem}\.safetensors\.index(\.[\w-]+)?\.json", path.name
        )
        match = whole or index
        if match and not re.search(r"-\d+-of-\d+", path.name):
            found.setdefault((match.group(1) or "")[1:], path)
    if not found:
        pickles = [p.name for p in directory.glob("*.bin")]
        reason = (
            f"only {pickles}, which are pickles and can execute code. Load "
            "the pipeline with diffusers elsewhere and write it again with "
            "`save_pretrained(..., safe_serialization=True)`"
            if pickles
            else f"only {sorted(p.name for p in directory.iterdir())[:5]}"
        )
        raise ValueError(
            f"No safetensors weights in {str(directory)!r}: {reason}."
        )
    path = _choose(found, variant, directory)
    return _shards(path) if path.suffix == ".json" else [path]


def _choose(found: dict[str, Path], variant: str | None, where: Path) -> Path:
    if variant is None and ("" in found or len(found) == 1):
        return found.get("") or next(iter(found.values()))
    if variant in found:
        return found[variant]
    raise ValueError(
        f"{str(where)!r} has weights of the variants "
        f"{[name or None for name in sorted(found)]}. "
        f"Received: variant={variant!r}."
    )


def _shards(index: Path) -> list[Path]:
    names = configs.read_json(index).get("weight_map")
    if not isinstance(names, dict) or not names:
        raise ValueError(f"{str(index)!r} has no 'weight_map'.")
    files = sorted({str(name) for name in names.values()})
    for name in files:
        # The index must not reach outside its folder.
        if Path(name).name != name or not (index.parent / name).is_file():
            raise ValueError(
                f"{str(index)!r} names the file {name!r}, which is not in "
                "its folder."
            )
    return [index.parent / name for name in files]


def _open(files: list[Path]) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    for file in files:
        tensors.update(open_tensors(file))
    return tensors


def _normal(component: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Today's spelling of every key."""
    result = {}
    for key, tensor in tensors.items():
        if _IGNORED.search(key):
            continue
        for pattern, replacement in _OLD_KEYS[component]:
            key = re.sub(pattern, replacement, key)
        result[key] = tensor
    return result


def read_vae_blocks(path: Path) -> tuple[int, int] | None:
    """How many of each level's blocks are ours, where not all are."""
    text = read_header(path).metadata.get(VAE_BLOCKS)
    if text is None:
        return None
    match = re.fullmatch(r"(\d{1,2}),(\d{1,2})", text)
    if match is None:
        raise ValueError(
            f"The metadata of {str(path)!r} has {VAE_BLOCKS}={text!r}."
        )
    return int(match.group(1)), int(match.group(2))


# === Writing ===


def save(
    checkpoint: Checkpoint,
    path: str | Path,
    dtype: str = "float32",
    overwrite: bool = False,
) -> None:
    """Writes a complete pipeline folder.

    Args:
        checkpoint: A `Checkpoint` with a tokenizer.
        path: The folder to make.
        dtype: `"float32"`, `"float16"` or `"bfloat16"`.
        overwrite: Boolean, whether an earlier pipeline there is replaced.

    Raises:
        FileExistsError: If something is there that may not be replaced.
        ValueError: If there is no tokenizer or a value does not fit.
    """
    spec = checkpoint.spec
    blocks = vae_layers_per_block(spec.autoencoder)
    with staged_directory(path, overwrite, ENTRIES) as directory:
        for name in FOLDERS:
            (directory / name).mkdir()
        tokenizer = _tokenizer(checkpoint)
        tokenizer_files.write_tokenizer(directory / "tokenizer", tokenizer)
        written.write_json(directory / INDEX_FILE, written.model_index(spec))
        written.write_json(
            directory / "scheduler" / "scheduler_config.json",
            written.scheduler_config(spec),
        )
        text_config = written.text_encoder_config(
            spec.text_encoder,
            tokenizer.start_of_text,
            tokenizer.end_of_text,
            int(tokenizer.pad_token),
        )
        text_config["dtype"] = dtype
        for name, config in (
            ("text_encoder", text_config),
            ("unet", written.unet_config(spec)),
            ("vae", written.vae_config(spec, blocks)),
        ):
            written.write_json(directory / name / "config.json", config)
            write(
                directory / name / f"{WEIGHT_STEMS[name]}.safetensors",
                checkpoint.components[name],
                dtype,
                vae_metadata(spec) if name == "vae" else {},
            )


def vae_metadata(spec: StableDiffusionSpec) -> dict[str, str]:
    """The inverse of `read_vae_blocks`."""
    vae = spec.autoencoder
    if vae.decoder_blocks == vae.encoder_blocks + 1:
        return {}
    return {VAE_BLOCKS: f"{vae.encoder_blocks},{vae.decoder_blocks}"}


def _tokenizer(checkpoint: Checkpoint) -> Any:
    if checkpoint.make_tokenizer is None:
        raise ValueError(
            f"{checkpoint.path!r} holds no vocabulary, and a diffusers folder "
            "needs one."
        )
    spec = checkpoint.spec
    return checkpoint.make_tokenizer(
        spec.text_encoder.max_length, spec.pad_token
    )
