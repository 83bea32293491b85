"""From flags to batches: the data of one run, and how long the run is.

TensorFlow is imported inside the functions.
"""

from __future__ import annotations

import dataclasses
import math
import os
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
    "caption",
    "caption_column",
    "caption_template",
    "max_unreadable",
)


@dataclasses.dataclass(frozen=True)
class Data:
    """The data of a run, and how long it is.

    Attributes:
        training: `tf.data.Dataset` of the batches of one epoch.
        validation: The same for validation, or `None`.
        report: `keras_sdft.data.Report`.
        images_per_step: Integer, images in one optimizer step.
        steps_per_epoch: Integer, optimizer steps in one epoch.
        steps: Integer, optimizer steps of the run.
        is_pass: Boolean, whether an epoch is one pass over the images.
        validation_every_epochs: Integer, epochs between two validations.
    """

    training: Any
    validation: Any
    report: Any
    images_per_step: int
    steps_per_epoch: int
    steps: int
    is_pass: bool = True
    validation_every_epochs: int = 1

    @property
    def epochs(self) -> int:
        """Epochs that `steps` need; the last one may be cut short."""
        return math.ceil(self.steps / self.steps_per_epoch)

    @property
    def validation_freq(self) -> list[int]:
        """Epochs, counted from 1, after which is validated; the last is."""
        every = self.validation_every_epochs
        found = set(range(every, self.epochs + 1, every))
        return sorted(found | {self.epochs})


def check_data(options: Options) -> None:
    """Checks the options of data together, and that what they name exists.

    Raises:
        ValueError: If an option has no effect.
        FileNotFoundError: If a path of data is that of nothing.
    """
    groups = (data.SourceOptions, data.TagOptions)
    data.LoadOptions(**options.values_of(*groups), **_of_training(options))
    for flag in ("data", "validation_data"):
        source = getattr(options, flag)
        if source is None or source.startswith("tfds:"):
            continue
        if not os.path.exists(source):
            raise FileNotFoundError(
                f"`{flag}` does not exist: {os.path.abspath(source)}. "
                "Expected a folder of captioned images, a .csv or .jsonl "
                "file, or 'tfds:NAME'."
            )


def load_data(
    options: Options,
    sd: Any,
    caches: Caches,
    start: tuple[int, int] = (0, 0),
) -> Data:
    """Reads training and validation data.

    Args:
        options: The options of `train` or `encode`.
        sd: `keras_sdft.StableDiffusion`, for its tokenizer and image size.
        caches: `Caches` that they are read from, once they are filled.
        start: Epoch and batch that the training data begins with.
    """
    report = data.Report()
    images = options.batch_size * options.gradient_accumulation_steps
    training = data.load(
        options.data,
        sd.tokenizer,
        batch_size=images,
        cache=caches.training,
        start=start,
        **options.values_of(data.SourceOptions, data.TagOptions),
        **_of_training(options),
        **_common(options, sd, report),
    )
    _label(report, "training")
    validation = None
    if options.validation_data is not None:
        validation = data.load(
            options.validation_data,
            sd.tokenizer,
            batch_size=options.batch_size,
            shuffle=False,
            split=data.validation_split(options.validation_data),
            cache=caches.validation,
            **{name: getattr(options, name) for name in _OF_VALIDATION},
            **_common(options, sd, report),
        )
        _label(report, "validation")
        report.compare_held_out()
    per_epoch = int(training.cardinality())
    return Data(
        training,
        validation,
        report,
        images,
        per_epoch,
        _steps(options, per_epoch),
        validation_every_epochs=options.validation_every_epochs,
    )


def load_photos(options: Options, sd: Any) -> Data:
    """Reads the photos of a subject once, before there are class images.

    What is wrong with them, and how long the run is, is known after it.
    """
    report = data.Report()
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
        report.compare_held_out()
    steps = _steps(options, int(training.cardinality()))
    return Data(
        training,
        validation,
        report,
        images if options.class_prompt is None else 2 * images,
        min(options.validation_every_steps, steps),
        steps,
        is_pass=False,
    )


def load_subject(
    options: Options,
    sd: Any,
    photos: Data,
    start: tuple[int, int] = (0, 0),
) -> Data:
    """Reads photos and class images together.

    A pass over a few photos is too short for an epoch of Keras'.

    Args:
        options: The options of `dreambooth`.
        sd: `keras_sdft.StableDiffusion`.
        photos: `Data` of `load_photos`.
        start: Epoch and batch that the training data begins with.
    """
    subject = options.values_of(data.SubjectOptions)
    if options.class_prompt is None:
        subject["class_data_dir"] = None
    training = data.load_dreambooth(
        options.instance_data_dir,
        sd.tokenizer,
        batch_size=options.batch_size * options.gradient_accumulation_steps,
        batches_per_epoch=photos.steps_per_epoch,
        start=start,
        **subject,
        **_of_training(options),
        **_common(options, sd, photos.report),
    )
    return dataclasses.replace(photos, training=training)


def _label(report: Any, role: str) -> None:
    """Names what was read last, which may be the same source twice."""
    for source in report.sources[-1:]:
        source.name = f"{role} images in {source.name}"


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
