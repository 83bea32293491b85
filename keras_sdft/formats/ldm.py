"""Reads and writes single files of the original keys, `.safetensors`.

What the weights do not determine (attention heads, what the network
predicts) is taken from the metadata that we and others write, or from the
sizes of the published models, or must be given.
"""

import dataclasses
import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from keras_sdft.formats.checkpoint import Checkpoint
from keras_sdft.formats.checkpoint import check_tensors
from keras_sdft.formats.checkpoint import listing
from keras_sdft.formats.diffusers_configs import named
from keras_sdft.formats.ldm_names import CLIP
from keras_sdft.formats.ldm_names import OPEN_CLIP
from keras_sdft.formats.ldm_names import UNET
from keras_sdft.formats.ldm_names import VAE
from keras_sdft.formats.ldm_names import is_open_clip
from keras_sdft.formats.ldm_names import original_keys
from keras_sdft.formats.ldm_sizes import spec_from_sizes
from keras_sdft.formats.ldm_sizes import vae_from_sizes
from keras_sdft.formats.output import check_file
from keras_sdft.formats.safetensors_files import Tensor
from keras_sdft.formats.safetensors_files import open_tensors
from keras_sdft.formats.safetensors_files import read_header
from keras_sdft.formats.safetensors_files import write
from keras_sdft.models.prediction_types import known_prediction_type
from keras_sdft.models.spec import StableDiffusionSpec
from keras_sdft.models.spec import TextEncoderSpec
from keras_sdft.models.spec_check import check_spec
from keras_sdft.models.weight_names import COMPONENTS
from keras_sdft.models.weight_names import component_rows
from keras_sdft.parsing import parse_json
from keras_sdft.parsing import reading

SPEC = "keras_sdft.spec"
PREDICTION_TYPE = "modelspec.prediction_type"
_RESOLUTION = "modelspec.resolution"
_ARCHITECTURE = "modelspec.architecture"
# The metadata standard's words are "epsilon" and "v"; others are in use.
_PREDICTIONS = {
    "epsilon": "epsilon",
    "eps": "epsilon",
    "noise": "epsilon",
    "v": "v_prediction",
    "vpred": "v_prediction",
    "vprediction": "v_prediction",
    "velocity": "v_prediction",
}
_STANDARD_WORDS = {"epsilon": "epsilon", "v_prediction": "v"}
_WORDS = TextEncoderSpec().vocabulary_size
_ARCHITECTURES = {False: "stable-diffusion-v1", True: "stable-diffusion-v2"}

# Surplus weights that are known, inside the parts that are used.
_IGNORED = re.compile(
    r"^(first_stage_model\.loss\..*"
    r"|first_stage_model\.encoder\.norm_loss.*"
    r"|.*position_ids"
    r"|cond_stage_model\.(model\.)?attn_mask"
    r"|cond_stage_model\.(model\.|transformer\.)?"
    r"(logit_scale|text_projection|visual|vision_model|visual_projection)"
    r"(\..*)?)$"
)
# Weights beside those parts that every published file has.
_USUAL = re.compile(
    r"^(betas|alphas_cumprod.*|sqrt_.*|log_.*|posterior_.*|logvar|lvlb_weights"
    r"|model_ema\..*|scale_factor|embedding_manager\..*"
    r"|v_pred|ztsnr|model_sampling.*)$"
)
_EMA = "model_ema."
_TEXT = "cond_stage_model."


# === Reading ===


def read(
    path: str | Path,
    prediction_type: str | None = None,
    ema: bool = False,
    **_: Any,
) -> Checkpoint:
    """Opens a single-file checkpoint.

    Args:
        path: The file.
        prediction_type: `"epsilon"` or `"v_prediction"`, for files that do
            not declare it; needed for those of SD 2.x.
        ema: Boolean, whether the averaged copy of the U-Net is taken.

    Returns:
        A `Checkpoint` without a tokenizer.

    Raises:
        ValueError: If the file is damaged, is another model, or its
            weights do not fit.
    """
    path = Path(path)
    tensors = _normal_keys(open_tensors(path))
    metadata = read_header(path).metadata
    if ema:
        tensors = _with_average(path, tensors)
    spec = _find_spec(path, tensors, metadata)
    declared = declarations(path, spec, tensors, metadata)
    spec = _with_conventions(path, spec, declared, metadata, prediction_type)
    components, used = _components(
        tensors, original_keys(spec, f"{OPEN_CLIP}ln_final.weight" in tensors)
    )
    notes = _check_rest(path, tensors, used, spec)
    for name in COMPONENTS:
        components[name] = check_tensors(
            path, name, components[name], component_rows(name, spec)
        )
    return Checkpoint("ldm", str(path), spec, components, notes=tuple(notes))


