"""Reads and writes whole models in other tools' formats, a file a dialect.

The formats of diffusers and of the original Stable Diffusion, and KerasCV's
weight files. Must not know training. `models.sources` imports this package
when a path is resolved, so that foreign paths work however it was imported.
"""

import dataclasses
import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from keras_sdft import hub
from keras_sdft.checks import one_of
from keras_sdft.formats import diffusers
from keras_sdft.formats import embedding_files
from keras_sdft.formats import keras_cv
from keras_sdft.formats import ldm
from keras_sdft.formats import lora_files
from keras_sdft.formats.checkpoint import Checkpoint
from keras_sdft.formats.checkpoint import from_files
from keras_sdft.formats.checkpoint import from_model
from keras_sdft.formats.diffusers_configs import named
from keras_sdft.formats.losses import losses
from keras_sdft.formats.options import ConvertOptions
from keras_sdft.formats.options import OutputOptions
from keras_sdft.formats.recognise import find_snapshot
from keras_sdft.formats.recognise import recognise
from keras_sdft.formats.safetensors_files import DTYPES
from keras_sdft.models import sources
from keras_sdft.models.model_card import hub_name
from keras_sdft.models.model_card import read_card
from keras_sdft.models.prediction_types import check_prediction_type
from keras_sdft.models.sources import Resolved
from keras_sdft.models.sources import register_resolver
from keras_sdft.models.spec import AutoencoderSpec
from keras_sdft.parsing import read_json
from keras_sdft.parsing import reading

__all__ = [
    "FORMATS",
    "Checkpoint",
    "ConvertOptions",
    "OutputOptions",
    "convert",
    "detect",
    "load",
    "save",
]

_logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Format:
    """Functions of one format.

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


def detect(path: str | Path) -> str:
    """Returns the format of a file or folder, by its content.

    Args:
        path: A file or directory that exists.

    Returns:
        A name of `FORMATS`; `"keras_cv"` for whatever Keras reads.

    Raises:
        FileNotFoundError: If there is nothing at `path`.
        ValueError: If it is no model, or one that cannot be read,
            named as what it is.
    """
    path = Path(hub.local(path))
    if not path.exists():
        raise FileNotFoundError(f"There is no file or folder {str(path)!r}.")
    with reading(path, "model"):
        return recognise(find_snapshot(path)) or "keras_cv"


def load(
    path: str | Path,
    prediction_type: str | None = None,
    ema: bool = False,
    variant: str | None = None,
    weights_directory: str | Path | None = None,
    vae: str | Path | None = None,
) -> Checkpoint:
    """Opens a model of any format; weights are read when they are used.

    What is on disk and left out is logged as a warning, a line each.

    Args:
        path: A diffusers folder, an original `.safetensors` checkpoint, or
            whatever `StableDiffusion.from_preset` takes.
        prediction_type: `"epsilon"` or `"v_prediction"`, for files that do
            not declare it; may not contradict those that do.
        ema: Boolean, whether an original checkpoint's averaged U-Net is
            taken.
        variant: Which weights of a diffusers folder are taken, for example
            `"fp16"`.
        weights_directory: Directory with local copies of a preset's
            published files.
        vae: Path of another autoencoder to use, as for
            `StableDiffusion.from_preset`.

    Returns:
        A `Checkpoint`.

    Raises:
        ValueError: If it is not understood, damaged, or does not fit.
    """
    found, path = None, hub.local(path, variant=variant)
    if Path(path).exists():
        path = find_snapshot(path)
        with reading(path, "model"):
            found = recognise(path)
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
        return _load_keras(path, prediction_type, weights_directory, vae)
    with reading(path, FORMATS[found].kind):
        checkpoint = FORMATS[found].read(
            path, prediction_type=prediction_type, ema=ema, variant=variant
        )
    declared = checkpoint.spec.prediction_type
    check_prediction_type(path, declared, prediction_type)
    if checkpoint.make_tokenizer is None:
        make = _base_tokenizer(checkpoint, weights_directory)
        checkpoint = dataclasses.replace(checkpoint, make_tokenizer=make)
    if vae is not None:
        checkpoint = _with_vae(checkpoint, vae)
    _warn(checkpoint.notes)
    return _with_card(checkpoint, path)


def _load_keras(path: Any, prediction_type: Any, *rest: Any) -> Checkpoint:
    from keras_sdft.models import StableDiffusion

    weights_directory, vae = rest
    make = partial(
        StableDiffusion.from_preset,
        path,
        weights_directory=weights_directory,
        prediction_type=prediction_type,
        vae=vae,
    )
    model = make()
    _refuse_adapters(model)
    checkpoint = _with_scheduler(from_files(make), model.origin)
    return _with_card(checkpoint, path)


def _with_card(checkpoint: Checkpoint, path: str | Path) -> Checkpoint:
    """Adds what the card beside the weights says, if there is one."""
    card = read_card(path)
    base = card.base_model or checkpoint.card.base_model or hub_name("", path)
    card = dataclasses.replace(card, base_model=base)
    return dataclasses.replace(checkpoint, card=card)


def _refuse_adapters(model: Any) -> None:
    if model.has_adapters:
        raise ValueError(
            "The model has LoRAs, which are files of their own: "
            f"{sorted(model.adapters.loras)}. Call `merge_adapters()` first, "
            "or use `keras-sdft merge`, which writes every format."
        )


def _refuse_words(checkpoint: Checkpoint) -> None:
    """Refuses new words whose embeddings the text encoder does not hold."""
    text, make = checkpoint.spec.text_encoder, checkpoint.make_tokenizer
    if make is None:
        return
    added = make(text.max_length, checkpoint.spec.pad_token).added_tokens
    words = [w for w, number in added.items() if number >= text.vocabulary_size]
    if words:
        raise ValueError(
            f"{checkpoint.path!r} has new words, which are files of their own: "
            f"{words[:5]}. Call `unload_adapters()` first, or convert the "
            "model that it was trained from; every reader takes the file of a "
            "word as it is."
        )


def _with_scheduler(checkpoint: Checkpoint, origin: Any) -> Checkpoint:
    """Adds the scheduler's configuration of the model trained from."""
    folder = None if origin is None else Path(hub.local(origin))
    if folder is None or not diffusers.is_folder(folder):
        return checkpoint
    file = folder / "scheduler" / "scheduler_config.json"
    return dataclasses.replace(checkpoint, scheduler=read_json(file))


def _with_vae(checkpoint: Checkpoint, path: str | Path) -> Checkpoint:
    path = hub.local(path, "vae")
    with reading(path, "autoencoder"):
        other = _open_vae(Path(path))
    spec = dataclasses.replace(
        checkpoint.spec, autoencoder=other.spec.autoencoder
    )
    return dataclasses.replace(
        checkpoint,
        spec=spec,
        components={**checkpoint.components, "vae": other.components["vae"]},
        notes=checkpoint.notes + other.notes,
    )


def _open_vae(path: Path) -> Checkpoint:
    """Opens an autoencoder alone, or that of a whole model."""
    path = find_snapshot(path)
    if not path.is_dir():
        return ldm.read_vae(path)
    is_pipeline = diffusers.is_folder(path)
    return diffusers.read_vae(path / "vae" if is_pipeline else path)


def _warn(sentences: Any) -> None:
    for sentence in sentences:
        _logger.warning("%s", sentence)


def _base_tokenizer(checkpoint: Checkpoint, weights_directory: Any) -> Any:
    """Returns the tokenizer of the nearest preset, as none is in the file."""

    def make_tokenizer(max_length: int, pad_token: Any) -> Any:
        from keras_sdft.models import Tokenizer
        from keras_sdft.models.presets import get_preset

        merges = get_preset(named(checkpoint.spec)[1]).merges
        tokenizer = Tokenizer(merges, max_length, pad_token)
        words = checkpoint.spec.text_encoder.vocabulary_size
        if tokenizer.vocabulary_size != words:
            raise ValueError(
                f"{checkpoint.path!r} holds no vocabulary, and its text "
                f"encoder has {words} tokens, no published one's. Expected "
                "the diffusers folder that it was made from."
            )
        return tokenizer

    return make_tokenizer


