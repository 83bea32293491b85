"""Exported directories, and what a name or a path on disk stands for.

An exported directory holds `diffusion_model.weights.h5` and a small
`keras_sdft.json`. Must not know how a model was trained.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from keras import ops

from keras_sdft.files import check_space
from keras_sdft.files import staged_directory
from keras_sdft.models import packaged
from keras_sdft.models.presets import PRESETS
from keras_sdft.models.presets import get_preset
from keras_sdft.models.spec import StableDiffusionSpec
from keras_sdft.models.spec_check import check_spec
from keras_sdft.models.weight_files import weight_shapes
from keras_sdft.version import __version__

FORMAT_VERSION = 1
METADATA_FILE = "keras_sdft.json"
DIFFUSION_MODEL_FILE = "diffusion_model.weights.h5"
PREDICTION_TYPES = ("epsilon", "v_prediction")


class UnknownPredictionType(ValueError):
    """A model does not say what it predicts, and nobody else said it."""


@dataclasses.dataclass(frozen=True)
class Resolved:
    """What a name or a path stands for.

    Attributes:
        kind: `"preset"`, `"run"`, `"exported directory"`,
            `"weight file"`, or a registered format's name.
        base: Name of the preset that fills in what `files` lacks.
        spec: The `StableDiffusionSpec`.
        files: Path of the weights of each part that replace the base's, or
            a function that puts them into a built network (for the
            tokenizer: that makes it).
        metadata: The JSON of an exported directory, else empty.
        origin: Path of a model that exports build upon, as they hold the
            trained parts alone; `None` where `base` is enough.
        trained_parts: Names of the parts that later exports must hold too.
    """

    kind: str
    base: str
    spec: StableDiffusionSpec
    files: dict[str, Any]
    metadata: dict[str, Any]
    origin: str | None = None
    trained_parts: frozenset[str] = frozenset({"diffusion_model"})


Resolver = Callable[[Path, "str | None"], "Resolved | None"]
_RESOLVERS: list[Resolver] = []


def register_resolver(resolver: Resolver) -> None:
    """Lets `resolve` understand more kinds of paths.

    Args:
        resolver: Function of an existing path and a prediction type (or
            `None`) that returns a `Resolved`, or `None` for what it does
            not know.
    """
    _RESOLVERS.append(resolver)


def write_export(
    directory: str | Path,
    stable_diffusion: Any,
    steps: int = 0,
    overwrite: bool = False,
) -> Path:
    """Writes the trained parts' weights and what is needed to use them.

    Everything is written beside the target and renamed into place, so the
    directory is either whole or absent. Of an earlier export only the files
    that it lists are replaced; other files in the directory stay.

    Args:
        directory: Path to create.
        stable_diffusion: A `keras_sdft.StableDiffusion`.
        steps: Integer, optimizer steps the weights were trained for.
        overwrite: Boolean, whether an earlier export there is replaced.

    Returns:
        The directory.

    Raises:
        FileExistsError: If something is there that may not be replaced.
        OSError: If the disk has no room for it.
        ValueError: If a weight is NaN or infinite.
    """
    directory = Path(directory)
    _check_target(directory, overwrite)
    files = _trained_files(stable_diffusion)
    parts = {part: getattr(stable_diffusion, part) for part in files}
    check_finite(parts)
    check_space(directory, export_bytes(stable_diffusion), "The export", "")
    with staged_directory(directory, _written) as staging:
        for part, model in parts.items():
            model.save_weights(staging / files[part])
        text = json.dumps(_metadata(stable_diffusion, steps), indent=2)
        (staging / METADATA_FILE).write_text(text + "\n", encoding="utf-8")
    return directory


def export_bytes(stable_diffusion: Any) -> int:
    """Returns about how many bytes an export takes on the disk."""
    return sum(
        math.prod(weight.shape) * np.dtype(weight.dtype).itemsize
        for part in stable_diffusion.trained_parts
        for weight in getattr(stable_diffusion, part).weights
    )


def check_finite(parts: dict[str, Any]) -> None:
    """Refuses weights that are NaN or infinite.

    Args:
        parts: Networks by name.

    Raises:
        ValueError: If there are any, with their names.
    """
    bad = [
        f"{part}: {weight.path}"
        for part, model in parts.items()
        for weight in model.weights
        if not ops.all(ops.isfinite(weight))
    ]
    if bad:
        total = sum(len(model.weights) for model in parts.values())
        raise ValueError(
            f"{len(bad)} of {total} weights are NaN or infinite, so nothing "
            f"was written ({bad[0]!r} is the first). Earlier weights on the "
            "disk are as they were. Train again with a lower learning rate, "
            "or in float32."
        )


def _written(directory: Path) -> list[str]:
    """The files of an export, the one that lists them last."""
    try:
        text = (directory / METADATA_FILE).read_text(encoding="utf-8")
        names = list(json.loads(text)["files"].values())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        # What does not say what belongs to it keeps everything.
        return []
    ours = [n for n in names if isinstance(n, str) and Path(n).name == n]
    return [*ours, METADATA_FILE]


def _check_target(directory: Path, overwrite: bool) -> None:
    if not directory.exists():
        return
    if directory.is_dir() and not any(directory.iterdir()):
        return
    ours = bool(_written(directory))
    if overwrite and ours:
        return
    remedy = (
        "Pass `overwrite=True` to replace it."
        if ours
        else "It holds no earlier export, so it is never replaced: choose "
        "another directory."
    )
    raise FileExistsError(
        f"The export directory {str(directory)!r} exists and is not empty. "
        f"{remedy}"
    )


def _metadata(stable_diffusion: Any, steps: int) -> dict[str, Any]:
    return {
        "format_version": FORMAT_VERSION,
        "keras_sdft_version": __version__,
        "base": stable_diffusion.base,
        "origin": stable_diffusion.origin,
        "spec": stable_diffusion.spec.to_dict(),
        "prediction_type": stable_diffusion.spec.prediction_type,
        "files": _trained_files(stable_diffusion),
        "trained_parts": sorted(stable_diffusion.trained_parts),
        "steps": int(steps),
    }


def _trained_files(stable_diffusion: Any) -> dict[str, str]:
    """Names of the weight files of an export, by part."""
    parts = sorted(stable_diffusion.trained_parts)
    return {part: f"{part}.weights.h5" for part in parts}


def resolve(
    name_or_path: str | Path, prediction_type: str | None = None
) -> Resolved:
    """Finds out what a name or a path stands for, without loading weights.

    Args:
        name_or_path: A preset's name, a run directory, an exported
            directory, or a diffusion model's weight file (`.weights.h5`, or
            KerasCV's `.h5`).
        prediction_type: `"epsilon"` or `"v_prediction"`, for files that do
            not say; may not contradict those that do.

    Returns:
        A `Resolved`.

    Raises:
        UnknownPredictionType: If it is not said and cannot be known.
        ValueError: If it is neither a preset nor a path that is understood,
            or contradicts `prediction_type`.
    """
    resolved = _resolve(name_or_path, prediction_type)
    said = resolved.spec.prediction_type
    check_prediction_type(name_or_path, said, prediction_type)
    return resolved


def _resolve(name_or_path: str | Path, prediction_type: str | None) -> Resolved:
    """What a source says itself stands, whatever `prediction_type` is."""
    path = Path(name_or_path)
    if str(name_or_path) not in PRESETS and path.exists():
        for resolver in _RESOLVERS:
            found = resolver(path, prediction_type)
            if found is not None:
                return found
        if path.is_file():
            return _resolve_file(path, prediction_type)
        return _resolve_directory(path)
    preset = get_preset(str(name_or_path))
    name = str(name_or_path)
    return Resolved("preset", name, preset.spec, {}, {})


def _resolve_directory(path: Path) -> Resolved:
    for kind, directory in (
        ("exported directory", path),
        ("run", path / "weights"),
    ):
        if (directory / METADATA_FILE).is_file():
            return _read_export(kind, directory)
    raise ValueError(
        f"No {METADATA_FILE!r} in {str(path)!r} nor in its `weights` "
        "directory, so it is no export and no finished run of keras_sdft. "
        f"It holds: {sorted(p.name for p in path.iterdir())[:8]}."
    )


def _read_export(kind: str, directory: Path) -> Resolved:
    file = directory / METADATA_FILE
    try:
        metadata = json.loads(file.read_text(encoding="utf-8"))
        version = metadata["format_version"]
        base, names = metadata["base"], dict(metadata["files"])
        spec = StableDiffusionSpec.from_dict(metadata["spec"])
        check_spec(spec, "Its spec")
        trained = frozenset(metadata.get("trained_parts", ["diffusion_model"]))
        if not trained <= set(names):
            raise ValueError(f"no files of {sorted(trained - set(names))}")
    except (UnicodeDecodeError, ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{str(file)!r} is damaged or was not written by keras_sdft: "
            f"{error!r}."
        ) from error
    if version != FORMAT_VERSION:
        raise ValueError(
            f"{str(file)!r} has format version {version}; this keras_sdft "
            f"({__version__}) reads version {FORMAT_VERSION}."
        )
    files = {part: _inside(directory, name) for part, name in names.items()}
    origin = metadata.get("origin")
    if origin is not None:
        said = spec.prediction_type
        files = {**_origin_files(file, origin, said), **files}
    elif set(files) > trained:
        origin = str(directory.resolve())
    return Resolved(kind, base, spec, files, metadata, origin, trained)


def _origin_files(
    file: Path, origin: Any, prediction_type: str
) -> dict[str, Any]:
    """The parts that an export leaves to the model it was made from."""
    if not isinstance(origin, str) or not Path(origin).exists():
        raise ValueError(
            f"{str(file)!r} builds upon {origin!r}, which is not there. "
            "Expected the model it was fine-tuned from; put it back, or set "
            "'origin' to where it is now."
        )
    # The export may have been trained towards another prediction.
    try:
        return _resolve(origin, prediction_type).files
    except RecursionError as error:
        raise ValueError(
            f"{str(file)!r} builds upon {origin!r}, which builds upon it."
        ) from error


def _inside(directory: Path, name: str) -> Path:
    """A file named by metadata, which must not reach outside."""
    path = directory / name
    if Path(name).name != name or not path.is_file():
        raise ValueError(
            f"{METADATA_FILE!r} names the file {name!r}, which is not in "
            f"{str(directory)!r}."
        )
    return path


def _resolve_file(path: Path, prediction_type: str | None) -> Resolved:
    shapes = {shape for shape, _ in weight_shapes(path).values()}
    for name, preset in PRESETS.items():
        unet = preset.spec.diffusion_model
        first = (3, 3, unet.latent_channels, unet.widths[0])
        to_key = (unet.context_width, unet.widths[0])
        if first in shapes and to_key in shapes:
            files = {"diffusion_model": path}
            spec = preset.spec
            if prediction_type is not None:
                # Keras' files hold weights and nothing else.
                spec = dataclasses.replace(
                    spec, prediction_type=prediction_type
                )
            return Resolved("weight file", name, spec, files, {})
    raise ValueError(
        f"The weights in {str(path)!r} are not those of a diffusion model "
        f"of a known size ({sorted(PRESETS)})."
    )


def check_prediction_type(
    source: str | Path, said: str, given: str | None
) -> None:
    """Holds what was given against what a source says.

    Args:
        source: The name or path, for the message.
        said: What the source says, or was told by `given`.
        given: What the user says, or `None`.

    Raises:
        ValueError: If they differ.
    """
    if given is None or given == said:
        return
    if given not in PREDICTION_TYPES:
        raise ValueError(
            f"`prediction_type` must be one of {PREDICTION_TYPES}. "
            f"Received: {given!r}."
        )
    raise ValueError(
        f"`prediction_type` is {given!r}, and {str(source)!r} says of itself "
        f"that it predicts {said!r}; drawing with the wrong one gives noise. "
        "Leave `prediction_type` out. If the source is mistaken, correct it "
        "there (a pipeline's scheduler_config.json, a single file's "
        "metadata). To fine-tune a model towards another prediction, pass "
        "it to the `Trainer`, or to `keras-sdft train`, with "
        "`change_prediction_type`."
    )


def describe(name_or_path: str | Path) -> dict[str, Any]:
    """What a preset, run, exported directory or weight file holds.

    No network is built and no weight is read.

    Args:
        name_or_path: As for `StableDiffusion.from_preset`.

    Returns:
        A dict of `kind`, `base`, `spec`, `prediction_type`, `steps` and
        `parts`, the last a dict by part of `file`, and, where the file is
        on this machine, `parameters` and `dtype`.
    """
    said = None
    try:
        resolved = resolve(name_or_path)
        said = resolved.spec.prediction_type
    except UnknownPredictionType:
        # Everything else can still be told.
        resolved = _resolve(name_or_path, PREDICTION_TYPES[0])
    parts = _preset_parts(resolved.base)
    for part, path in resolved.files.items():
        if part == "tokenizer":
            continue
        if callable(path):
            parts[part] = path.describe()
            continue
        weights = weight_shapes(path).values()
        parts[part] = {
            "file": str(path),
            "parameters": sum(_size(shape) for shape, _ in weights),
            "dtype": ", ".join(sorted({dtype for _, dtype in weights})),
        }
    return {
        "kind": resolved.kind,
        "base": resolved.base,
        "spec": {**resolved.spec.to_dict(), "prediction_type": said},
        "prediction_type": said or "not said, give it",
        "steps": resolved.metadata.get("steps"),
        "parts": parts,
    }


def _preset_parts(name: str) -> dict[str, Any]:
    preset = get_preset(name)
    if preset.weights is None:
        return {
            part: {"file": source.file_name}
            for part, source in preset.sources.items()
        }
    return {
        part: packaged.describe(preset.weights, part)
        for part in packaged.parts(preset.weights)
    }


def _size(shape: tuple[int, ...]) -> int:
    size = 1
    for side in shape:
        size *= side
    return size