def read_vae(path: Path) -> Checkpoint:
    """Opens an autoencoder alone, or that of a whole checkpoint.

    Keys are the original ones, with or without `first_stage_model.`, or
    diffusers'.

    Returns:
        A `Checkpoint` with the component `"vae"`; only the autoencoder of
        its spec is meant.
    """
    tensors = open_tensors(path)
    if any("down_blocks." in key for key in tensors):
        raise ValueError(
            f"{str(path)!r} has diffusers' keys, and the sizes of such an "
            "autoencoder are in the 'config.json' beside it: give the folder."
        )
    if not any(key.startswith(VAE) for key in tensors):
        tensors = {VAE + key: tensor for key, tensor in tensors.items()}
    metadata = read_header(path).metadata
    if SPEC in metadata:
        spec = _own_spec(path, metadata)
    else:
        vae = vae_from_sizes(path, tensors)
        spec = StableDiffusionSpec(name="", autoencoder=vae)
        check_spec(spec, f"The autoencoder {str(path)!r}")
    components, _ = _components(tensors, {"vae": original_keys(spec)["vae"]})
    rows = component_rows("vae", spec)
    vae_tensors = check_tensors(path, "vae", components["vae"], rows)
    return Checkpoint("ldm", str(path), spec, {"vae": vae_tensors})


