"""From flags to batches: the data of one run, and how long the run is.

The only place that knows which flag becomes which argument of the data
room. TensorFlow is imported inside the functions.
"""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING
from typing import Any

from keras_sdft import data
from keras_sdft.cli.repeated_warnings import muted

if TYPE_CHECKING:
    from keras_sdft.cli.caching import Caches
    from keras_sdft.cli.command import Options


# Validation data is written as the training data is, and read as it is.
_OF_VALIDATION = (
    "image_column",
    "caption_column",
    "caption_template",
    "max_unreadable",
)


@dataclasses.dataclass(frozen=True)
class Data:
    """The data of a run, and how long it is.

    Attributes:
        training: `tf.data.Dataset` of the batches of one epoch, or an
            endless one.
        validation: The same for validation, or `None`.
        report: `keras_sdft.data.Unreadable`.
        images_per_step: Int, images in one optimizer step.
        steps_per_epoch: Int, optimizer steps in one epoch.
        steps: Int, optimizer steps of the run.
        endless: Boolean, whether `training` has no end of its own.
    """

    training: Any
    validation: Any
    report: Any
    images_per_step: int
    steps_per_epoch: int
    steps: int
    endless: bool = False

    @property
    def epochs(self) -> int:
        """Epochs that `steps` need; the last one may be cut short."""
        return math.ceil(self.steps / self.steps_per_epoch)


def check_data(options: Options) -> None:
    """Checks the options of data against each other.

    Raises:
        ValueError: If one has no effect.
    """
    groups = (data.SourceOptions, data.TagOptions)
    data.LoadOptions(**options.values_of(*groups), **_of_training(options))


def load_data(options: Options, sd: Any, caches: Caches | None = None) -> Data:
    """Reads training and validation data.

    Args:
        options: `Options`.
        sd: `keras_sdft.StableDiffusion`, for its tokenizer and image size.
        caches: `Caches` that they are read from, once they are filled.
            `None` (the default) reads none.

    Returns:
        `Data`.

    Raises:
        ValueError: If the data breaks its convention.
        FileNotFoundError: If it is missing.
    """
    report = data.Unreadable()
    common = _common(options, sd, report)
    images = options.batch_size * options.gradient_accumulation_steps
    training = data.load(
        options.data,
        sd.tokenizer,
        batch_size=images,
        cache=None if caches is None else caches.training,
        **options.values_of(data.SourceOptions, data.TagOptions),
        **_of_training(options),
        **common,
    )
    validation = None
    if options.validation_data is not None:
        validation = data.load(
            options.validation_data,
            sd.tokenizer,
            batch_size=options.batch_size,
            shuffle=False,
            drop_remainder=False,
            cache=None if caches is None else caches.validation,
            **{name: getattr(options, name) for name in _OF_VALIDATION},
            **common,
        )
    per_epoch = int(training.cardinality())
    steps = _steps(options, per_epoch)
    return Data(training, validation, report, images, per_epoch, steps)


def load_photos(options: Options, sd: Any) -> Data:
    """Reads the photos of a subject, as a rehearsal without class images.

    Args:
        options: `Options`.
        sd: `keras_sdft.StableDiffusion`.

    Returns:
        `Data` whose `training` is one pass over the photos.

    Raises:
        ValueError: If the folder or an option is not as it must be.
        FileNotFoundError: If the folder is missing.
    """
    report = data.Unreadable()
    images = options.batch_size * options.gradient_accumulation_steps
    training = data.load_dreambooth(
        options.instance_data_dir,
        sd.tokenizer,
        instance_prompt=options.instance_prompt,
        repeats=options.repeats,
        batch_size=images,
        **_of_training(options),
        **_common(options, sd, report),
    )
    validation = None
    if options.validation_data_dir is not None:
        # One photo is too few to learn from, and enough to validate with.
        with muted("data.sources.dreambooth"):
            validation = data.load_dreambooth(
                options.validation_data_dir,
                sd.tokenizer,
                instance_prompt=options.instance_prompt,
                batch_size=options.batch_size,
                shuffle=False,
                max_unreadable=options.max_unreadable,
                **_common(options, sd, report),
            )
    if options.class_prompt is not None:
        images *= 2
    steps = _steps(options, int(training.cardinality()))
    return Data(
        training,
        validation,
        report,
        images,
        min(options.validation_every_steps, steps),
        steps,
        endless=True,
    )


def load_subject(options: Options, sd: Any, photos: Data) -> Data:
    """Reads photos and class images together, without an end.

    A pass over a few photos is too short for an epoch of Keras'.

    Args:
        options: `Options`.
        sd: `keras_sdft.StableDiffusion`.
        photos: `Data` of `load_photos`.

    Returns:
        `Data`.
    """
    subject = options.values_of(data.SubjectOptions)
    if options.class_prompt is None:
        subject["class_data_dir"] = None
    training = data.load_dreambooth(
        options.instance_data_dir,
        sd.tokenizer,
        batch_size=options.batch_size * options.gradient_accumulation_steps,
        repeat=True,
        **subject,
        **_of_training(options),
        **_common(options, sd, photos.report),
    )
    return dataclasses.replace(photos, training=training)


def _common(options: Options, sd: Any, report: Any) -> dict[str, Any]:
    return {
        "resolution": (sd.img_height, sd.img_width),
        "seed": options.seed,
        "report": report,
    }


def _of_training(options: Options) -> dict[str, Any]:
    """Returns what is not done to validation data."""
    return options.values_of(data.ImageOptions, data.EpochOptions)


def _steps(options: Options, per_pass: int) -> int:
    if options.max_train_steps is not None:
        return options.max_train_steps
    return int(options.num_train_epochs) * per_pass
