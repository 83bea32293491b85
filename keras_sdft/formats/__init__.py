"""Weights and files: one module for each dialect, name maps as data.

Reads and writes whole models in the formats of diffusers and of the original
Stable Diffusion, and KerasCV's weight files. Must not know training.
Importing this room lets `StableDiffusion.from_preset` take foreign paths.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from keras_sdft.formats import diffusers
from keras_sdft.formats import keras_cv
from keras_sdft.formats import ldm
from keras_sdft.formats.checkpoint import Checkpoint
from keras_sdft.formats.checkpoint import from_files
from keras_sdft.formats.checkpoint import from_model
from keras_sdft.formats.diffusers_configs import named
from keras_sdft.formats.recognise import recognise
from keras_sdft.formats.safetensors_files import DTYPES
from keras_sdft.models.exported import Resolved
from keras_sdft.models.exported import check_prediction_type
from keras_sdft.models.exported import register_resolver

__all__ = [
    "FORMATS",
    "Checkpoint",
    "convert",
    "detect",
    "load",
    "save",
]


@dataclasses.dataclass(frozen=True)
class Format:
    """A row of the table of formats.

    Attributes:
        kind: What `describe` calls it.
        read: Function of `(path, **options)` that opens a `Checkpoint`, or
            `None` where Keras reads.
        save: Function of `(checkpoint, path, dtype, overwrite)`.
    """

    kind: str
    read: Callable[..., Checkpoint] | None
    save: Callable[..., None]


FORMATS = {
    "keras_cv": Format("Keras weights", None, keras_cv.save),
    "diffusers": Format("diffusers folder", diffusers.read, diffusers.save),
    "ldm": Format("original checkpoint", ldm.read, ldm.save),
}
_NETWORKS = keras_cv.NETWORKS


def detect(path: str | Path) -> str:
    """The format of a file or folder, by its content.

    Args:
        path: A file or directory that exists.

    Returns:
        A name of `FORMATS`; `"keras_cv"` for whatever Keras reads.

    Raises:
        FileNotFoundError: If there is nothing at `path`.
        ValueError: If it is no model, or one that cannot be read; says
            what it is.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"There is no file or folder {str(path)!r}.")
    return recognise(path) or "keras_cv"


def load(
    path: str | Path,
    prediction_type: str | None = None,
    ema: bool = False,
    variant: str | None = None,
    weights_directory: str | Path | None = None,
) -> Checkpoint:
    """Opens a model of any format; weights are read when they are used.

    Args:
        path: A diffusers folder, an original `.safetensors` checkpoint, or
            whatever `StableDiffusion.from_preset` takes.
        prediction_type: `"epsilon"` or `"v_prediction"`, for files that do
            not say; may not contradict those that do.
        ema: Boolean, whether an original checkpoint's averaged U-Net is
            taken.
        variant: Which weights of a diffusers folder are taken, for example
            `"fp16"`.
        weights_directory: Directory with local copies of a preset's
            published files.

    Returns:
        A `Checkpoint`.

    Raises:
        ValueError: If it is not understood, damaged, or does not fit.
    """
    found = recognise(path) if Path(path).exists() else None
    if ema and found != "ldm":
        raise ValueError(
            f"Only an original checkpoint has averages for `ema`, and "
            f"{str(path)!r} is none."
        )
    if variant is not None and found != "diffusers":
        raise ValueError(
            f"Only a diffusers folder has variants, and {str(path)!r} is "
            f"none. Received: variant={variant!r}."
        )
    if found is None:
        from keras_sdft.models import StableDiffusion

        return from_files(
            partial(
                StableDiffusion.from_preset,
                path,
                weights_directory=weights_directory,
                prediction_type=prediction_type,
            )
        )
    checkpoint = FORMATS[found].read(
        path, prediction_type=prediction_type, ema=ema, variant=variant
    )
    said = checkpoint.spec.prediction_type
    check_prediction_type(path, said, prediction_type)
    if checkpoint.make_tokenizer is None:
        make = _base_tokenizer(checkpoint, weights_directory)
        checkpoint = dataclasses.replace(checkpoint, make_tokenizer=make)
    return checkpoint


def _base_tokenizer(checkpoint: Checkpoint, weights_directory: Any) -> Any:
    """The vocabulary of the nearest preset, for formats without one."""

    def make_tokenizer(max_length: int, pad_token: Any) -> Any:
        from keras_sdft.models import Tokenizer
        from keras_sdft.models.presets import fetch
        from keras_sdft.models.presets import get_preset

        preset = get_preset(named(checkpoint.spec)[1])
        merges = preset.merges or fetch(
            preset.sources["tokenizer"], weights_directory
        )
        return Tokenizer(merges, max_length, pad_token)

    return make_tokenizer


def save(
    model: Any,
    path: str | Path,
    format: str = "diffusers",
    dtype: str = "float32",
    overwrite: bool = False,
) -> None:
    """Writes a model, one weight in memory at a time where possible.

    Args:
        model: A `keras_sdft.StableDiffusion` or a `Checkpoint`.
        path: The directory (`"keras_cv"`, `"diffusers"`) or file (`"ldm"`)
            to make.
        format: A name of `FORMATS`.
        dtype: `"float32"`, `"float16"` or `"bfloat16"`.
        overwrite: Boolean, whether an earlier one there is replaced.

    Raises:
        FileExistsError: If something is there that may not be replaced.
        ValueError: If an argument or a weight does not fit.
    """
    _check_name("format", format, FORMATS)
    _check_name("dtype", dtype, DTYPES)
    checkpoint = model if isinstance(model, Checkpoint) else from_model(model)
    FORMATS[format].save(checkpoint, path, dtype=dtype, overwrite=overwrite)


def convert(
    model: str | Path,
    output: str | Path,
    format: str,
    dtype: str = "float32",
    overwrite: bool = False,
    **options: Any,
) -> None:
    """Reads a model and writes it in another format.

    Args:
        model: What to read, see `load`.
        output: What to write, see `save`.
        format: A name of `FORMATS`.
        dtype: As for `save`.
        overwrite: As for `save`.
        **options: Further arguments of `load`.
    """
    _check_name("format", format, FORMATS)
    _check_name("dtype", dtype, DTYPES)
    save(load(model, **options), output, format, dtype, overwrite)


def _check_name(argument: str, name: str, table: Any) -> None:
    if name not in table:
        near = difflib.get_close_matches(str(name), table, 1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise ValueError(
            f"`{argument}` must be one of {sorted(table)}. Received: "
            f"{name!r}.{hint}"
        )


def _resolve(path: Path, prediction_type: str | None) -> Resolved | None:
    """What `StableDiffusion.from_preset` asks for each path."""
    found = recognise(path)
    if found is None:
        return None
    checkpoint = FORMATS[found].read(path, prediction_type=prediction_type)
    files: dict[str, Any] = {
        name: checkpoint.source(name) for name in _NETWORKS
    }
    if checkpoint.make_tokenizer is not None:
        files["tokenizer"] = checkpoint.make_tokenizer
    spec, base = named(checkpoint.spec)
    kind = FORMATS[found].kind
    return Resolved(kind, base, spec, files, {}, str(path.resolve()))


register_resolver(_resolve)
