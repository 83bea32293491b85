"""Exported directories, and what a name or a path on disk stands for.

An exported directory holds `diffusion_model.weights.h5` and a small
`keras_sdft.json`. Must not know how a model was trained.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py

from keras_sdft.models.presets import PRESETS
from keras_sdft.models.presets import get_preset
from keras_sdft.models.spec import StableDiffusionSpec
from keras_sdft.models.staging import staged
from keras_sdft.version import __version__

FORMAT_VERSION = 1
METADATA_FILE = "keras_sdft.json"
DIFFUSION_MODEL_FILE = "diffusion_model.weights.h5"


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
            diffusion model alone; `None` where `base` is enough.
    """

    kind: str
    base: str
    spec: StableDiffusionSpec
    files: dict[str, Any]
    metadata: dict[str, Any]
    origin: str | None = None


_RESOLVERS: list[Callable[[Path], Resolved | None]] = []


def register_resolver(resolver: Callable[[Path], Resolved | None]) -> None:
    """Lets `resolve` understand more kinds of paths.

    Args:
        resolver: Function of an existing path that returns a `Resolved`,
            or `None` for what it does not know.
    """
    _RESOLVERS.append(resolver)


def write_export(
    directory: str | Path,
    stable_diffusion: Any,
    steps: int = 0,
    overwrite: bool = False,
) -> Path:
    """Writes the diffusion model's weights and what is needed to use them.

    Everything is written beside the target and renamed into place, so the
    directory is either whole or absent.

    Args:
        directory: Path to create.
        stable_diffusion: A `keras_sdft.StableDiffusion`.
        steps: Integer, optimizer steps the weights were trained for.
        overwrite: Boolean, whether an earlier export there is replaced.

    Returns:
        The directory.

    Raises:
        FileExistsError: If something is there that may not be replaced.
    """
    directory = Path(directory)
    _check_target(directory, overwrite)
    with staged(directory) as staging:
        model = stable_diffusion.diffusion_model
        model.save_weights(staging / DIFFUSION_MODEL_FILE)
        text = json.dumps(_metadata(stable_diffusion, steps), indent=2)
        (staging / METADATA_FILE).write_text(text + "\n", encoding="utf-8")
    return directory


def _check_target(directory: Path, overwrite: bool) -> None:
    if not directory.exists():
        return
    if directory.is_dir() and not any(directory.iterdir()):
        return
    ours = (directory / METADATA_FILE).is_file()
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
        "files": {"diffusion_model": DIFFUSION_MODEL_FILE},
        "steps": int(steps),
    }


def resolve(name_or_path: str | Path) -> Resolved:
    """Finds out what a name or a path stands for, without loading weights.

    Args:
        name_or_path: A preset's name, a run directory, an exported
            directory, or a diffusion model's weight file (`.weights.h5`, or
            KerasCV's `.h5`).

    Returns:
        A `Resolved`.

    Raises:
        ValueError: If it is neither a preset nor a path that is understood.
    """
    path = Path(name_or_path)
    if str(name_or_path) not in PRESETS and path.exists():
        for resolver in _RESOLVERS:
            found = resolver(path)
            if found is not None:
                return found
        if path.is_file():
            return _resolve_file(path)
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
        files = {**_origin_files(file, origin), **files}
    elif set(files) > {"diffusion_model"}:
        origin = str(directory.resolve())
    return Resolved(kind, base, spec, files, metadata, origin)


def _origin_files(file: Path, origin: Any) -> dict[str, Any]:
    """The parts that an export leaves to the model it was made from."""
    if not isinstance(origin, str) or not Path(origin).exists():
        raise ValueError(
            f"{str(file)!r} builds upon {origin!r}, which is not there. "
            "Expected the model it was fine-tuned from; put it back, or set "
            "'origin' to where it is now."
        )
    return resolve(origin).files


def _inside(directory: Path, name: str) -> Path:
    """A file named by metadata, which must not reach outside."""
    path = directory / name
    if Path(name).name != name or not path.is_file():
        raise ValueError(
            f"{METADATA_FILE!r} names the file {name!r}, which is not in "
            f"{str(directory)!r}."
        )
    return path


def _resolve_file(path: Path) -> Resolved:
    shapes = {shape for shape, _ in weight_shapes(path).values()}
    for name, preset in PRESETS.items():
        unet = preset.spec.diffusion_model
        first = (3, 3, unet.latent_channels, unet.widths[0])
        to_key = (unet.context_width, unet.widths[0])
        if first in shapes and to_key in shapes:
            files = {"diffusion_model": path}
            return Resolved("weight file", name, preset.spec, files, {})
    raise ValueError(
        f"The weights in {str(path)!r} are not those of a diffusion model "
        f"of a known size ({sorted(PRESETS)})."
    )


def weight_shapes(path: Path) -> dict[str, tuple[tuple[int, ...], str]]:
    """Shape and dtype of every weight in a Keras HDF5 file, by its key.

    The optimizer's variables are left out.

    Raises:
        ValueError: If it is no HDF5 file.
    """
    found: dict[str, tuple[tuple[int, ...], str]] = {}

    def visit(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset) and not name.startswith("optimizer"):
            found[name] = (tuple(item.shape), str(item.dtype))

    try:
        with h5py.File(path, "r") as file:
            file.visititems(visit)
    except OSError as error:
        raise ValueError(
            f"{str(path)!r} is no readable weight file. Expected a Keras "
            "`.weights.h5` or `.h5` file."
        ) from error
    return found


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
    resolved = resolve(name_or_path)
    sources = get_preset(resolved.base).sources
    parts: dict[str, Any] = {
        part: {"file": source.file_name} for part, source in sources.items()
    }
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
        "spec": resolved.spec.to_dict(),
        "prediction_type": resolved.spec.prediction_type,
        "steps": resolved.metadata.get("steps"),
        "parts": parts,
    }


def _size(shape: tuple[int, ...]) -> int:
    size = 1
    for side in shape:
        size *= side
    return size
