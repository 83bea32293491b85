"""`keras-sdft train`: a folder of captioned images in, a run directory out."""

from __future__ import annotations

from keras_sdft import data
from keras_sdft import runs
from keras_sdft.cli.captioned import Captioned
from keras_sdft.cli.command import Command
from keras_sdft.cli.command import Options
from keras_sdft.cli.options import COMMON
from keras_sdft.cli.options import TRAINING
from keras_sdft.cli.options import DataOptions
from keras_sdft.cli.options import ValidationOptions
from keras_sdft.cli.run import run


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
        ValidationOptions,
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
