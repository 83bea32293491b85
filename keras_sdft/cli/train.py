"""`keras-sdft train`: a folder of captioned images in, a run directory out."""

from __future__ import annotations

from typing import Any

from keras_sdft import data
from keras_sdft import runs
from keras_sdft.cli.caching import make_caches
from keras_sdft.cli.command import Command
from keras_sdft.cli.command import Options
from keras_sdft.cli.options import COMMON
from keras_sdft.cli.options import TRAINING
from keras_sdft.cli.options import CacheOptions
from keras_sdft.cli.options import DataOptions
from keras_sdft.cli.options import ValidationOptions
from keras_sdft.cli.resume import with_saved_flags
from keras_sdft.cli.run import Source
from keras_sdft.cli.run import inputs_of
from keras_sdft.cli.run import run
from keras_sdft.cli.training import needs_captions
from keras_sdft.cli.training_data import Start
from keras_sdft.cli.training_data import check_data
from keras_sdft.cli.training_data import load_data


class Captioned(Source):
    """Captioned images, from the cache where there is one."""

    inputs = ("data", "validation_data")
    made = "cache"

    @staticmethod
    def check(options: Options, spec: dict[str, Any]) -> None:
        check_data(options)
        if options.cache is not None:
            inputs = inputs_of(options, Captioned.inputs)
            runs.check_separate(options.cache, inputs, {}, flag="cache")

    def load(self, start: Start) -> runs.RunData:
        captions = not needs_captions(self.options)
        self.caches = make_caches(self.options, self.sd, captions)
        return load_data(self.options, self.sd, self.caches, start)

    def prepare(self, data: runs.RunData, start: Start) -> runs.RunData:
        previews = bool(self.options.preview_prompts)
        self.caches.fill(self.sd, keep_text_encoder=previews)
        return data


def train(options: Options) -> None:
    """Fine-tunes a model on captioned images."""
    run(COMMAND, Captioned, options)


COMMAND = Command(
    run=train,
    expand=with_saved_flags,
    groups=(
        DataOptions,
        data.SourceOptions,
        data.TagOptions,
        *TRAINING,
        ValidationOptions,
        CacheOptions,
    ),
    # What guidance compares with must not be forgotten in a long run.
    defaults={"caption_dropout": 0.1},
    common=("num_train_epochs", "validation_data", "remat", *COMMON),
    example=(
        "keras-sdft train --model tiny --data photos \\\n"
        "    --output_dir runs/first --max_train_steps 200"
    ),
)
