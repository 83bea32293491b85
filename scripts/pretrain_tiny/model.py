"""The whole model in one directory, as the library packages it.

Four networks in float32 with checksums, and the vocabulary: what a stage of
training begins with, and what it ends with. Must not know data.
"""

import functools
import pathlib
import shutil
from typing import Any

from keras_sdft import StableDiffusion
from keras_sdft.models import PRESETS
from keras_sdft.models import packaged
from scripts.pretrain_tiny import autoencoder
from scripts.pretrain_tiny import networks

MERGES = "merges.txt.gz"


def parts(sd: Any) -> "dict[str, Any]":
    """The networks of a `StableDiffusion` by the library's names."""
    return {
        "text_encoder": sd.text_encoder,
        # The same weights: the layer left out has none.
        "image_encoder": sd.moments_model,
        "decoder": sd.decoder,
        "diffusion_model": sd.diffusion_model,
    }


def write_initial(
    directory: pathlib.Path,
    merges: pathlib.Path,
    autoencoder_run: "pathlib.Path | None" = None,
    seed: int = 0,
) -> None:
    """Writes a model that has learned nothing but its autoencoder.

    Args:
        directory: Path to write.
        merges: Path of the vocabulary.
        autoencoder_run: Path of a run of `autoencoder.py`. Defaults to the
            autoencoder that ships with the package.
        seed: Integer >= 0.
    """
    spec = networks.tiny_spec()
    moments, decoder = networks.build_autoencoder(spec, seed)
    if autoencoder_run is None:
        for part, network in (("image_encoder", moments), ("decoder", decoder)):
            packaged.read(PRESETS["tiny"].weights, part, network)
    else:
        moments, decoder = autoencoder.load(spec, autoencoder_run)
    text_encoder, unet = networks.build_text_to_image(spec, seed)
    found = {
        "text_encoder": text_encoder,
        "image_encoder": moments,
        "decoder": decoder,
        "diffusion_model": unet,
    }
    write(directory, found, merges)


def write(
    directory: pathlib.Path,
    found: "dict[str, Any]",
    merges: pathlib.Path,
    dtype: str = "float32",
    notes: "dict[str, Any] | None" = None,
) -> None:
    """Writes networks and vocabulary; the checksums come last.

    Args:
        directory: Path to write.
        found: Dictionary of networks, as of `parts`.
        merges: Path of the vocabulary.
        dtype: Name of the dtype on the disk.
        notes: Dictionary that JSON can hold.
    """
    directory.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(merges, directory / MERGES)
    packaged.write(directory, found, dtype, notes)


def is_whole(directory: pathlib.Path) -> bool:
    """Whether a directory was written to its end."""
    return (directory / packaged.CHECKSUMS).is_file()


def load(directory: pathlib.Path) -> StableDiffusion:
    """Loads what `write` wrote.

    Returns:
        A `keras_sdft.StableDiffusion` of 128x128 pixels.
    """
    files: dict[str, Any] = {
        part: functools.partial(packaged.read, directory, part)
        for part in packaged.parts(directory)
    }
    files["tokenizer"] = directory / MERGES
    spec = networks.tiny_spec()
    side = spec.resolution
    return StableDiffusion(side, side, spec=spec, base="tiny", files=files)
