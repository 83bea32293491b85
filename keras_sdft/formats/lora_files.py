"""LoRA files: diffusers', PEFT's and kohya's keys, and ours.

Each key is split into a module of diffusers and what is held for it; the
spellings are data. Must not know layers or training.
"""

import collections
import dataclasses
import functools
import json
import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from keras_sdft import checks
from keras_sdft.formats import safetensors_files
from keras_sdft.formats.ldm_names import original_keys
from keras_sdft.formats.output import check_file
from keras_sdft.models.presets import PRESETS
from keras_sdft.models.spec import StableDiffusionSpec
from keras_sdft.models.weight_names import component_rows
from keras_sdft.models.weight_names import modules

_logger = logging.getLogger(__name__)

DIALECTS = ("diffusers", "kohya")
# As diffusers names it.
FILE = "pytorch_lora_weights.safetensors"
COMPONENTS = ("unet", "text_encoder")

# What a key ends with, by what it holds.
_ENDINGS = {
    "down": (
        ".lora.down.weight",
        ".lora_linear_layer.down.weight",
        ".lora_down.weight",
        ".lora_A.weight",
        ".lora_A.default.weight",
        "_lora.down.weight",
    ),
    "up": (
        ".lora.up.weight",
        ".lora_linear_layer.up.weight",
        ".lora_up.weight",
        ".lora_B.weight",
        ".lora_B.default.weight",
        "_lora.up.weight",
    ),
    "alpha": (".alpha",),
    "magnitude": (
        ".lora_magnitude_vector",
        ".lora_magnitude_vector.weight",
        ".lora_magnitude_vector.default.weight",
        ".dora_scale",
    ),
}
# Keys of what is no LoRA, or one that is not read, and what it is.
_FOREIGN = (
    (r"hada_w1|hada_w2", "a LoHa, which is not supported"),
    (r"lokr_w1|lokr_w2", "a LoKr, which is not supported"),
    (r"oft_blocks|oft_diag", "an OFT adapter, which is not supported"),
    (r"^lora_te[12]_|text_encoder_2\.|add_embedding", "a LoRA for SDXL"),
    (r"double_blocks|single_transformer_blocks", "a LoRA for Flux"),
    (r"joint_blocks|^transformer\.", "a LoRA for Stable Diffusion 3"),
    (r"^emb_params$|^emp_params$|^clip_[lg]$", "an embedding, not a LoRA"),
    (r"^model\.diffusion_model\.", "a whole model, not a LoRA"),
)


@dataclasses.dataclass(frozen=True)
class LowRankWeights:
    """The values of one layer's adapter.

    Attributes:
        down: Float32 array `(in, rank)` or `(height, width, in, rank)`.
        up: Float32 array `(rank, out)` or `(1, 1, rank, out)`.
        alpha: Float; the addition is scaled by `alpha / rank`.
        magnitude: Float32 array `(out,)` of DoRA, or `None`.
    """

    down: np.ndarray
    up: np.ndarray
    alpha: float
    magnitude: np.ndarray | None = None

    @property
    def rank(self) -> int:
        """The number of rows of `up`."""
        return int(self.up.shape[-2])


def read(
    path: str | Path, spec: StableDiffusionSpec
) -> dict[str, dict[str, LowRankWeights]]:
    """Reads a LoRA in any of the spellings.

    Args:
        path: A `.safetensors` file.
        spec: The spec of the model that it is for.

    Returns:
        A dict by component (`"unet"`, `"text_encoder"`) and diffusers'
        module name of `LowRankWeights`, in our layout.

    Raises:
        ValueError: If the file is damaged, is no LoRA, is one for another
            architecture, has unknown keys, or values that are not finite.
    """
    tensors = safetensors_files.open_tensors(path)
    parts: dict[Any, dict[str, Any]] = collections.defaultdict(dict)
    unknown = []
    for key, tensor in tensors.items():
        place = _place(key, spec)
        if place is None:
            unknown.append(key)
        else:
            component, module, what = place
            parts[component, module][what] = (key, tensor)
    if unknown or not parts:
        raise _not_understood(path, unknown)
    _check_architecture(path, parts, spec)
    alphas = _alphas(path, safetensors_files.read_header(path).metadata)
    result: dict[str, dict[str, LowRankWeights]] = {}
    for (component, module), found in parts.items():
        weights = _weights(path, module, found, alphas.get(component))
        result.setdefault(component, {})[module] = weights
    return result