def save(
    model: Any,
    path: str | Path,
    format: str = "diffusers",
    dtype: str = "float32",
    overwrite: bool = False,
) -> None:
    """Writes a model, one weight in memory at a time where possible.

    What the format cannot hold is logged as a warning, a line each.

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
    one_of("format", format, FORMATS)
    one_of("dtype", dtype, DTYPES)
    if isinstance(model, Checkpoint):
        checkpoint = model
    else:
        _refuse_adapters(model)
        model.check_full_precision()
        checkpoint = _with_scheduler(from_model(model), model.origin)
    _refuse_words(checkpoint)
    FORMATS[format].save(checkpoint, path, dtype=dtype, overwrite=overwrite)
    _warn(losses(checkpoint, format))


def describe(path: str | Path, check_weights: bool = False) -> dict[str, Any]:
    """Describes a model, a LoRA or an embedding.

    Args:
        path: Whatever `load` takes, or a LoRA or embedding file.
        check_weights: As for `keras_sdft.models.describe`.

    Returns:
        A dict: of a LoRA, `kind`, `dialect`, `ranks`, `modules` and
        `metadata`; of an embedding, `kind` and `tokens`; of a model, see
        `keras_sdft.models.describe`.
    """
    here = hub.local(path)
    if lora_files.is_lora(here):
        return lora_files.describe(here) or {}
    if embedding_files.is_embedding(here):
        return embedding_files.describe(here)
    return sources.describe(path, check_weights)


def convert(
    model: str | Path,
    output: str | Path,
    format: str,
    dtype: str = "float32",
    overwrite: bool = False,
    **options: Any,
) -> None:
    """Reads a model or a LoRA and writes it in another format.

    Args:
        model: What to read, see `load`; or a LoRA file, or for `"kohya"` a
            run of one.
        output: What to write, see `save`.
        format: A name of `FORMATS`; of a LoRA, `"diffusers"` or `"kohya"`.
        dtype: As for `save`.
        overwrite: As for `save`.
        **options: Further arguments of `load`.
    """
    here = hub.local(model, variant=options.get("variant"))
    if format == "kohya":
        here = lora_files.find(here)
    if lora_files.is_lora(here):
        lora_files.convert(here, output, format, dtype, overwrite)
        return
    one_of("format", format, FORMATS)
    one_of("dtype", dtype, DTYPES)
    save(load(model, **options), output, format, dtype, overwrite)


def _resolve(path: Path, prediction_type: str | None) -> Resolved | None:
    """Resolves a path for `StableDiffusion.from_preset`."""
    path = find_snapshot(path)
    found = recognise(path)
    if found is None:
        return None
    checkpoint = FORMATS[found].read(path, prediction_type=prediction_type)
    _warn(checkpoint.notes)
    files: dict[str, Any] = {
        name: checkpoint.source(name) for name in keras_cv.NETWORKS
    }
    if checkpoint.make_tokenizer is not None:
        files["tokenizer"] = checkpoint.make_tokenizer
    spec, base = named(checkpoint.spec)
    kind = FORMATS[found].kind
    return Resolved(kind, base, spec, files, {}, str(path.resolve()))


def _resolve_vae(path: Path) -> tuple[AutoencoderSpec, dict[str, Any]]:
    """Resolves the path of an autoencoder, for `vae`."""
    checkpoint = _open_vae(path)
    names = ("image_encoder", "decoder")
    files = {name: checkpoint.source(name) for name in names}
    return checkpoint.spec.autoencoder, files


register_resolver(_resolve, _resolve_vae)
