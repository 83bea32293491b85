"""Captioned images: how a run reads them, and when it caches what they are."""

from __future__ import annotations

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
from keras_sdft import runs
from keras_sdft.cli.command import Options
from keras_sdft.cli.options import DataOptions
from keras_sdft.cli.source import Source
from keras_sdft.cli.source import Start
from keras_sdft.cli.training import inputs_of
from keras_sdft.cli.training import parts_of

# Beside the runs, so that those on the same data share what is in it.
DEFAULT_FOLDER = "keras_sdft_cache"
# What no run has used for so long is removed there, and beyond so much.
_MAX_DAYS, _MAX_BYTES = 30, 50e9
# Of the free space, what is taken without being asked to.
_SHARE = 0.5
# What decides what is encoded, for the name of a default cache.
_DECIDING = (DataOptions, data.SourceOptions, data.ImageOptions)
# How often an image is shown, and when to give up, decides nothing.
_NOT_DECIDING = ("repeats", "max_unreadable", "weights_directory")
# Validation data is written as the training data is.
_OF_VALIDATION = (
    "image_column",
    "caption",
    "caption_column",
    "caption_template",
)


class Captioned(Source):
    """Captioned images, from the cache where there is one.

    Args:
        options: The options of `train`.
        sd: `keras_sdft.StableDiffusion`.
        captions: Boolean, whether captions may come from the cache too.
            Defaults to whether no part that learns encodes them.
        overwrite: Boolean, whether a stale cache is replaced in a directory
            that was asked for. One that nobody asked for always is.
    """

    inputs = ("data", "validation_data")
    made = "cache"

    def __init__(
        self,
        options: Options,
        sd: Any,
        captions: bool | None = None,
        overwrite: bool = False,
    ) -> None:
        super().__init__(options, sd)
        if captions is None:
            parts = parts_of(options)
            captions = not any("text_encoder" in p.networks for p in parts)
        self.captions = captions
        self.overwrite = overwrite
        self.caches: dict[str, Any] = {}
        self.no_cache_reason = ""

    @staticmethod
    def check(options: Options, spec: dict[str, Any]) -> None:
        shared = (data.TagOptions, data.ImageOptions, data.EpochOptions)
        data.LoadOptions(**options.values_of(data.SourceOptions, *shared))
        for flag in Captioned.inputs:
            source = getattr(options, flag)
            if source is None or source.startswith("tfds:"):
                continue
            if not os.path.exists(source):
                raise FileNotFoundError(
                    f"`{flag}` does not exist: {os.path.abspath(source)}. "
                    "Expected a folder of captioned images, a .csv or .jsonl "
                    "file, or 'tfds:NAME'."
                )
        if options.cache is not None:
            inputs = inputs_of(options, Captioned.inputs)
            runs.check_separate(options.cache, inputs, {}, flag="cache")

    def load(self, start: Start = (0, 0)) -> runs.RunData:
        options, self.report = self.options, data.Report()
        self._make_caches()
        training = self.read_training(
            data.load,
            options.data,
            cache=self.caches.get("training"),
            start=start,
            **options.values_of(data.SourceOptions, data.TagOptions),
        )
        self._label("training")
        validation = self.read_validation(
            options.validation_data,
            split=data.validation_split(options.validation_data),
            cache=self.caches.get("validation"),
            **{name: getattr(options, name) for name in _OF_VALIDATION},
        )
        if validation is not None:
            self._label("validation")
            self.report.compare_held_out()
        per_epoch = int(training.cardinality())
        return runs.RunData(
            training,
            validation,
            self.report,
            self.batch,
            per_epoch,
            self.steps(per_epoch),
            validation_every_epochs=options.validation_every_epochs,
        )

    def _label(self, role: str) -> None:
        """Names what was read last, which may be the same source twice."""
        for source in self.report.sources[-1:]:
            source.name = f"{role} images in {source.name}"

    def prepare(self, loaded: runs.RunData, start: Start) -> runs.RunData:
        self.fill_caches(keep_text_encoder=bool(self.options.preview_prompts))
        return loaded

    def fill_caches(self, keep_text_encoder: bool) -> None:
        """Encodes what is missing, says so, and releases the encoders."""
        training = self.caches.get("training")
        reason = getattr(training, "skip_reason", self.no_cache_reason)
        if reason:
            print(f"No cache: {reason}", flush=True)
        if reason or training is None:
            return
        for name, cache in self.caches.items():
            if cache.stale:
                print(
                    f"The cache {cache.directory} is stale and encoded "
                    f"again: {'; '.join(cache.stale)}",
                    flush=True,
                )
            cache.fill()
            print(f"Cache of {name}: {cache.summary()}", flush=True)
        if self.options.cache is None:
            folder = os.path.dirname(training.directory)
            for one in keras_sdft.encoding.prune(
                folder, _MAX_BYTES, _MAX_DAYS, keep=[training.directory]
            ):
                print(f"Removed {one.path}, unused for {one.days:.0f} days")
        released = ["image_encoder"]
        if training.contents.contexts and not keep_text_encoder:
            released.append("text_encoder")
        self.sd.release(released)

    def _make_caches(self) -> None:
        """Decides on the caches; they are planned when data is read."""
        options, self.caches = self.options, {}
        if options.no_cache:
            return
        directory, asked = options.cache, options.cache is not None
        if not asked:
            directory = self.default_directory()
        make = functools.partial(
            keras_sdft.encoding.Cache,
            stable_diffusion=self.sd,
            dtype=options.cache_dtype,
            # As the cache has it, unless the text encoder is to learn.
            contexts=None if self.captions else False,
            overwrite=self.overwrite or not asked,
            defer=True,
        )
        pays = functools.partial(self._why_not, directory)
        training = make(directory, unless=None if asked else pays)
        if not asked:
            self.no_cache_reason = self._why_no_default(training)
            if self.no_cache_reason:
                return
        self.caches = {"training": training}
        if options.validation_data is not None:
            self.caches["validation"] = make(
                os.path.join(str(directory), "validation"),
                unless=lambda needs: training.skip_reason,
            )

    def default_directory(self) -> str:
        """Returns where the cache is if no other place is given.

        Each set of options that are encoded has a folder of its own, so that
        going back and forth between two encodes nothing twice.
        """
        options, resolution = self.options, self.sd.img_height
        values = options.values_of(*_DECIDING, models.ModelOptions)
        values["cache_dtype"] = options.cache_dtype
        for name in _NOT_DECIDING:
            del values[name]
        for name in ("data", "validation_data", "model", "vae"):
            if values[name] is not None and os.path.exists(values[name]):
                values[name] = os.path.realpath(values[name])
        deciding = [resolution, self.captions, values]
        text = json.dumps(deciding, sort_keys=True)
        key = hashlib.blake2b(text.encode(), digest_size=4).hexdigest()
        stem = Path(options.data.rstrip("/\\")).stem.replace(":", "-")
        beside = Path(options.output_dir).absolute().parent / DEFAULT_FOLDER
        return str(beside / f"{stem or 'data'}-{resolution}-{key}")

    def _why_no_default(self, cache: Any) -> str:
        """Returns why there can be none where nobody asked for one."""
        directory = cache.directory
        try:
            cache.check(self.options)
        except ValueError as error:
            return str(error)
        if os.path.isdir(directory) or files.writable(directory):
            return ""
        place = os.path.dirname(directory)
        return f"{place} cannot be written to. `--cache DIR` puts it elsewhere."

    def _why_not(self, directory: str, needs: Any) -> str | None:
        """Returns why a cache of these `CacheNeeds` is not worth it."""
        free = files.free_bytes(directory)
        if needs.num_bytes > _SHARE * free:
            return (
                f"it would take {needs.num_bytes / 1e9:.1f} GB of the "
                f"{free / 1e9:.1f} GB that are free. `--cache DIR` puts it on "
                "another disk."
            )
        shown = self.batch * (self.options.max_train_steps or 0)
        if self.options.num_train_epochs is not None:
            shown = self.options.num_train_epochs * needs.num_rows
        if shown < needs.num_images:
            return (
                f"the run shows {shown:,} images, and {needs.num_images:,} "
                "would be encoded. `--cache DIR` does it all the same."
            )
        return None