def describe(path: str | Path) -> dict[str, Any] | None:
    """Returns what a LoRA file holds, or `None` if it is none.

    Args:
        path: A `.safetensors` file.

    Returns:
        A dict of `dialect`, `ranks`, `modules`, `text_encoder` and
        `metadata`.
    """
    header = safetensors_files.read_header(path)
    downs = {
        key: entry[1]
        for key, entry in header.tensors.items()
        if key.endswith(_ENDINGS["down"])
    }
    if not downs:
        return None
    kohya = any(key.startswith("lora_") for key in downs)
    return {
        "kind": "LoRA",
        "dialect": "kohya" if kohya else "diffusers",
        "ranks": sorted({shape[0] for shape in downs.values() if shape}),
        "modules": len(downs),
        "text_encoder": any("text" in key or "_te_" in key for key in downs),
        "metadata": dict(header.metadata),
    }


def is_lora(path: str | Path) -> bool:
    """Returns whether a path is a file with a LoRA's keys."""
    path = Path(path)
    if path.suffix != ".safetensors" or not path.is_file():
        return False
    return describe(path) is not None


def find(path: str | Path) -> Path:
    """Returns a LoRA's path; of a run or an export, that of the file in it.

    Raises:
        ValueError: If a directory holds none.
    """
    path = Path(path)
    if not path.is_dir():
        return path
    for directory in (path, path / "weights"):
        if (directory / FILE).is_file():
            return directory / FILE
    raise ValueError(
        f"{str(path)!r} holds no {FILE!r}, nor does its `weights` directory. "
        "Name a `.safetensors` file, or a run of a LoRA."
    )


def convert(
    path: str | Path,
    output: str | Path,
    dialect: str,
    dtype: str = "float32",
    overwrite: bool = False,
) -> None:
    """Reads a LoRA and writes it in another dialect.

    Args:
        path: The LoRA.
        output: The `.safetensors` file to write.
        dialect: `"diffusers"` or `"kohya"`.
        dtype: As for `write`.
        overwrite: Boolean, whether a file there is replaced.

    Raises:
        FileExistsError: If something is there that may not be replaced.
        ValueError: If it fits none of the models that are known.
    """
    checks.one_of("format", dialect, DIALECTS)
    output = check_file(output, overwrite)
    spec, weights = _fitting(path)
    kept = {
        name: text
        for name, text in safetensors_files.read_header(path).metadata.items()
        if name not in ("format", "lora_adapter_metadata")
    }
    write(output, weights, spec, dialect, dtype, kept)
    layers = [one for part in weights.values() for one in part.values()]
    if dialect == "kohya" and any(one.magnitude is not None for one in layers):
        _logger.warning(
            "The magnitudes (DoRA) are those of peft, which A1111 and ComfyUI "
            "scale in other ways: merge it for them (`keras-sdft merge`)."
        )


def _fitting(path: str | Path) -> tuple[Any, Any]:
    """Returns the spec of the first model that a LoRA fits, and its values."""
    problem: ValueError | None = None
    for preset in PRESETS.values():
        try:
            return preset.spec, read(path, preset.spec)
        except ValueError as error:
            problem = problem or error
    raise problem or ValueError(f"{str(path)!r} fits no model.")


