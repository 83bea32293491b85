"""From flags to batches: the data of one run, and how long the run is."""

from __future__ import annotations

import dataclasses
import os
from typing import Any

from keras_sdft import data
from keras_sdft.cli.caching import Caches
from keras_sdft.cli.command import Options
from keras_sdft.runs import RunData

Start = tuple[int, int]

# Validation data is written as the training data is, and read as it is.
_OF_VALIDATION = (
    "image_column",
    "caption",
    "caption_column",
    "caption_template",
    "max_unreadable",
)


def check_data(options: Options) -> None:
    """Checks the options of captioned images together, and their paths."""
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
    options: Options, sd: Any, caches: Caches, start: Start = (0, 0)
) -> RunData:
    """Reads captioned images, from the epoch and batch of `start` on."""
    report = data.Report()
    training = data.load(
        options.data,
        sd.tokenizer,
        batch_size=_images(options),
        cache=caches.training,
        start=start,
        **options.values_of(data.SourceOptions, data.TagOptions),
        **_of_training(options),
        **_common(options, sd, report),
    )
    _label(report, "training")
    validation = None
    if options.validation_data is not None:
        validation = _load_validation(
            options,
            sd,
            report,
            options.validation_data,
            split=data.validation_split(options.validation_data),
            cache=caches.validation,
            **{name: getattr(options, name) for name in _OF_VALIDATION},
        )
        _label(report, "validation")
        report.compare_held_out()
    per_epoch = int(training.cardinality())
    return RunData(
        training,
        validation,
        report,
        _images(options),
        per_epoch,
        _steps(options, per_epoch),
        validation_every_epochs=options.validation_every_epochs,
    )


def load_photos(options: Options, sd: Any) -> RunData:
    """Reads the photos of a subject once, before there are class images.

    What is wrong with them, and how long the run is, is known after it.
    """
    report = data.Report()
    training = data.load_dreambooth(
        options.instance_data_dir,
        sd.tokenizer,
        instance_prompt=options.instance_prompt,
        repeats=options.repeats,
        batch_size=_images(options),
        **_of_training(options),
        **_common(options, sd, report),
    )
    validation = None
    if options.validation_data_dir is not None:
        validation = _load_validation(
            options,
            sd,
            report,
            options.validation_data_dir,
            caption=options.instance_prompt,
            max_unreadable=options.max_unreadable,
        )
        report.compare_held_out()
    steps = _steps(options, int(training.cardinality()))
    return RunData(
        training,
        validation,
        report,
        _images(options) * (1 if options.class_prompt is None else 2),
        # A pass over a few photos is too short for an epoch of Keras'.
        min(options.validation_every_steps, steps),
        steps,
        is_pass=False,
    )


def load_subject(
    options: Options, sd: Any, photos: RunData, start: Start = (0, 0)
) -> RunData:
    """Reads photos and class images together, from `start` on."""
    subject = options.values_of(data.SubjectOptions)
    if options.class_prompt is None:
        subject["class_data_dir"] = None
    training = data.load_dreambooth(
        options.instance_data_dir,
        sd.tokenizer,
        batch_size=_images(options),
        batches_per_epoch=photos.steps_per_epoch,
        start=start,
        **subject,
        **_of_training(options),
        **_common(options, sd, photos.report),
    )
    return dataclasses.replace(photos, training=training)


def _load_validation(
    options: Options, sd: Any, report: Any, source: str, **given: Any
) -> Any:
    common = _common(options, sd, report)
    given |= {"batch_size": options.batch_size, "shuffle": False}
    return data.load(source, sd.tokenizer, **given, **common)


def _label(report: Any, role: str) -> None:
    """Names what was read last, which may be the same source twice."""
    for source in report.sources[-1:]:
        source.name = f"{role} images in {source.name}"


def _common(options: Options, sd: Any, report: Any) -> dict[str, Any]:
    resolution = (sd.img_height, sd.img_width)
    return {"resolution": resolution, "seed": options.seed, "report": report}


def _of_training(options: Options) -> dict[str, Any]:
    """Returns what is not done to validation data."""
    return options.values_of(data.ImageOptions, data.EpochOptions)


def _images(options: Options) -> int:
    return options.batch_size * options.gradient_accumulation_steps


def _steps(options: Options, per_pass: int) -> int:
    if options.max_train_steps is not None:
        return options.max_train_steps
    return int(options.num_train_epochs) * per_pass
