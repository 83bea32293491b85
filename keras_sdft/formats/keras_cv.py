"""Writes KerasCV's weight files: one for each network, `.weights.h5`.

Keras itself reads these, and the `.h5` files of Keras 2 in which weights
were published.
"""

import dataclasses
import gzip
import json
from pathlib import Path
from typing import Any

from keras_sdft.formats.checkpoint import Checkpoint
from keras_sdft.formats.diffusers_configs import named
from keras_sdft.formats.output import staged_directory
from keras_sdft.formats.tokenizer_files import merges_text
from keras_sdft.models.exported import FORMAT_VERSION
from keras_sdft.models.exported import METADATA_FILE
from keras_sdft.models.exported import PARTS
from keras_sdft.models.model_card import card_files
from keras_sdft.version import __version__

NETWORKS = PARTS
MERGES_FILE = "merges.txt.gz"
ENTRIES = (
    MERGES_FILE,
    *(f"{name}.weights.h5" for name in NETWORKS),
    METADATA_FILE,
)


def save(
    checkpoint: Checkpoint,
    path: str | Path,
    dtype: str = "float32",
    overwrite: bool = False,
) -> None:
    """Writes a directory with a file for each network.

    The directory also holds the vocabulary and `keras_sdft.json`, so that
    `StableDiffusion.from_preset` takes it; KerasCV's own classes take the
    files one by one, with `load_weights`.

    Args:
        checkpoint: A `Checkpoint`.
        path: The directory to make.
        dtype: `"float32"`; Keras keeps weights in no other.
        overwrite: Boolean, whether an earlier one there is replaced.

    Raises:
        FileExistsError: If something is there that may not be replaced.
        ValueError: If `dtype` is not `"float32"`.
    """
    if dtype != "float32":
        raise ValueError(
            "Keras' weight files are float32: a variable's dtype, which "
            f"loading would restore. Received: dtype={dtype!r}."
        )
    files = {name: f"{name}.weights.h5" for name in NETWORKS}
    entries = (*ENTRIES, *card_files(path))
    with staged_directory(path, overwrite, entries) as directory:
        dataclasses.replace(checkpoint.card, kind="model").write(directory)
        added: list[str] = []
        if checkpoint.make_tokenizer is not None:
            added = _write_merges(directory / MERGES_FILE, checkpoint)
            files["tokenizer"] = MERGES_FILE
        for name in NETWORKS:
            # One network in memory at a time.
            model = _build(name, checkpoint)
            checkpoint.load_network(name, model)
            model.save_weights(directory / files[name])
            del model
        _write_metadata(directory / METADATA_FILE, checkpoint, files, added)


def _build(name: str, checkpoint: Checkpoint) -> Any:
    # Builds on TensorFlow, which a look at a file must not import.
    from keras_sdft.models import DiffusionModel
    from keras_sdft.models import keras_cv_parts

    spec = checkpoint.spec
    if name == "text_encoder":
        return keras_cv_parts.build_text_encoder(spec.text_encoder)
    if name == "image_encoder":
        return keras_cv_parts.build_image_encoder(spec.autoencoder)
    if name == "decoder":
        side = spec.resolution
        return keras_cv_parts.build_decoder(spec.autoencoder, side, side)
    return DiffusionModel(spec.diffusion_model)


def _write_merges(path: Path, checkpoint: Checkpoint) -> list[str]:
    """Writes the vocabulary; returns the tokens that were added to it."""
    spec = checkpoint.spec
    tokenizer = checkpoint.make_tokenizer(
        spec.text_encoder.max_length, spec.pad_token
    )
    text = merges_text(tokenizer)
    path.write_bytes(gzip.compress(text.encode("utf-8"), mtime=0))
    return list(tokenizer.added_tokens)


def _write_metadata(
    path: Path,
    checkpoint: Checkpoint,
    files: dict[str, str],
    added_tokens: list[str],
) -> None:
    spec, base = named(checkpoint.spec)
    metadata = {
        "format_version": FORMAT_VERSION,
        "keras_sdft_version": __version__,
        "base": base,
        "spec": spec.to_dict(),
        "prediction_type": spec.prediction_type,
        "files": files,
        "added_tokens": added_tokens,
        "steps": 0,
    }
    text = json.dumps(metadata, indent=2)
    path.write_text(text + "\n", encoding="utf-8")
