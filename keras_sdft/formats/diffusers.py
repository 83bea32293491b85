"""Reads and writes diffusers' pipeline folders.

Knows which files there are and what keys they have been written with over
the years. Configurations are `diffusers_configs`'s.
"""

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from keras_sdft import weight_variants
from keras_sdft.formats import diffusers_configs as configs
from keras_sdft.formats import diffusers_written as written
from keras_sdft.formats import tokenizer_files
from keras_sdft.formats.checkpoint import Checkpoint
from keras_sdft.formats.checkpoint import check_tensors
from keras_sdft.formats.checkpoint import without_extras
from keras_sdft.formats.output import staged_directory
from keras_sdft.formats.safetensors_files import Tensor
from keras_sdft.formats.safetensors_files import open_tensors
from keras_sdft.formats.safetensors_files import read_header
from keras_sdft.formats.safetensors_files import write
from keras_sdft.models.model_card import card_files
from keras_sdft.models.spec import AutoencoderSpec
from keras_sdft.models.spec import StableDiffusionSpec
from keras_sdft.models.spec_check import check_spec
from keras_sdft.models.weight_names import COMPONENTS
from keras_sdft.models.weight_names import component_rows
from keras_sdft.models.weight_names import vae_layers_per_block
from keras_sdft.parsing import read_json
from keras_sdft.parsing import reading

INDEX_FILE = "model_index.json"
FOLDERS = ("scheduler", "tokenizer", *COMPONENTS)
ENTRIES = (
    *(f"{n}/{stem}.safetensors" for n, stem in weight_variants.STEMS.items()),
    *(f"{name}/config.json" for name in COMPONENTS),
    *(f"tokenizer/{name}" for name in tokenizer_files.FILES),
    "scheduler/scheduler_config.json",
    INDEX_FILE,
)
# diffusers' decoders have a block more than their encoders; ours may not.
# The blocks of the encoder and of the decoder that are ours: "1,1".
VAE_BLOCKS = "keras_sdft.vae_blocks"

# Older spellings, as (pattern, replacement) on keys.
_OLD_KEYS = {
    "text_encoder": (
        (r"^(embeddings|encoder|final_layer_norm)\.", r"text_model.\1."),
    ),
    "unet": (),
    "vae": (
        (r"(mid_block\.attentions\.0)\.query\.", r"\1.to_q."),
        (r"(mid_block\.attentions\.0)\.key\.", r"\1.to_k."),
        (r"(mid_block\.attentions\.0)\.value\.", r"\1.to_v."),
        (r"(mid_block\.attentions\.0)\.proj_attn\.", r"\1.to_out.0."),
    ),
}
_IGNORED = re.compile(r"(^|\.)position_ids$")
# Parts of pipelines' names, and what such a pipeline is.
_OTHER_PIPELINES = (
    ("UnCLIP", "an unCLIP model: it takes an image's embedding"),
    ("Depth2Img", "a depth model: its U-Net takes a depth map too"),
    ("Inpaint", "an inpainting model: its U-Net takes more than latents"),
    ("InstructPix2Pix", "an instruction-editing model: its U-Net takes more"),
    ("Upscale", "an upscaling model: its U-Net takes more than latents"),
    ("ControlNet", "a pipeline around a ControlNet"),
    ("XL", "another architecture"),
    ("3", "another architecture"),
    ("Flux", "another architecture"),
)


def is_folder(path: Path) -> bool:
    """Returns whether a path is a diffusers pipeline folder."""
    return (path / INDEX_FILE).is_file()


# === Reading ===


def read(
    path: str | Path,
    prediction_type: str | None = None,
    variant: str | None = None,
    **_: Any,
) -> Checkpoint:
    """Opens a pipeline folder.

    Args:
        path: The folder.
        prediction_type: `"epsilon"` or `"v_prediction"`, for folders that
            do not declare it.
        variant: Which weights to take where there are several, for example
            `"fp16"`; `None` for the plain ones, or the only ones.

    Returns:
        A `Checkpoint`.

    Raises:
        ValueError: If it is another pipeline than Stable Diffusion 1.x or
            2.x, a file is damaged or missing, or weights do not fit.
    """
    path = Path(path)
    notes = _check_pipeline(path)
    files, more = _choose_variant(path, variant)
    merges = tokenizer_files.read_merges(path / "tokenizer")
    scheduler_path = path / "scheduler" / "scheduler_config.json"
    scheduler = read_json(scheduler_path)
    unet_path = path / "unet" / "config.json"
    unet_json = read_json(unet_path)
    spec = configs.with_sampling(
        StableDiffusionSpec(
            name="",
            diffusion_model=configs.read_unet(unet_json, str(unet_path)),
            text_encoder=configs.read_text_encoder(
                *_config(path / "text_encoder")
            ),
            autoencoder=_read_vae_spec(path / "vae", files["vae"][0]),
            resolution=_resolution(unet_json),
            pad_token=tokenizer_files.pad_id(path / "tokenizer"),
        )
    )
    spec = configs.with_scheduler(
        spec, scheduler, str(scheduler_path), prediction_type
    )
    _check_sizes(spec, path)
    added = tokenizer_files.read_added(
        path / "tokenizer", merges, spec.text_encoder
    )
    components = {}
    for name in COMPONENTS:
        components[name], left = _component(path / name, name, files, spec)
        notes += left

    def make_tokenizer(max_length: int, pad_token: Any) -> Any:
        # Reading headers must not wait for the tokenizer's imports.
        from keras_sdft.models.tokenizer import Tokenizer

        with reading(path / "tokenizer", "vocabulary"):
            tokenizer = Tokenizer(merges, max_length, pad_token, added)
        tokenizer_files.check_vocabulary(path / "tokenizer", tokenizer)
        return tokenizer

    return Checkpoint(
        "diffusers",
        str(path),
        spec,
        components,
        make_tokenizer,
        scheduler,
        tuple(notes + more),
    )


