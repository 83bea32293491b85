"""`keras-sdft encode`: fills the cache that `train --cache` reads.

Reads the data exactly as `train` does, so that the cache is one of it.
"""

from __future__ import annotations

import dataclasses
from typing import Literal

from keras_sdft.cli.caching import check_cache
from keras_sdft.cli.caching import make_caches
from keras_sdft.cli.checks import check
from keras_sdft.cli.model import MixedPrecision
from keras_sdft.cli.model import PredictionType
from keras_sdft.cli.train import TrainOptions
from keras_sdft.cli.train import check_source
from keras_sdft.cli.training_data import load_data
from keras_sdft.cli.training_run import inputs_of
from keras_sdft.cli.training_run import load_for_training


@dataclasses.dataclass(frozen=True, kw_only=True)
class EncodeOptions:
    """What is encoded, and where to; the flags are those of train.

    Args:
        model: A preset, a run, an exported directory or a weight file.
        data: A folder of images and captions, a CSV or JSONL file, or
            tfds:NAME or tfds:NAME:SPLIT.
        cache: Directory of the cache, to be made.
        validation_data: Where validation examples are, as for data.
        split: Sub-folder train, validation or test of a folder, or a split
            of a TFDS dataset.
        image_column: Column or feature of the image. Found if not given.
        caption_column: Column or feature of the caption.
        mask_column: Column of a table for the masks of masks=files.
        repeats: How often an epoch shows each image, or the column of a
            table that says so, in which 0 leaves an image out.
        caption_template: Text with {caption} in it.
        no_captions: Encode the images alone, for a text encoder that is to
            be trained.
        resolution: Height and width in pixels, a multiple of 64. Defaults
            to the model's own.
        horizontal_flip: Encode each image mirrored as well.
        masks: Keep masks, as train has them.
        buckets: Encode each image near its own aspect ratio.
        bucket_step: Pixels between the sides of two buckets, a multiple of
            64.
        bucket_min_side: Shortest side of a bucket in pixels. Defaults to
            half of the resolution.
        bucket_max_side: Longest side of a bucket in pixels. Defaults to
            twice the resolution.
        bucket_max_aspect_ratio: Longer side over shorter side, at most.
            Longer images are cut to it.
        max_unreadable: Share of unreadable images above which encoding is
            refused.
        cache_dtype: Numbers on the disk. Defaults to float16, or to what
            the cache has.
        mixed_precision: Numbers to encode with.
        prediction_type: What the model predicts, for files that do not say.
        weights_directory: Directory with local copies of a preset's
            published files.
        overwrite: Replace a cache in the directory that is stale.
    """

    model: str
    data: str
    cache: str
    validation_data: str | None = None
    split: str | None = None
    image_column: str | None = None
    caption_column: str = "text"
    mask_column: str = "mask_file_name"
    repeats: int | str = 1
    caption_template: str | None = None
    no_captions: bool = False
    resolution: int | None = None
    horizontal_flip: bool = False
    masks: Literal["files", "alpha"] | None = None
    buckets: bool = False
    bucket_step: int = 64
    bucket_min_side: int | None = None
    bucket_max_side: int | None = None
    bucket_max_aspect_ratio: float = 2.5
    max_unreadable: float = 0.1
    cache_dtype: Literal["float16", "float32"] | None = None
    mixed_precision: MixedPrecision = "no"
    prediction_type: PredictionType | None = None
    weights_directory: str | None = None
    overwrite: bool = False


def encode(options: EncodeOptions) -> None:
    """Encodes captioned images once, for training from the cache.

    Args:
        options: `EncodeOptions`.

    Raises:
        ValueError: If an option is out of its range, the cache is stale, or
            the disk is too small.
        OSError: If a file is missing, the disk is full, or another process
            fills the cache.
    """
    training = as_training(options)
    check(training)
    inputs = inputs_of(training, ("data", "validation_data"))
    check_cache(training, inputs)
    for flag in ("data", "validation_data"):
        check_source(flag, inputs[flag])
    sd = load_for_training(training)
    caches = make_caches(training, sd, options.overwrite)
    data = load_data(training, sd, caches)
    caches.fill(sd, keep_text_encoder=False)
    if len(data.report):
        print("Unreadable images, left out:")
        print(data.report.table(20))
    print(f"Train from it: keras-sdft train --cache {options.cache} ...")


def as_training(options: EncodeOptions) -> TrainOptions:
    """Returns the options of a training that the cache is for."""
    values = dataclasses.asdict(options)
    del values["overwrite"]
    learns = values.pop("no_captions")
    return TrainOptions(
        **values,
        train_text_encoder=learns,
        output_dir=options.cache,
        max_train_steps=1,
    )
