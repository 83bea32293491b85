"""KerasCV's weight files: one for each network, `.weights.h5` or `.h5`.

Keras itself reads both and writes the first. The second is the layout of
Keras 2, in which the published weights are, and which is written here for
whoever still runs it.
"""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from keras_sdft.files import atomic_path
from keras_sdft.formats.checkpoint import Checkpoint
from keras_sdft.formats.diffusers_configs import named
from keras_sdft.formats.output import check_file
from keras_sdft.formats.output import staged_directory
from keras_sdft.formats.tokenizer_files import merges_text
from keras_sdft.models.exported import FORMAT_VERSION
from keras_sdft.models.exported import METADATA_FILE
from keras_sdft.version import __version__

NETWORKS = ("text_encoder", "image_encoder", "decoder", "diffusion_model")
MERGES_FILE = "merges.txt.gz"
ENTRIES = (
    MERGES_FILE,
    *(f"{name}.weights.h5" for name in NETWORKS),
    *(f"{name}.h5" for name in NETWORKS),
    METADATA_FILE,
)


def save(
    checkpoint: Checkpoint,
    path: str | Path,
    dtype: str = "float32",
    overwrite: bool = False,
    legacy: bool = False,
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
        legacy: Boolean, whether files are written in Keras 2's layout.

    Raises:
        FileExistsError: If something is there that may not be replaced.
        ValueError: If `dtype` is not `"float32"`.
    """
    if dtype != "float32":
        raise ValueError(
            "Keras' weight files are float32: a variable's dtype, which "
            f"loading would restore. Received: dtype={dtype!r}."
        )
    ending = ".h5" if legacy else ".weights.h5"
    files = {name: name + ending for name in NETWORKS}
    with staged_directory(path, overwrite, ENTRIES) as directory:
        added: list[str] = []
        if checkpoint.make_tokenizer is not None:
            added = _write_merges(directory / MERGES_FILE, checkpoint)
            files["tokenizer"] = MERGES_FILE
        for name in NETWORKS:
            # One network in memory at a time.
            model = _build(name, checkpoint)
            checkpoint.load_network(name, model)
            save_network(model, directory / files[name])
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


def save_network(model: Any, path: str | Path, overwrite: bool = False) -> None:
    """Writes one network's weights.

    Args:
        model: A built `keras.Model`.
        path: The file: `.weights.h5` for Keras 3's layout, any other `.h5`
            for Keras 2's.
        overwrite: Boolean, whether an existing file is replaced.

    Raises:
        FileExistsError: If the file exists and may not be replaced.
        ValueError: If the name ends otherwise.
    """
    path = check_file(path, overwrite)
    if path.suffix != ".h5":
        raise ValueError(
            f"Expected a name ending in '.h5'. Received: {str(path)!r}."
        )
    with atomic_path(path) as staged:
        if path.name.endswith(".weights.h5"):
            model.save_weights(staged)
            return
        with h5py.File(staged, "w") as file:
            _write_legacy(file, model)


def _write_legacy(file: Any, model: Any) -> None:
    """Groups by layer, weights in order, names in attributes."""
    names = _unique([layer.name for layer in model.layers])
    file.attrs["layer_names"] = [name.encode("utf-8") for name in names]
    file.attrs["backend"] = b"tensorflow"
    file.attrs["keras_version"] = b"2.15.0"
    for name, layer in zip(names, model.layers, strict=True):
        group = file.create_group(name)
        weights = layer.trainable_weights + layer.non_trainable_weights
        keys = _unique([f"{name}/{weight.path}:0" for weight in weights])
        group.attrs["weight_names"] = [key.encode("utf-8") for key in keys]
        for key, weight in zip(keys, weights, strict=True):
            group.create_dataset(key, data=np.asarray(weight))


def _unique(names: list[str]) -> list[str]:
    seen: dict[str, int] = {}
    result = []
    for name in names:
        count = seen.get(name, 0)
        seen[name] = count + 1
        result.append(f"{name}_{count}" if count else name)
    return result
