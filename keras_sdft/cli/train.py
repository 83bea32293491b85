"""`keras-sdft train`: a folder of captioned images in, a run directory out."""

import dataclasses
import os
from typing import Any

from keras_sdft import data
from keras_sdft import hub
from keras_sdft import models
from keras_sdft import runs
from keras_sdft.cli.command import Command
from keras_sdft.cli.command import Options
from keras_sdft.cli.run import COMMON
from keras_sdft.cli.run import TRAINING
from keras_sdft.cli.run import Source
from keras_sdft.cli.run import inputs_of
from keras_sdft.cli.run import parts_of
from keras_sdft.cli.run import run


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataOptions:
    """The data: captioned images to train on, and to validate with.

    Args:
        data: A folder of images and captions, a CSV, JSONL or parquet file,
            tfds:NAME or tfds:NAME:SPLIT, or hf://owner/name[@revision].
        validation_data: Where validation examples are, as for data.
    """

    data: str = dataclasses.field(metadata=hub.pinning("data"))
    validation_data: str | None = dataclasses.field(
        default=None, metadata=hub.pinning("data")
    )


# What decides what is encoded, for the name of a default cache.
_DECIDING = (
    DataOptions,
    data.SourceOptions,
    data.ImageOptions,
    models.ModelOptions,
)
# Validation data is written as the training data is.
_OF_VALIDATION = (
    "image_column",
    "caption",
    "caption_column",
    "caption_template",
)


class Captioned(Source):
    """Captioned images, from the cache where there is one.

    `captions` and `overwrite` are as for `runs.RunCaches`; `captions` defaults
    to whether no part that learns encodes them.
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
        self.caches = runs.RunCaches(
            sd,
            options.of(runs.CacheOptions),
            self.run,
            self.deciding(),
            options,
            captions,
            overwrite,
        )

    @staticmethod
    def check(options: Options, spec: dict[str, Any]) -> None:
        shared = (data.TagOptions, data.ImageOptions, data.EpochOptions)
        data.LoadOptions(**options.values_of(data.SourceOptions, *shared))
        for flag in Captioned.inputs:
            source = getattr(options, flag)
            if source is None or source.startswith(("tfds:", hub.PREFIX)):
                continue
            if not os.path.exists(source):
                raise FileNotFoundError(
                    f"`{flag}` does not exist: {os.path.abspath(source)}. "
                    "Expected a folder of captioned images, a .csv or .jsonl "
                    "file, 'tfds:NAME', or 'hf://owner/name'."
                )
        if options.cache is not None:
            inputs = inputs_of(options, Captioned.inputs)
            runs.check_separate(options.cache, inputs, {}, flag="cache")

    def load(self) -> runs.RunData:
        options, self.report = self.options, data.Report()
        training = self.read_training(
            data.load,
            options.data,
            cache=self.caches.training,
            start=self.start,
            **options.values_of(data.SourceOptions, data.TagOptions),
        )
        self._label("training")
        validation = self.read_validation(
            options.validation_data,
            split=data.validation_split(options.validation_data),
            cache=self.caches.validation,
            **{name: getattr(options, name) for name in _OF_VALIDATION},
        )
        if validation is not None:
            self._label("validation")
        per_epoch = int(training.cardinality())
        return runs.RunData(
            training,
            validation,
            self.report,
            self.run.images_per_step,
            per_epoch,
            self.run.steps(per_epoch),
            validation_every_epochs=options.validation_every_epochs,
        )

    def _label(self, role: str) -> None:
        """Names what was read last, which may be the same source twice."""
        for source in self.report.sources[-1:]:
            source.name = f"{role} images in {source.name}"

    def prepare(self, loaded: runs.RunData) -> runs.RunData:
        self.caches.fill(keep_text_encoder=bool(self.options.preview_prompts))
        return loaded

    def deciding(self) -> dict[str, Any]:
        """Returns what decides what is encoded."""
        values = self.options.values_of(*_DECIDING)
        for name, path in inputs_of(self.options, self.inputs).items():
            if path is not None and os.path.exists(path):
                values[name] = os.path.realpath(path)
        # How often an image is shown, and when to give up, decides nothing.
        for name in ("repeats", "max_unreadable", "weights_directory"):
            del values[name]
        dtype = self.options.cache_dtype
        return values | {"cache_dtype": dtype, "captions": self.captions}


def train(options: Options) -> None:
    """Fine-tunes a model on captioned images."""
    run(COMMAND, Captioned, options)


COMMAND = Command(
    run=train,
    groups=(
        DataOptions,
        data.SourceOptions,
        data.TagOptions,
        *TRAINING,
        runs.ValidationOptions,
        runs.CacheOptions,
    ),
    # What guidance compares with must not be forgotten in a long run.
    defaults={"caption_dropout": 0.1},
    common=("num_train_epochs", "validation_data", "remat", *COMMON),
    example=(
        "keras-sdft train --model tiny --data photos \\\n"
        "    --output_dir runs/first --max_train_steps 200"
    ),
)