def write(
    path: str | Path,
    weights: Mapping[str, Mapping[str, LowRankWeights]],
    spec: StableDiffusionSpec,
    dialect: str = "diffusers",
    dtype: str = "float32",
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Writes a LoRA.

    diffusers' files have no alpha, and their readers take it to be the
    rank: what is left of it is a factor of `up` there.

    Args:
        path: The `.safetensors` file; replaced if it exists.
        weights: As `read` returns them.
        spec: The spec of the model that it is for.
        dialect: `"diffusers"` or `"kohya"`.
        dtype: `"float32"`, `"float16"` or `"bfloat16"`.
        metadata: Dict of strings: training parameters, trigger phrase.
    """
    checks.one_of("dialect", dialect, DIALECTS)
    arrays: dict[str, np.ndarray] = {}
    for component, layers in weights.items():
        shapes = _shapes(component, spec)
        for module, one in layers.items():
            make = _diffusers if dialect == "diffusers" else _kohya
            arrays.update(make(component, module, one, len(shapes[module])))
    tensors = safetensors_files.tensors_of(arrays)
    safetensors_files.write(
        path, tensors, dtype, {**_metadata(weights, spec), **(metadata or {})}
    )


# === Keys ===


def _place(key: str, spec: StableDiffusionSpec) -> tuple[str, str, str] | None:
    """Returns a key's component, module and what it holds."""
    for what, endings in _ENDINGS.items():
        for ending in endings:
            if key.endswith(ending):
                stem = key.removesuffix(ending)
                # diffusers' first layout: attn1.processor.to_q_lora
                stem = stem.replace(".processor.", ".")
                if stem.endswith(".to_out"):
                    stem += ".0"
                found = _modules(spec).get(stem)
                if found is not None:
                    return (*found, what)
    return None


@functools.lru_cache(maxsize=8)
def _modules(spec: StableDiffusionSpec) -> dict[str, tuple[str, str]]:
    """Every spelling of a module, with its component and diffusers' name."""
    found: dict[str, tuple[str, str]] = {}
    originals = original_keys(spec)
    for component in COMPONENTS:
        for module in modules(component, spec):
            place = (component, module)
            if component == "unet":
                original = str(originals["unet"][f"{module}.weight"])
                original = original.removesuffix(".weight")
                short = original.removeprefix("model.")
                inner = short.removeprefix("diffusion_model.")
                spellings: tuple[str, ...] = (
                    f"unet.{module}",
                    module,
                    short,
                    f"lora_unet_{module.replace('.', '_')}",
                    f"lora_unet_{inner.replace('.', '_')}",
                )
            else:
                bare = module.removeprefix("text_model.")
                spellings = (
                    f"text_encoder.{module}",
                    f"text_encoder.{bare}",
                    f"lora_te_{module.replace('.', '_')}",
                )
            found.update(dict.fromkeys(spellings, place))
    return found


def _not_understood(path: str | Path, unknown: list[str]) -> ValueError:
    for pattern, kind in _FOREIGN:
        if any(re.search(pattern, key) for key in unknown):
            return ValueError(
                f"{str(path)!r} is {kind}. Expected a LoRA for Stable "
                "Diffusion 1.x or 2.x in diffusers', PEFT's or kohya's keys."
            )
    if len(unknown) == 1:
        return ValueError(
            f"{str(path)!r} holds one tensor, {unknown[0]!r}, as embeddings "
            "do. Expected a LoRA; load embeddings with `load_embedding` "
            "(`--embedding`)."
        )
    return ValueError(
        f"{str(path)!r} has {len(unknown)} keys that are no LoRA's for this "
        f"model: {unknown[:3]}. Expected diffusers', PEFT's or kohya's keys."
    )


# === Values ===


def _shapes(
    component: str, spec: StableDiffusionSpec
) -> dict[str, tuple[int, ...]]:
    """Shapes of diffusers' weights, by module."""
    return {
        row.theirs.removesuffix(".weight"): row.shape
        for row in component_rows(component, spec)
    }


def _check_architecture(
    path: str | Path, parts: Mapping[Any, Any], spec: StableDiffusionSpec
) -> None:
    wanted = {c: _shapes(c, spec) for c in COMPONENTS}
    for (component, module), found in parts.items():
        if "down" not in found:
            continue
        inputs = found["down"][1].shape[1:2]
        expected = wanted[component][module][1:2]
        if inputs == expected:
            continue
        names = {768: "SD 1.x", 1024: "SD 2.x", 2048: "SDXL"}
        kind = ""
        if "attn2.to_k" in module or "attn2.to_v" in module:
            kind = names.get(inputs[0] if inputs else 0, "")
            kind = f" It is a LoRA for {kind}." if kind else ""
        raise ValueError(
            f"{str(path)!r} does not fit this model: {module!r} has "
            f"{inputs[0] if inputs else 0} inputs, and the model's "
            f"{expected[0]}.{kind}"
        )


def _weights(
    path: str | Path,
    module: str,
    found: Mapping[str, Any],
    default_alpha: float | None,
) -> LowRankWeights:
    missing = {"down", "up"} - set(found)
    if missing:
        raise ValueError(
            f"{str(path)!r} lacks {sorted(missing)} of {module!r}."
        )
    arrays = {what: tensor.read() for what, (_, tensor) in found.items()}
    for what, array in arrays.items():
        if not np.isfinite(array).all():
            raise ValueError(
                f"{str(path)!r} holds NaN or infinite values in "
                f"{found[what][0]!r}."
            )
    down, up = _ours(arrays["down"]), _ours(arrays["up"])
    rank = down.shape[-1]
    if not rank or up.shape[-2] != rank:
        raise ValueError(
            f"{str(path)!r}: `down` and `up` of {module!r} must share a rank "
            f"of 1 or more. Received shapes {arrays['down'].shape} and "
            f"{arrays['up'].shape}."
        )
    alpha = float(default_alpha or rank)
    if "alpha" in arrays:
        alpha = float(arrays["alpha"].reshape(-1)[0])
    if not alpha > 0:
        raise ValueError(
            f"{str(path)!r}: the alpha of {module!r} must be > 0. Received: "
            f"{alpha}, with which nothing would be added."
        )
    return LowRankWeights(down, up, alpha, _magnitude(path, module, found, up))


def _alphas(path: str | Path, metadata: Mapping[str, str]) -> dict[str, float]:
    """Reads the alphas that diffusers writes into a file's metadata.

    Where there is none, its readers take alpha to be the rank.
    """
    try:
        table = json.loads(metadata.get("lora_adapter_metadata", "{}"))
        return {
            component: float(table[f"{component}.lora_alpha"])
            for component in COMPONENTS
            if table.get(f"{component}.lora_alpha") is not None
        }
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(
            f"The metadata `lora_adapter_metadata` of {str(path)!r} must be "
            f"a JSON object of peft's settings. Received: {error}."
        ) from error


def _magnitude(
    path: str | Path, module: str, found: Mapping[str, Any], up: np.ndarray
) -> np.ndarray | None:
    if "magnitude" not in found:
        return None
    key, tensor = found["magnitude"]
    given = tensor.read()
    # LyCORIS can keep one value for each input: `(1, in)`.
    by_input = key.endswith(".dora_scale") and given.shape[:1] == (1,)
    if given.size != up.shape[-1] or (by_input and given.size > 1):
        raise ValueError(
            f"{str(path)!r}: the magnitude of {module!r} must have one value "
            f"for each of {up.shape[-1]} outputs. Received shape "
            f"{given.shape}; magnitudes by input are not supported."
        )
    return given.reshape(-1)


def _ours(array: np.ndarray) -> np.ndarray:
    if array.ndim == 4:
        array = array.transpose(2, 3, 1, 0)
        return array[0, 0] if array.shape[:2] == (1, 1) else array
    return array.transpose()


def _theirs(array: np.ndarray, dimensions: int) -> np.ndarray:
    if array.ndim == 4:
        return np.ascontiguousarray(array.transpose(3, 2, 0, 1))
    array = np.ascontiguousarray(array.transpose())
    return array[:, :, None, None] if dimensions == 4 else array


def _diffusers(
    component: str, module: str, one: LowRankWeights, dimensions: int
) -> dict[str, np.ndarray]:
    stem = f"{component}.{module}"
    middle = "lora" if component == "unet" else "lora_linear_layer"
    up = one.up * np.float32(one.alpha / one.rank)
    found = {
        f"{stem}.{middle}.down.weight": _theirs(one.down, dimensions),
        f"{stem}.{middle}.up.weight": _theirs(up, dimensions),
    }
    if one.magnitude is not None:
        shape = (1, -1, 1, 1) if dimensions == 4 else (-1,)
        found[f"{stem}.lora_magnitude_vector"] = one.magnitude.reshape(shape)
    return found


def _kohya(
    component: str, module: str, one: LowRankWeights, dimensions: int
) -> dict[str, np.ndarray]:
    prefix = "lora_unet" if component == "unet" else "lora_te"
    stem = f"{prefix}_{module.replace('.', '_')}"
    found = {
        f"{stem}.lora_down.weight": _theirs(one.down, dimensions),
        f"{stem}.lora_up.weight": _theirs(one.up, dimensions),
        f"{stem}.alpha": np.array(one.alpha, "float32"),
    }
    if one.magnitude is not None:
        shape = (-1,) + (1,) * (dimensions - 1)
        found[f"{stem}.dora_scale"] = one.magnitude.reshape(shape)
    return found


def _metadata(
    weights: Mapping[str, Mapping[str, LowRankWeights]],
    spec: StableDiffusionSpec,
) -> dict[str, str]:
    every = [one for layers in weights.values() for one in layers.values()]
    second = spec.text_encoder.width == 1024
    version = "v2" if second else "v1"
    ranks = collections.Counter(one.rank for one in every)
    alphas = collections.Counter(one.alpha for one in every)
    return {
        "ss_v2": str(second),
        "ss_base_model_version": f"sd_{version}",
        "ss_network_module": "networks.lora",
        "ss_network_dim": str(ranks.most_common(1)[0][0]),
        "ss_network_alpha": f"{alphas.most_common(1)[0][0]:g}",
        "modelspec.sai_model_spec": "1.0.0",
        "modelspec.architecture": f"stable-diffusion-{version}/lora",
        "modelspec.implementation": "https://github.com/Stability-AI/"
        "generative-models",
        "modelspec.prediction_type": spec.prediction_type,
        "modelspec.resolution": f"{spec.resolution}x{spec.resolution}",
    }
