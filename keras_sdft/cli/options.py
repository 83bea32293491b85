"""The flags that commands share: each dataclass is a group of the help."""

from __future__ import annotations

import dataclasses

from keras_sdft import data
from keras_sdft import distribution
from keras_sdft import models
from keras_sdft import runs
from keras_sdft import training


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataOptions:
    """The data: captioned images to train on, and to validate with.

    Args:
        data: A folder of images and captions, a CSV or JSONL file, or
            tfds:NAME or tfds:NAME:SPLIT.
        validation_data: Where validation examples are, as for data.
    """

    data: str
    validation_data: str | None = None


# What every kind of training has.
TRAINING = (
    models.ModelOptions,
    runs.RunOptions,
    data.ImageOptions,
    data.EpochOptions,
    training.Objective,
    training.Noise,
    training.OptimizerOptions,
    *training.PART_OPTIONS,
    runs.PreviewOptions,
    training.CheckpointOptions,
    distribution.DistributionOptions,
)
# Of these, the flags that are used most.
COMMON = (
    "resolution",
    "batch_size",
    "max_train_steps",
    "learning_rate",
    "lora_rank",
    "preview_prompts",
    "mixed_precision",
    "resume",
    "overwrite",
)
