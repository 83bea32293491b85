"""The caches of a run: which ones, where, when they are worth it."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import os
from pathlib import Path
from typing import Any

import keras_sdft
from keras_sdft import data
from keras_sdft import files
from keras_sdft import models
from keras_sdft.cli.command import Options
from keras_sdft.cli.options import DataOptions

# Beside the runs, so that those on the same data share what is in it.
DEFAULT_FOLDER = "keras_sdft_cache"
# Of the free space, what is taken without being asked to.
_SHARE = 0.5
# Options that decide what is encoded, for the name of a default cache.
_DECIDING = (
    DataOptions,
    data.SourceOptions,
    data.ImageOptions,
    models.ModelOptions,
)
# How often an image is shown, and when to give up, decides nothing.
_NOT_DECIDING = ("repeats", "max_unreadable", "weights_directory")


@dataclasses.dataclass(frozen=True)
class Caches:
    """The `keras_sdft.encoding.Cache`s of a run, or the reason for none."""

    training: Any = None
    validation: Any = None
    reason: str = ""

    def fill(self, sd: Any, keep_text_encoder: bool) -> None:
        """Encodes what is missing, says so, and releases the encoders."""
        reason = self.reason or getattr(self.training, "skip_reason", None)
        if reason:
            print(f"No cache: {reason}", flush=True)
        if reason or self.training is None:
            return
        for name in ("training", "validation"):
            cache = getattr(self, name)
            if cache is None:
                continue
            if cache.stale:
                print(
                    f"The cache {cache.directory} is stale and encoded "
                    f"again: {'; '.join(cache.stale)}",
                    flush=True,
                )
            cache.fill()
            print(f"Cache of {name}: {cache.summary()}", flush=True)
        released = ["image_encoder"]
        if self.training.contents.contexts and not keep_text_encoder:
            released.append("text_encoder")
        sd.release(released)


def make_caches(
    options: Options, sd: Any, captions: bool, overwrite: bool = False
) -> Caches:
    """Decides on the caches of a run; they are planned when data is read.

    Args:
        options: The options of `train`.
        sd: `keras_sdft.StableDiffusion`.
        captions: Boolean, whether captions may come from the cache.
        overwrite: Boolean, whether a stale cache is replaced in a directory
            that was asked for. One that nobody asked for always is.
    """
    if options.no_cache:
        return Caches()
    directory, asked = options.cache, options.cache is not None
    if not asked:
        directory = default_directory(options, sd.img_height, captions)
        place = os.path.dirname(directory)
        if not os.path.isdir(directory) and not files.writable(directory):
            return Caches(
                reason=f"{place} cannot be written to. `--cache DIR` puts it "
                "elsewhere."
            )
    make = functools.partial(
        keras_sdft.encoding.Cache,
        stable_diffusion=sd,
        dtype=options.cache_dtype,
        # As the cache has it, unless the text encoder is to learn.
        contexts=None if captions else False,
        overwrite=overwrite or not asked,
        defer=True,
    )
    pays = None if asked else functools.partial(_why_not, options, directory)
    training = make(directory, unless=pays)
    if not asked:
        try:
            training.check(options)
        except ValueError as error:
            return Caches(reason=str(error))
    validation = None
    if options.validation_data is not None:
        validation = make(
            os.path.join(str(directory), "validation"),
            unless=lambda needs: training.skip_reason,
        )
    return Caches(training, validation)


def default_directory(options: Options, resolution: int, captions: bool) -> str:
    """Returns where a run's cache is if no other place is given.

    Each set of options that are encoded has a folder of its own, so that
    going back and forth between two encodes nothing twice.
    """
    values = options.values_of(*_DECIDING)
    values["cache_dtype"] = options.cache_dtype
    for name in _NOT_DECIDING:
        del values[name]
    for name in ("data", "validation_data", "model", "vae"):
        if values[name] is not None and os.path.exists(values[name]):
            values[name] = os.path.realpath(values[name])
    text = json.dumps([resolution, captions, values], sort_keys=True)
    key = hashlib.blake2b(text.encode(), digest_size=4).hexdigest()
    stem = Path(options.data.rstrip("/\\")).stem.replace(":", "-") or "data"
    beside = Path(options.output_dir).absolute().parent / DEFAULT_FOLDER
    return str(beside / f"{stem}-{resolution}-{key}")


def _why_not(options: Options, directory: str, needs: Any) -> str | None:
    """Returns why a cache of these `CacheNeeds` is not worth it."""
    free = files.free_bytes(directory)
    if needs.num_bytes > _SHARE * free:
        return (
            f"it would take {needs.num_bytes / 1e9:.1f} GB of the "
            f"{free / 1e9:.1f} GB that are free. `--cache "
            "DIR` puts it on another disk."
        )
    shown = options.batch_size * options.gradient_accumulation_steps
    shown *= options.max_train_steps or 0
    if options.num_train_epochs is not None:
        shown = options.num_train_epochs * needs.num_rows
    if shown < needs.num_images:
        return (
            f"the run shows {shown:,} images, and {needs.num_images:,} "
            "would be encoded. `--cache DIR` does it all the same."
        )
    return None
