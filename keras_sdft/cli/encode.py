"""`keras-sdft encode`: fills the cache that `train --cache` reads."""

import dataclasses
from typing import Literal

from keras_sdft import checks
from keras_sdft import data
from keras_sdft import models
from keras_sdft.cli import train
from keras_sdft.cli.command import Command
from keras_sdft.cli.command import Options
from keras_sdft.cli.run import load_for_training
from keras_sdft.cli.train import Captioned
from keras_sdft.cli.train import DataOptions


@dataclasses.dataclass(frozen=True, kw_only=True)
class EncodeOptions:
    """What is encoded, and where to; the flags are those of train.

    Args:
        cache: Directory of the cache, to be made.
        no_captions: Encode the images alone, for a text encoder that is to
            be trained.
        resolution: Height and width in pixels, a multiple of 64. Defaults
            to the model's own.
        cache_dtype: Numbers on the disk. Defaults to float16, or to what
            the cache has.
        overwrite: Replace a cache in the directory that is stale.
    """

    cache: str
    no_captions: bool = False
    resolution: int | None = None
    cache_dtype: Literal["float16", "float32"] | None = None
    overwrite: bool = False

    def __post_init__(self) -> None:
        if self.resolution is not None:
            checks.multiple_of("resolution", self.resolution, 64, " pixels")


def encode(options: Options) -> None:
    """Encodes captioned images once, for training from the cache."""
    training = as_training(options)
    Captioned.check(training, {})
    sd = load_for_training(training)
    captions = not options.no_captions
    source = Captioned(training, sd, captions, options.overwrite)
    source.load()
    source.caches.fill(keep_text_encoder=False)
    print(source.report.summary())
    print(f"Train from it: keras-sdft train --cache {options.cache} ...")


def as_training(options: Options) -> Options:
    """Returns the options of a training that the cache is for."""
    values = dict(vars(options))
    del values["overwrite"], values["no_captions"]
    return train.COMMAND.options(
        **values, output_dir=options.cache, max_train_steps=1
    )


COMMAND = Command(
    run=encode,
    groups=(
        EncodeOptions,
        models.ModelOptions,
        models.PredictionOptions,
        DataOptions,
        data.SourceOptions,
        data.ImageOptions,
    ),
    common=(
        "validation_data",
        "resolution",
        "horizontal_flip",
        "buckets",
        "no_captions",
        "cache_dtype",
        "overwrite",
    ),
    example=(
        "keras-sdft encode --model tiny --data photos --cache photos_cache"
    ),
)
