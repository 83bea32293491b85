"""Resolves and describes what a name or a path on disk stands for.

Must not know how a model was trained, nor other tools' formats, which register
themselves.
"""

import dataclasses
import importlib
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from keras_sdft import hub
from keras_sdft.models import packaged
from keras_sdft.models import weight_files
from keras_sdft.models import words
from keras_sdft.models.exported import FORMAT_VERSION
from keras_sdft.models.exported import METADATA_FILE
from keras_sdft.models.exported import PARTS
from keras_sdft.models.prediction_types import PREDICTION_TYPES
from keras_sdft.models.prediction_types import UnknownPredictionType
from keras_sdft.models.prediction_types import check_prediction_type
from keras_sdft.models.prediction_types import known_prediction_type
from keras_sdft.models.presets import PRESETS
from keras_sdft.models.presets import get_preset
from keras_sdft.models.spec import AutoencoderSpec
from keras_sdft.models.spec import StableDiffusionSpec
from keras_sdft.models.spec_check import check_spec
from keras_sdft.parsing import read_json
from keras_sdft.parsing import reading
from keras_sdft.version import __version__


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
        vae: Path of the autoencoder that replaces the model's own, or
            `None`.
        adapters: Paths of LoRA and embedding files that belong to it.
    """

    kind: str
    base: str
    spec: StableDiffusionSpec
    files: dict[str, Any]
    metadata: dict[str, Any]
    origin: str | None = None
    trained_parts: frozenset[str] = frozenset()
    vae: str | None = None
    adapters: tuple[Path, ...] = ()


Resolver = Callable[[Path, "str | None"], "Resolved | None"]


VaeReader = Callable[[Path], "tuple[AutoencoderSpec, dict[str, Any]]"]


_RESOLVERS: list[Resolver] = []


_VAE_READERS: list[VaeReader] = []


# Packages that register what they read. This package must not import them,
# so they are named here and imported when a path is first resolved.
_READERS = ("keras_sdft.formats",)


def register_resolver(resolver: Resolver, read_vae: VaeReader) -> None:
    """Makes `resolve` understand more kinds of paths.

    Args:
        resolver: Function of an existing path and a prediction type (or
            `None`) that returns a `Resolved`, or `None` for what it does
            not know.
        read_vae: Function of the path of an autoencoder that returns its
            `AutoencoderSpec` and the entries of `Resolved.files` for
            `"image_encoder"` and `"decoder"`.
    """
    _RESOLVERS.append(resolver)
    _VAE_READERS.append(read_vae)


def _import_readers() -> None:
    for name in _READERS:
        importlib.import_module(name)


def resolve(
    name_or_path: str | Path,
    prediction_type: str | None = None,
    vae: str | Path | None = None,
) -> Resolved:
    """Finds out what a name or a path stands for, without loading weights.

    Args:
        name_or_path: A preset's name, a run directory, an exported
            directory, a diffusion model's weight file (`.weights.h5`, or
            KerasCV's `.h5`), another tool's model, or the address of one
            on the Hub, see `hub`.
        prediction_type: `"epsilon"` or `"v_prediction"`, for files that do
            not declare it; may not contradict those that do.
        vae: Path of another autoencoder to use: a folder or file of one
            alone, or of a whole model that has one.

    Returns:
        A `Resolved`.

    Raises:
        UnknownPredictionType: If it is not declared and cannot be known.
        ValueError: If it is neither a preset nor a path that is understood,
            or contradicts `prediction_type`.
    """
    resolved = _resolve(name_or_path, prediction_type)
    declared = resolved.spec.prediction_type
    check_prediction_type(name_or_path, declared, prediction_type)
    return resolved if vae is None else _with_vae(resolved, vae)


def _with_vae(resolved: Resolved, vae: str | Path) -> Resolved:
    """Replaces the image encoder and the decoder."""
    _import_readers()
    path = Path(hub.local(vae, "vae"))
    if not path.exists():
        raise FileNotFoundError(
            f"There is no autoencoder {str(vae)!r} (`vae`). Expected a file "
            "or a folder."
        )
    with reading(path, "autoencoder"):
        autoencoder, files = _VAE_READERS[0](path)
    channels = resolved.spec.diffusion_model.latent_channels
    if autoencoder.latent_channels != channels:
        raise ValueError(
            f"The autoencoder {str(vae)!r} has {autoencoder.latent_channels} "
            f"latent channels. Expected {channels}, as the diffusion model."
        )
    return dataclasses.replace(
        resolved,
        spec=dataclasses.replace(resolved.spec, autoencoder=autoencoder),
        files={**resolved.files, **files},
        vae=hub.pinned(vae, "vae") if hub.is_address(vae) else _absolute(path),
    )


def _absolute(path: str | Path) -> str:
    return str(Path(path).resolve())


def _resolve(
    name_or_path: str | Path,
    prediction_type: str | None,
    above: tuple[str, ...] = (),
) -> Resolved:
    """Resolves by what a source declares, whatever `prediction_type` is.

    `above` are the exports that build upon the source.
    """
    if hub.is_address(name_or_path):
        here = hub.local(name_or_path)
        found = _resolve(here, prediction_type, above)
        if found.origin != _absolute(here):
            return found
        # What builds upon it must be read on other machines too.
        return dataclasses.replace(found, origin=hub.pinned(name_or_path))
    path = Path(name_or_path)
    if str(name_or_path) not in PRESETS and path.exists():
        _import_readers()
        with reading(path, "model"):
            for resolver in _RESOLVERS:
                found = resolver(path, prediction_type)
                if found is not None:
                    return found
            if path.is_file():
                return _resolve_file(path, prediction_type)
        return _resolve_directory(path, above)
    preset = get_preset(str(name_or_path))
    name = str(name_or_path)
    return Resolved("preset", name, preset.spec, {}, {})


def _resolve_directory(path: Path, above: tuple[str, ...]) -> Resolved:
    for kind, directory in (
        ("exported directory", path),
        ("run", path / "weights"),
    ):
        if (directory / METADATA_FILE).is_file():
            return _read_export(kind, directory, above)
    raise ValueError(
        f"No {METADATA_FILE!r} in {str(path)!r} nor in its `weights` "
        "directory, so it is no export and no finished run of keras_sdft. "
        f"It holds: {sorted(p.name for p in path.iterdir())[:8]}."
    )


def _read_export(
    kind: str, directory: Path, above: tuple[str, ...]
) -> Resolved:
    file = directory / METADATA_FILE
    metadata = read_json(file)
    with reading(file, "export of keras_sdft"):
        version = metadata["format_version"]
        if version != FORMAT_VERSION:
            raise ValueError(
                f"{str(file)!r} has format version {version!r}; this "
                f"keras_sdft ({__version__}) reads version {FORMAT_VERSION}."
            )
        base, names = metadata["base"], dict(metadata["files"])
        get_preset(base)
        spec = StableDiffusionSpec.from_dict(metadata["spec"])
        check_spec(spec, "Its spec")
        trained = frozenset(metadata.get("trained_parts", ["diffusion_model"]))
        unknown = (trained - set(PARTS)) | (set(names) - {*PARTS, "tokenizer"})
        if unknown:
            raise ValueError(
                f"it names the parts {sorted(unknown)}, expected of {PARTS}"
            )
        if not trained <= set(names):
            raise ValueError(f"no files of {sorted(trained - set(names))}")
        added = metadata.get("added_tokens") or []
        if not all(isinstance(token, str) for token in added):
            raise ValueError(f"added_tokens is {added!r:.80}")
    files: dict[str, Any] = {
        part: _inside(directory, name) for part, name in names.items()
    }
    if added and "tokenizer" in files:
        files["tokenizer"] = partial(
            _make_tokenizer, files["tokenizer"], tuple(added)
        )
    origin, vae = metadata.get("origin"), metadata.get("vae")
    if origin is not None:
        _check_there(file, "origin", origin)
        if str(file.resolve()) in above:
            raise ValueError(
                f"{str(file)!r} builds upon {origin!r}, which builds upon it."
            )
        # It may have been trained towards another prediction than its origin.
        with reading(file, "export: what it builds upon cannot be read"):
            below = _resolve(
                origin, spec.prediction_type, (*above, str(file.resolve()))
            )
        files = {**below.files, **files}
    elif set(files) > trained:
        origin = _absolute(directory)
    adapters = tuple(
        _inside(directory, name)
        for name in metadata.get("extra_files", ())
        if name.endswith(".safetensors")
    )
    resolved = Resolved(
        kind,
        base,
        spec,
        files,
        metadata,
        origin,
        trained,
        adapters=adapters,
    )
    if vae is not None:
        _check_there(file, "vae", vae)
        with reading(file, "export: its autoencoder cannot be read"):
            resolved = _with_vae(resolved, vae)
    return resolved


def _make_tokenizer(
    path: Path, added: tuple[str, ...], max_length: int, pad_token: Any
) -> Any:
    # Resolving a path must not wait for its imports.
    from keras_sdft.models.tokenizer import Tokenizer

    return Tokenizer(path, max_length, pad_token, added)


def _check_there(file: Path, field: str, path: Any) -> None:
    if hub.is_address(path):
        return
    if not isinstance(path, str) or not _exists(path):
        raise ValueError(
            f"{str(file)!r} builds upon {path!r}, which is not there. "
            "Expected the model it was fine-tuned from; put it back, or set "
            f"{field!r} to where it is now."
        )


def _exists(path: str) -> bool:
    try:
        return Path(path).exists()
    except ValueError:
        # A null byte.
        return False


def _inside(directory: Path, name: Any) -> Path:
    """Returns a file named by metadata, which must not reach outside."""
    inside = isinstance(name, str) and Path(name).name == name
    if not inside or not _exists(str(directory / name)):
        raise ValueError(
            f"{str(directory / METADATA_FILE)!r} names the file {name!r}, "
            f"which is not in {str(directory)!r}."
        )
    return directory / name


def _resolve_file(path: Path, prediction_type: str | None) -> Resolved:
    shapes = {shape for shape, _ in weight_files.weight_shapes(path).values()}
    for name, preset in PRESETS.items():
        unet = preset.spec.diffusion_model
        first = (3, 3, unet.latent_channels, unet.widths[0])
        to_key = (unet.context_width, unet.widths[0])
        if first in shapes and to_key in shapes:
            files = {"diffusion_model": path}
            # Keras' files hold weights and nothing else.
            predicted = known_prediction_type(
                path, preset.spec, None, prediction_type
            )
            spec = dataclasses.replace(preset.spec, prediction_type=predicted)
            trained = frozenset(files)
            return Resolved(
                "weight file", name, spec, files, {}, trained_parts=trained
            )
    raise ValueError(
        f"The weights in {str(path)!r} are not those of a diffusion model "
        f"of a known size ({sorted(PRESETS)}). It has {len(shapes)} shapes of "
        f"weights, for example {sorted(shapes)[:3]}."
    )


def describe(
    name_or_path: str | Path, check_weights: bool = False
) -> dict[str, Any]:
    """Describes a preset, run, exported directory, weight file or model.

    No network is built.

    Args:
        name_or_path: As for `StableDiffusion.from_preset`.
        check_weights: Boolean, whether every weight of a file is read, to
            find those that are NaN or infinite; takes seconds a gigabyte.

    Returns:
        A dict of `kind`, `base`, `spec`, `prediction_type`, `steps`,
        `adapters`, `parts`, `damage` and `words`. `parts` is a dict by part of
        `file`, and, where it is on this machine, `parameters` and `dtype`;
        `damage` the first non-finite weight of each part, if it was asked
        for and there is one; `words` what a preset's captions named.
    """
    declared = None
    try:
        resolved = resolve(name_or_path)
        declared = resolved.spec.prediction_type
    except UnknownPredictionType:
        # Everything else can still be told.
        resolved = _resolve(name_or_path, PREDICTION_TYPES[0])
    parts, damage = _preset_parts(resolved.base), []
    for part, source in resolved.files.items():
        if part == "tokenizer":
            continue
        parts[part] = _describe_part(source)
        try:
            if check_weights and callable(source):
                source.check()
            elif check_weights:
                weight_files.check_weights(source)
        except weight_files.NonFiniteWeights as error:
            damage.append(str(error))
    return {
        "kind": resolved.kind,
        "base": resolved.base,
        "spec": {**resolved.spec.to_dict(), "prediction_type": declared},
        "prediction_type": declared or "not declared, give it",
        "steps": resolved.metadata.get("steps"),
        "vae": resolved.vae,
        "adapters": [str(path) for path in resolved.adapters] or None,
        "parts": parts,
        "damage": damage or None,
        "words": _words(resolved),
    }


def _words(resolved: Resolved) -> dict[str, list[str]] | None:
    path = get_preset(resolved.base).words
    if path is None or resolved.kind != "preset":
        return None
    return words.read(path)


def _describe_part(source: Any) -> dict[str, Any]:
    if callable(source):
        return source.describe()
    weights = weight_files.weight_shapes(source).values()
    return {
        "file": str(source),
        "parameters": sum(math.prod(shape) for shape, _ in weights),
        "dtype": ", ".join(sorted({dtype for _, dtype in weights})),
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
