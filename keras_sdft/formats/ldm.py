"""Single files with the original Stable Diffusion keys, `.safetensors`.

What such a file does not say (attention heads, what the network predicts) is
taken from the metadata that we and others write, or from the sizes of the
published models, or must be given.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from keras_sdft.formats.checkpoint import Checkpoint
from keras_sdft.formats.checkpoint import check_tensors
from keras_sdft.formats.diffusers_configs import named
from keras_sdft.formats.ldm_names import OPEN_CLIP
from keras_sdft.formats.ldm_names import UNET
from keras_sdft.formats.ldm_names import VAE
from keras_sdft.formats.ldm_names import is_open_clip
from keras_sdft.formats.ldm_names import original_keys
from keras_sdft.formats.ldm_sizes import spec_from_sizes
from keras_sdft.formats.output import check_file
from keras_sdft.formats.safetensors_files import Tensor
from keras_sdft.formats.safetensors_files import open_tensors
from keras_sdft.formats.safetensors_files import read_header
from keras_sdft.formats.safetensors_files import write
from keras_sdft.models.exported import UnknownPredictionType
from keras_sdft.models.spec import StableDiffusionSpec
from keras_sdft.models.spec_check import check_spec
from keras_sdft.models.weight_names import COMPONENTS
from keras_sdft.models.weight_names import component_rows

SPEC = "keras_sdft.spec"
PREDICTION_TYPE = "modelspec.prediction_type"
# The metadata standard's words on the left.
_PREDICTIONS = {"epsilon": "epsilon", "v": "v_prediction"}
_ARCHITECTURES = {False: "stable-diffusion-v1", True: "stable-diffusion-v2"}

_IGNORED = re.compile(
    r"^(betas|alphas_cumprod.*|sqrt_.*|log_.*|posterior_.*|logvar|lvlb_weights"
    r"|model_ema\..*|first_stage_model\.loss\..*"
    r"|first_stage_model\.encoder\.norm_loss.*|scale_factor"
    r"|.*position_ids"
    r"|cond_stage_model\.(model\.)?(logit_scale|text_projection|attn_mask)"
    r"|cond_stage_model\.model\.(logit_scale|text_projection)(\..*)?"
    r"|cond_stage_model\.logit_scale|embedding_manager\..*"
    r"|cond_stage_model\.transformer\.(logit_scale|text_projection.*)"
    r"|v_pred|ztsnr|model_sampling.*)$"
)
_EMA = "model_ema."


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
            not say; needed for those of SD 2.x.
        ema: Boolean, whether the averaged copy of the U-Net is taken.

    Returns:
        A `Checkpoint` without a tokenizer.

    Raises:
        ValueError: If the file is damaged, is another model, or its
            weights do not fit.
    """
    path = Path(path)
    tensors = open_tensors(path)
    metadata = read_header(path).metadata
    if ema:
        tensors = _with_average(path, tensors)
    spec = _find_spec(path, tensors, metadata)
    spec = _with_prediction_type(path, spec, tensors, metadata, prediction_type)
    components = {}
    used: set[str] = set()
    for name, keys in original_keys(spec).items():
        found = {}
        for key, original in keys.items():
            tensor = _find(tensors, original)
            if tensor is not None:
                found[key] = tensor
                used.add(original if isinstance(original, str) else original[0])
        components[name] = found
    _check_rest(path, tensors, used, spec)
    for name in COMPONENTS:
        components[name] = check_tensors(
            path, name, components[name], component_rows(name, spec)
        )
    return Checkpoint("ldm", str(path), spec, components)


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
) -> None:
    # OpenCLIP's last layer, which Stable Diffusion 2 does not run.
    last = f"{OPEN_CLIP}transformer.resblocks.{spec.text_encoder.depth}."
    rest = [
        key
        for key in tensors
        if key not in used
        and not _IGNORED.match(key)
        and not key.startswith(last)
    ]
    if rest:
        more = ", ..." if len(rest) > 5 else ""
        raise ValueError(
            f"The file {str(path)!r} has {len(rest)} unexpected weights "
            f"({', '.join(sorted(rest)[:5])}{more})."
        )


def _with_average(path: Path, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The U-Net's weights replaced by their averages.

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
            f"{str(path)!r} has no averaged copy of {len(missing)} weights "
            f"({', '.join(missing[:5])}). Read it without `ema`."
        )
    return result


def _find_spec(
    path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]
) -> StableDiffusionSpec:
    """The spec from our own metadata, a preset, or the sizes alone."""
    if SPEC in metadata:
        where = f"The metadata {SPEC!r} of {str(path)!r}"
        try:
            spec = StableDiffusionSpec.from_dict(json.loads(metadata[SPEC]))
        except (ValueError, TypeError, AttributeError, RecursionError) as error:
            raise ValueError(f"{where} is damaged: {error}.") from error
        return check_spec(spec, where)
    spec = check_spec(spec_from_sizes(path, tensors), f"The file {str(path)!r}")
    # SD 2.x pads captions with "!", which has the id 0.
    pad: int | str = 0 if is_open_clip(spec) else "end"
    return named(dataclasses.replace(spec, pad_token=pad))[0]


def _with_prediction_type(
    path: Path,
    spec: StableDiffusionSpec,
    tensors: Mapping[str, Tensor],
    metadata: Mapping[str, str],
    given: str | None,
) -> StableDiffusionSpec:
    found = _PREDICTIONS.get(metadata.get(PREDICTION_TYPE, ""))
    if SPEC in metadata:
        found = found or spec.prediction_type
    # A mark that some v-prediction models carry as a tensor.
    if "v_pred" in tensors:
        found = "v_prediction"
    prediction_type = found or given
    if prediction_type is None and not is_open_clip(spec):
        prediction_type = "epsilon"
    if prediction_type is None:
        raise UnknownPredictionType(
            f"{str(path)!r} is a Stable Diffusion 2.x model and does not say "
            "what it predicts. Give it: `prediction_type='epsilon'` (512-base "
            "models) or `'v_prediction'` (768 models); on the command line, "
            "`--prediction_type v_prediction`."
        )
    if prediction_type not in _PREDICTIONS.values():
        raise ValueError(
            "`prediction_type` must be 'epsilon' or 'v_prediction'. "
            f"Received: {prediction_type!r}."
        )
    if SPEC not in metadata and prediction_type == "v_prediction":
        spec = dataclasses.replace(spec, resolution=768)
    if "ztsnr" in tensors:
        spec = dataclasses.replace(spec, zero_terminal_snr=True)
    return dataclasses.replace(spec, prediction_type=prediction_type)


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
    tensors: dict[str, Tensor] = {}
    for name, keys in original_keys(spec).items():
        tensors.update(_original_tensors(checkpoint.components[name], keys))
    write(path, tensors, dtype, _metadata(spec))


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
    words = {ours: theirs for theirs, ours in _PREDICTIONS.items()}
    size = f"{spec.resolution}x{spec.resolution}"
    result = {
        "modelspec.sai_model_spec": "1.0.0",
        "modelspec.architecture": _ARCHITECTURES[is_open_clip(spec)],
        "modelspec.implementation": "sgm",
        "modelspec.title": spec.name,
        "modelspec.resolution": size,
        PREDICTION_TYPE: words[spec.prediction_type],
    }
    # What no file of this kind says: attention heads, groups, padding.
    result[SPEC] = json.dumps(spec.to_dict())
    return result