def read_vae(directory: Path) -> Checkpoint:
    """Opens the folder of an autoencoder alone, `config.json` in it.

    Returns:
        A `Checkpoint` with the component `"vae"`; only the autoencoder of
        its spec is meant.
    """
    found = {"vae": _find_weights(directory, "vae")}
    chosen = weight_variants.choose(found, None, repr(str(directory)))[0]
    files = _files(directory / chosen["vae"][0])
    vae = _read_vae_spec(directory, files[0])
    spec = StableDiffusionSpec(name="", autoencoder=vae)
    check_spec(spec, f"The autoencoder {str(directory)!r}")
    tensors, notes = _component(directory, "vae", {"vae": files}, spec)
    return Checkpoint(
        "diffusers", str(directory), spec, {"vae": tensors}, notes=tuple(notes)
    )


def _component(
    directory: Path,
    name: str,
    files: dict[str, list[Path]],
    spec: StableDiffusionSpec,
) -> tuple[dict[str, Tensor], list[str]]:
    """Opens the weights of one component; also returns notes."""
    rows = component_rows(name, spec)
    tensors = normal_keys(name, _open(files[name]))
    tensors, notes = without_extras(name, tensors, rows)
    return check_tensors(directory, name, tensors, rows), notes


def _check_pipeline(path: Path) -> list[str]:
    """Refuses other pipelines; returns notes on what is left out."""
    index = read_json(path / INDEX_FILE)
    name = str(index.get("_class_name"))
    for part, kind in _OTHER_PIPELINES:
        if part in name:
            raise ValueError(
                f"{str(path)!r} is a {name}, {kind}. Expected a text-to-image "
                "model, Stable Diffusion 1.x or 2.x."
            )
    missing = [c for c in COMPONENTS if not (path / c).is_dir()]
    if missing:
        raise ValueError(
            f"The pipeline {str(path)!r} ({name}) has no {missing}. Expected "
            f"the folders of a StableDiffusionPipeline: {list(FOLDERS)}."
        )
    return [
        f"The {part.replace('_', ' ')} of {str(path)!r} was left out: only "
        "what makes images from text is read."
        for part in ("safety_checker", "image_encoder")
        if isinstance(index.get(part), list) and index[part][:1] != [None]
    ]


def _read_vae_spec(directory: Path, weights: Path) -> AutoencoderSpec:
    return configs.read_vae(*_config(directory), read_vae_blocks(weights))


def _config(directory: Path) -> tuple[dict[str, Any], str]:
    file = directory / "config.json"
    return read_json(file), str(file)


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


def _choose_variant(
    path: Path, variant: str | None
) -> tuple[dict[str, list[Path]], list[str]]:
    """Returns each component's files, and notes on what lacks the variant."""
    found = {name: _find_weights(path / name, name) for name in COMPONENTS}
    chosen, lacking = weight_variants.choose(found, variant, repr(str(path)))
    notes = [
        f"The {name} of {str(path)!r} has no weights of the variant "
        f"{variant!r}; others were taken."
        for name in lacking
    ]
    files = {n: _files(path / n / names[0]) for n, names in chosen.items()}
    return files, notes


def _find_weights(directory: Path, component: str) -> dict[str, list[str]]:
    """Returns the names of the safetensors files of each variant."""
    names = sorted(path.name for path in directory.iterdir())
    found = weight_variants.by_variant(names, component)
    if not found:
        pickles = [name for name in names if name.endswith(".bin")]
        reason = (
            f"only {pickles}, which are pickles and can execute code. Load "
            "the pipeline with diffusers elsewhere and write it again with "
            "`save_pretrained(..., safe_serialization=True)`"
            if pickles
            else f"only {names[:5]}"
        )
        raise ValueError(
            f"No safetensors weights in {str(directory)!r}: {reason}."
        )
    return found


def _files(path: Path) -> list[Path]:
    return _shards(path) if path.suffix == ".json" else [path]


def _shards(index: Path) -> list[Path]:
    names = read_json(index).get("weight_map")
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


def normal_keys(
    component: str, tensors: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Returns tensors by today's spelling of their keys."""
    result = {}
    for key, tensor in tensors.items():
        if _IGNORED.search(key):
            continue
        for pattern, replacement in _OLD_KEYS[component]:
            key = re.sub(pattern, replacement, key)
        result[key] = tensor
    return result


def read_vae_blocks(path: Path) -> tuple[int, int] | None:
    """Returns how many of each level's blocks are ours, if not all are."""
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
    entries = (*ENTRIES, *card_files(path))
    with staged_directory(path, overwrite, entries) as directory:
        dataclasses.replace(checkpoint.card, kind="pipeline").write(directory)
        for name in FOLDERS:
            (directory / name).mkdir()
        tokenizer = _tokenizer(checkpoint)
        tokenizer_files.write_tokenizer(directory / "tokenizer", tokenizer)
        scheduler = written.scheduler_config(spec, checkpoint.scheduler)
        written.write_json(
            directory / INDEX_FILE, written.model_index(scheduler)
        )
        written.write_json(
            directory / "scheduler" / "scheduler_config.json", scheduler
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
                directory / name / f"{weight_variants.STEMS[name]}.safetensors",
                checkpoint.components[name],
                dtype,
                vae_metadata(spec) if name == "vae" else {},
            )


def vae_metadata(spec: StableDiffusionSpec) -> dict[str, str]:
    """Returns what `read_vae_blocks` reads."""
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