def _normal_keys(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns tensors by today's keys of transformers' text encoder."""
    bare = re.compile(rf"^{re.escape(CLIP)}(?=embeddings|encoder|final_layer)")
    return {
        bare.sub(f"{CLIP}text_model.", key): t for key, t in tensors.items()
    }


def _components(
    tensors: Mapping[str, Tensor], names: Mapping[str, Mapping[str, Any]]
) -> tuple[dict[str, dict[str, Tensor]], set[str]]:
    """Returns each component's tensors, and the original keys used."""
    components, used = {}, set()
    for name, keys in names.items():
        found = {}
        for key, original in keys.items():
            tensor = _find(tensors, original)
            if tensor is not None:
                found[key] = tensor
                used.add(original if isinstance(original, str) else original[0])
        components[name] = found
    return components, used


def _find(tensors: Mapping[str, Tensor], original: Any) -> Tensor | None:
    if isinstance(original, str):
        return tensors.get(original)
    key, third = original
    whole = tensors.get(key)
    if whole is None or not whole.shape or whole.shape[0] % 3:
        return None
    size = whole.shape[0] // 3
    rows = slice(third * size, (third + 1) * size)
    return Tensor(
        (size, *whole.shape[1:]), whole.dtype, lambda: whole.read()[rows]
    )


def _check_rest(
    path: Path,
    tensors: Mapping[str, Tensor],
    used: set[str],
    spec: StableDiffusionSpec,
) -> list[str]:
    """Refuses surplus weights inside the parts used; notes those beside."""
    # The last layer of SD 2.x's text encoder, which is not run.
    depth = spec.text_encoder.depth
    last = (
        f"{OPEN_CLIP}transformer.resblocks.{depth}.",
        f"{CLIP}text_model.encoder.layers.{depth}.",
    )
    rest = sorted(
        key
        for key in tensors
        if key not in used
        and not _IGNORED.match(key)
        and not _USUAL.match(key)
        and not key.startswith(last)
    )
    inside = [key for key in rest if key.startswith((UNET, VAE, _TEXT))]
    if inside:
        raise ValueError(
            f"The file {str(path)!r} has "
            f"{listing('unexpected weights', inside)}."
        )
    if not rest:
        return []
    beside = listing("weights beside the model were left out", rest)
    return [f"Of {str(path)!r} {beside}."]


def _with_average(path: Path, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Returns the weights, those of the U-Net replaced by their averages.

    Averages are named like the weights, without dots.
    """
    result = dict(tensors)
    missing = []
    for key in tensors:
        if key.startswith(UNET):
            flat = _EMA + key.removeprefix("model.").replace(".", "")
            if flat in tensors:
                result[key] = tensors[flat]
            else:
                missing.append(flat)
    if missing:
        raise ValueError(
            f"{str(path)!r} has no averaged copy of "
            f"{listing('weights', missing)}. Read it without `ema`."
        )
    return result


def _find_spec(
    path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]
) -> StableDiffusionSpec:
    """Returns the spec of our own metadata, or that of the sizes."""
    zero_terminal_snr = "ztsnr" in tensors
    if SPEC in metadata:
        spec = _own_spec(path, metadata)
        return dataclasses.replace(
            spec, zero_terminal_snr=spec.zero_terminal_snr or zero_terminal_snr
        )
    spec = check_spec(spec_from_sizes(path, tensors), f"The file {str(path)!r}")
    words = spec.text_encoder.vocabulary_size
    if words != _WORDS:
        raise ValueError(
            f"The text encoder of {str(path)!r} has {words} tokens, CLIP's "
            f"vocabulary {_WORDS}. A single file does not hold the words of "
            "added tokens: expected a diffusers folder, or the embedding in a "
            "file beside the model."
        )
    # SD 2.x pads captions with "!", which has the id 0.
    pad: int | str = 0 if is_open_clip(spec) else "end"
    return named(
        dataclasses.replace(
            spec, pad_token=pad, zero_terminal_snr=zero_terminal_snr
        )
    )[0]


def _own_spec(path: Path, metadata: Mapping[str, str]) -> StableDiffusionSpec:
    with reading(path, f"model: damaged metadata {SPEC!r}"):
        values = parse_json(metadata[SPEC].encode(), path)
        spec = StableDiffusionSpec.from_dict(values)
    return check_spec(spec, f"The metadata {SPEC!r} of {str(path)!r}")


def declarations(
    path: Path,
    spec: StableDiffusionSpec,
    tensors: Mapping[str, Tensor],
    metadata: Mapping[str, str],
) -> str | None:
    """Returns the prediction type that a file declares, or `None`.

    Args:
        path: For messages.
        spec: Its spec, from its own metadata or its sizes.
        tensors: Its tensors; `v_pred` is a mark that some models carry.
        metadata: Its metadata, ours and the standard's.

    Raises:
        ValueError: If two places contradict each other, or a word is
            unknown.
    """
    found: dict[str, str] = {}
    word = metadata.get(PREDICTION_TYPE)
    if word:
        found[PREDICTION_TYPE] = _prediction(path, word)
    architecture = metadata.get(_ARCHITECTURE, "")
    if architecture.endswith("-768-v"):
        found[_ARCHITECTURE] = "v_prediction"
    if SPEC in metadata:
        found[SPEC] = spec.prediction_type
    if "v_pred" in tensors:
        found["the weight 'v_pred'"] = "v_prediction"
    if len(set(found.values())) > 1:
        raise ValueError(
            f"{str(path)!r} contradicts itself on what it predicts: {found}. "
            "Expected one prediction type; correct its metadata."
        )
    for version, other in ((1, True), (2, False)):
        if architecture.startswith(f"stable-diffusion-v{version}") and (
            is_open_clip(spec) == other
        ):
            raise ValueError(
                f"{str(path)!r} contradicts itself: {_ARCHITECTURE} is "
                f"{architecture!r}, and its text encoder has the sizes of "
                f"the other version (width {spec.text_encoder.width})."
            )
    return next(iter(found.values()), None)


def _prediction(path: Path, word: str) -> str:
    key = re.sub(r"[\W_]", "", word.lower())
    if key not in _PREDICTIONS:
        raise ValueError(
            f"{str(path)!r} has {PREDICTION_TYPE}={word[:40]!r}. Expected "
            "'epsilon' or 'v'; correct its metadata."
        )
    return _PREDICTIONS[key]


def _with_conventions(
    path: Path,
    spec: StableDiffusionSpec,
    declared: str | None,
    metadata: Mapping[str, str],
    given: str | None,
) -> StableDiffusionSpec:
    """Returns a spec with what the sizes do not tell."""
    predicted = known_prediction_type(path, spec, declared, given)
    if spec.zero_terminal_snr and predicted == "epsilon":
        raise ValueError(
            f"{str(path)!r} has zero terminal SNR with the prediction type "
            "'epsilon', which determines nothing at pure noise. Expected "
            "'v_prediction'."
        )
    resolution = spec.resolution
    if SPEC not in metadata:
        side = _side(metadata.get(_RESOLUTION, ""))
        if side is None and is_open_clip(spec):
            side = 768 if predicted == "v_prediction" else 512
        resolution = side or resolution
    return dataclasses.replace(
        spec, prediction_type=predicted, resolution=resolution
    )


def _side(text: str) -> int | None:
    """Returns the side of a square of as many pixels as `"512x768"`."""
    match = re.fullmatch(r"(\d{2,4})(?:x(\d{2,4}))?", text.strip().lower())
    if match is None:
        return None
    height = int(match.group(1))
    width = int(match.group(2) or height)
    side = math.isqrt(height * width) // 64 * 64
    return side if 64 <= side <= 2048 else None


# === Writing ===


def save(
    checkpoint: Checkpoint,
    path: str | Path,
    dtype: str = "float32",
    overwrite: bool = False,
) -> None:
    """Writes a single file.

    Args:
        checkpoint: A `Checkpoint`.
        path: The file, ending in `.safetensors`.
        dtype: `"float32"`, `"float16"` or `"bfloat16"`.
        overwrite: Boolean, whether an existing file is replaced.

    Raises:
        FileExistsError: If the file exists and may not be replaced.
        ValueError: If the name ends otherwise, or a value does not fit.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise ValueError(
            "A single file's name must end in '.safetensors'. Received: "
            f"{str(path)!r}."
        )
    check_file(path, overwrite)
    spec = checkpoint.spec
    _check_added(checkpoint)
    tensors: dict[str, Tensor] = {}
    for name, keys in original_keys(spec).items():
        tensors.update(_original_tensors(checkpoint.components[name], keys))
    write(path, tensors, dtype, _metadata(spec))


def _check_added(checkpoint: Checkpoint) -> None:
    """Refuses models with added tokens: the file has no vocabulary."""
    text, make = checkpoint.spec.text_encoder, checkpoint.make_tokenizer
    if text.vocabulary_size == _WORDS or make is None:
        return
    added = make(text.max_length, checkpoint.spec.pad_token).added_tokens
    if added:
        raise ValueError(
            f"{checkpoint.path!r} has {len(added)} added tokens "
            f"({', '.join(list(added)[:5])}), and a single file holds no "
            "vocabulary, so they would be lost. Expected a format with one: "
            "'diffusers' or 'keras_cv'."
        )


def _original_tensors(
    tensors: Mapping[str, Tensor], keys: Mapping[str, Any]
) -> dict[str, Tensor]:
    result: dict[str, Tensor] = {}
    thirds: dict[str, list[Tensor]] = {}
    for key, original in keys.items():
        tensor = tensors[key]
        if isinstance(original, tuple):
            # Query, key and value come in this order in the rows.
            thirds.setdefault(original[0], []).append(tensor)
        elif original.startswith(f"{VAE}") and ".attn_1." in original:
            result[original] = _as_convolution(tensor)
        else:
            result[original] = tensor
    for original, parts in thirds.items():
        result[original] = _joined(parts)
    return result


def _as_convolution(tensor: Tensor) -> Tensor:
    if len(tensor.shape) != 2:
        return tensor
    shape = (*tensor.shape, 1, 1)
    return Tensor(shape, tensor.dtype, lambda: tensor.read().reshape(shape))


def _joined(parts: list[Tensor]) -> Tensor:
    shape = (3 * parts[0].shape[0], *parts[0].shape[1:])
    return Tensor(
        shape,
        parts[0].dtype,
        lambda: np.concatenate([part.read() for part in parts]),
    )


def _metadata(spec: StableDiffusionSpec) -> dict[str, str]:
    size = f"{spec.resolution}x{spec.resolution}"
    result = {
        "modelspec.sai_model_spec": "1.0.0",
        "modelspec.architecture": _ARCHITECTURES[is_open_clip(spec)],
        "modelspec.implementation": "sgm",
        "modelspec.title": spec.name,
        "modelspec.resolution": size,
        PREDICTION_TYPE: _STANDARD_WORDS[spec.prediction_type],
    }
    # What no file of this kind has: attention heads, groups, padding.
    result[SPEC] = json.dumps(spec.to_dict())
    return result
