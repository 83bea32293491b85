"""`keras-sdft train`: a folder of captioned images in, a run directory out.

Calls the package's public names in the order of the data flow. Everything is
checked before the run directory is made.
"""

from __future__ import annotations

import dataclasses
import os
from typing import Any

from keras_sdft import data
from keras_sdft import runs
from keras_sdft.cli.caching import make_caches
from keras_sdft.cli.command import Command
from keras_sdft.cli.command import Options
from keras_sdft.cli.memory import check_memory
from keras_sdft.cli.options import TRAINING
from keras_sdft.cli.options import CacheOptions
from keras_sdft.cli.options import DataOptions
from keras_sdft.cli.options import check_counts
from keras_sdft.cli.resume import check_steps
from keras_sdft.cli.resume import find_checkpoint
from keras_sdft.cli.resume import open_run
from keras_sdft.cli.resume import start_of
from keras_sdft.cli.resume import with_saved_flags
from keras_sdft.cli.run import RunLabels
from keras_sdft.cli.run import inputs_of
from keras_sdft.cli.run import load_for_training
from keras_sdft.cli.run import resolved
from keras_sdft.cli.run import run_training
from keras_sdft.cli.training import check_training
from keras_sdft.cli.training import interruption
from keras_sdft.cli.training import make_callbacks
from keras_sdft.cli.training import make_trainer
from keras_sdft.cli.training import needs_captions
from keras_sdft.cli.training import resolve_defaults
from keras_sdft.cli.training_data import check_data
from keras_sdft.cli.training_data import load_data


@dataclasses.dataclass(frozen=True, kw_only=True)
class ValidationOptions:
    """The validation: how often it is done.

    Args:
        validation_every_epochs: Epochs between two validations.
    """

    validation_every_epochs: int = 1

    def __post_init__(self) -> None:
        check_counts(self, "validation_every_epochs")


def train(options: Options) -> None:
    """Fine-tunes a model on captioned images.

    Raises:
        ValueError: If an option is out of its range, or the loss became NaN
            or infinite.
        OSError: If a file is missing or may not be replaced.
    """
    train_as("train", options, COMMAND, "YOUR PROMPT")


def train_as(
    name: str, options: Options, command: Command, prompt: str
) -> None:
    """Trains on captioned images for a command.

    Args:
        name: String, the command's.
        options: The options of `train`.
        command: The `Command`, whose flags are saved with the run.
        prompt: String, what to try the result with.
    """
    check_data(options)
    inputs = inputs_of(options, ("data", "validation_data"))
    if options.cache is not None:
        runs.check_separate(options.cache, inputs, {}, flag="cache")
    check_training(options)
    made = {"cache": options.cache}
    labels = RunLabels(options.data, prompt)
    with open_run(name, options, inputs, made) as run:
        _train(resolve_defaults(options), run, inputs, command, labels)


def _train(
    options: Options,
    run: Any,
    inputs: dict[str, str | None],
    command: Command,
    labels: RunLabels,
) -> None:
    saved = resolved(options, inputs)
    if options.cache is not None:
        saved["cache"] = os.path.abspath(options.cache)
    saved = {n: v for n, v in saved.items() if n in command.flags.by_name}
    found = find_checkpoint(options, run, saved)
    sd = load_for_training(options)
    caches = make_caches(options, sd, captions=not needs_captions(options))
    loaded = load_data(options, sd, caches, start_of(found))
    check_steps(found, loaded.steps)
    if start_of(found, loaded) != start_of(found):
        loaded = load_data(options, sd, caches, start_of(found, loaded))
    trainer = make_trainer(options, sd, loaded.steps)
    callbacks = make_callbacks(options, run, loaded, interruption())
    check_memory(options, trainer, loaded)
    caches.fill(sd, keep_text_encoder=bool(options.preview_prompts))
    run_training(options, run, saved, loaded, trainer, callbacks, labels, found)


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
    common=(
        "resolution",
        "batch_size",
        "max_train_steps",
        "num_train_epochs",
        "learning_rate",
        "lora_rank",
        "validation_data",
        "preview_prompts",
        "mixed_precision",
        "remat",
        "resume",
        "overwrite",
    ),
    example=(
        "keras-sdft train --model tiny --data photos \\\n"
        "    --output_dir runs/first --max_train_steps 200"
    ),
)
