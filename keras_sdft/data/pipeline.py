"""The pipeline: examples -> a `tf.data.Dataset` of batches.

This is the only file of the room that knows TensorFlow. It must not know
models or losses; the batch is all that training sees of it.
"""

from __future__ import annotations

import functools
import itertools
import logging
import math
from collections.abc import Iterable
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from keras_sdft.data.captions import CaptionTokens
from keras_sdft.data.captions import Tokenizer
from keras_sdft.data.captions import check_templates
from keras_sdft.data.captions import warn_about_captions
from keras_sdft.data.epochs import ExampleMaker
from keras_sdft.data.epochs import epoch_order
from keras_sdft.data.examples import Examples
from keras_sdft.data.examples import check_choice
from keras_sdft.data.quiet_exit import CALLS
from keras_sdft.data.sources import read_examples
from keras_sdft.data.unreadable import Unreadable
from keras_sdft.data.unreadable import drop_unreadable

logger = logging.getLogger(__name__)

CROPS = ("center", "random")


def load(
    source: Any,
    tokenizer: Tokenizer,
    *,
    resolution: int | tuple[int, int] = 512,
    batch_size: int = 4,
    shuffle: bool = True,
    seed: int = 0,
    epoch: int = 0,
    repeat: bool = False,
    drop_remainder: bool = True,
    crop: str = "center",
    horizontal_flip: bool = False,
    caption_template: str | Sequence[str] | None = None,
    caption_dropout: float = 0.0,
    reader: str | None = None,
    split: str | None = None,
    image_column: str | None = None,
    caption_column: str = "text",
    max_unreadable: float = 0.1,
    report: Unreadable | None = None,
) -> tf.data.Dataset:
    """Loads captioned images as batches for `keras_sdft.Trainer`.

    A batch is a dict of `images`, float32 of shape `(B, H, W, 3)` in
    `[-1, 1]`; `token_ids`, int32 of shape `(B, 77)`; and `example_weight`,
    float32 of shape `(B,)`.

    Each epoch shuffles the whole set. The first pass over the dataset is
    epoch `epoch`, the next one `epoch + 1`; a pass begins when an iterator
    gives its first batch. Order, crop, flip and caption depend on nothing but
    `seed`, the epoch and the example, so a new dataset with a later `epoch`
    goes on where this one would.

    Images are turned as their EXIF orientation says, alpha is laid on white,
    and the short side is resized (Lanczos) before the crop. Up to 2,000 images
    are decoded before training; the unreadable among them are left out. Where
    another turns out unreadable later, a random example is read in its place,
    so that every epoch keeps its length.

    Args:
        source: One of: a folder with `metadata.jsonl` or `metadata.csv`
            (`file_name`, `text`), with a `.txt` or `.caption` file beside each
            image, or with folders named as `"10_sks dog"`; a `.csv` or
            `.jsonl` file; `"tfds:NAME"` or `"tfds:NAME:SPLIT"`, or a TFDS
            builder; an iterable of `(image, caption)`, where an image is a
            path, a `PIL.Image.Image` or a uint8 array and a caption a string
            or a list. A sequence that opens its images when it is indexed
            keeps memory free.
        tokenizer: The tokenizer of the model, `stable_diffusion.tokenizer`.
        resolution: Integer, or `(height, width)`, multiples of 64 pixels.
            Defaults to `512`.
        batch_size: Integer, examples in a batch. Defaults to `4`.
        shuffle: Boolean. Defaults to `True`; `False` keeps the order of the
            source.
        seed: Integer >= 0. Defaults to `0`.
        epoch: Integer >= 0, the epoch of the first pass. Defaults to `0`.
        repeat: Boolean, whether one pass is an endless stream of epochs.
            Defaults to `False`.
        drop_remainder: Boolean, whether an epoch leaves out the last examples
            that fill no batch. Defaults to `True`.
        crop: `"center"` (the default) or `"random"`.
        horizontal_flip: Boolean, whether half of the images, anew for each
            epoch, are mirrored. Defaults to `False`.
        caption_template: A string that holds `"{caption}"`, or a list of them,
            of which each epoch draws one for each example. `None` (the
            default) takes the caption as it is.
        caption_dropout: Float in `[0, 1]`, the share of captions replaced by
            the empty one. Defaults to `0.0`.
        reader: For a folder, one of `"metadata_jsonl"`, `"metadata_csv"`,
            `"caption_files"` and `"class_folders"`. `None` finds it.
        split: For a folder, `"train"`, `"validation"` or `"test"`, the
            sub-folder of that name; for TFDS, any of its splits.
        image_column: Column, key or feature of the image. `None` takes
            `file_name`, `image`, `image_path` or `path`; in TFDS, the only
            image feature.
        caption_column: Column, key or feature of the caption. Defaults to
            `"text"`; in TFDS, to the only text feature.
        max_unreadable: Float in `[0, 1]`, the largest share of unreadable
            images, among those checked, to train with. Defaults to `0.1`.
        report: `keras_sdft.data.Unreadable`, which receives every unreadable
            image, also those found while training. `None` logs a warning.

    Returns:
        `tf.data.Dataset` of batches, prefetched, of known length.

    Raises:
        FileNotFoundError: If the source, or an image it names, is missing.
        ValueError: If an argument is out of its range, if the source breaks
            its convention, if there are fewer examples than a batch needs, or
            if more than `max_unreadable` of the images cannot be read.

    Example:

    ```python
    dataset = keras_sdft.data.load(
        "photos", stable_diffusion.tokenizer, resolution=256, crop="random"
    )
    ```
    """
    size = check_resolution(resolution)
    _check_whole("batch_size", batch_size, least=1)
    _check_whole("seed", seed, least=0)
    _check_whole("epoch", epoch, least=0)
    _check_share("caption_dropout", caption_dropout)
    _check_share("max_unreadable", max_unreadable)
    check_choice("crop", crop, CROPS)
    templates = check_templates(caption_template)
    examples = read_examples(
        source,
        reader=reader,
        split=split,
        image_column=image_column,
        caption_column=caption_column,
    )
    examples = _readable(examples, size, max_unreadable, report)
    _check_count(len(examples), batch_size, drop_remainder)
    tokens = CaptionTokens(tokenizer)
    warn_about_captions(examples, tokens, templates)
    making = ExampleMaker(
        examples,
        tokens,
        size,
        seed=seed,
        random_crop=crop == "random",
        horizontal_flip=horizontal_flip,
        templates=templates,
        caption_dropout=caption_dropout,
        report=Unreadable() if report is None else report,
    )
    used = len(examples)
    if drop_remainder:
        used -= used % batch_size
    order = functools.partial(
        epoch_order, count=len(examples), used=used, seed=seed, shuffle=shuffle
    )
    rows = _rows(order, epoch, repeat)
    return _batches(
        rows, making, used, batch_size, repeat, tokenizer.max_length
    )


def check_resolution(resolution: Any) -> tuple[int, int]:
    """Returns `(height, width)` of a resolution.

    Args:
        resolution: Integer or `(height, width)`, in pixels.

    Raises:
        ValueError: If a side is no positive multiple of 64.
    """
    pair = resolution
    if not isinstance(resolution, Iterable):
        pair = (resolution, resolution)
    sides = tuple(pair)
    whole = all(isinstance(side, (int, np.integer)) for side in sides)
    if len(sides) != 2 or not whole or isinstance(resolution, str):
        raise ValueError(
            "`resolution` must be an integer or (height, width), in pixels. "
            f"Received: {resolution!r}. For example: 512."
        )
    if any(side < 64 or side % 64 for side in sides):
        near = tuple(max(64, round(side / 64) * 64) for side in sides)
        raise ValueError(
            "`resolution` must be a multiple of 64 pixels on both sides. "
            f"Received: height={sides[0]}, width={sides[1]}. Nearest valid: "
            f"{near}."
        )
    return int(sides[0]), int(sides[1])


def _readable(
    examples: Examples,
    size: tuple[int, int],
    max_unreadable: float,
    report: Unreadable | None,
) -> Examples:
    found = Unreadable() if report is None else report
    examples = drop_unreadable(examples, size, found, max_unreadable)
    if report is None and len(found):
        logger.warning(
            "%d images cannot be read and are left out:\n%s",
            len(found),
            found.table(10),
        )
    return examples


def _rows(order: Any, epoch: int, repeat: bool) -> tf.data.Dataset:
    """Returns the rows of one epoch for each iterator, or of all to come."""
    spec = tf.TensorSpec((None, 2), tf.int64)

    # Left as it is written: it calls plain Python at every step.
    @tf.autograph.experimental.do_not_convert
    def rows_of(function, argument):
        rows = tf.numpy_function(CALLS.guard(function), [argument], spec.dtype)
        return tf.data.Dataset.from_tensor_slices(
            tf.ensure_shape(rows, spec.shape)
        )

    if repeat:
        epochs = tf.data.Dataset.range(epoch, tf.int64.max)
        return epochs.flat_map(functools.partial(rows_of, order))
    passes = itertools.count(epoch)
    # Called once by every iterator, when it gives its first batch.
    return tf.data.Dataset.range(1).flat_map(
        functools.partial(rows_of, lambda _: order(next(passes)))
    )


def _batches(
    rows: tf.data.Dataset,
    making: ExampleMaker,
    used: int,
    batch_size: int,
    repeat: bool,
    max_length: int,
) -> tf.data.Dataset:
    height, width = making.size

    # An example of no weight, for readers that outlive the program.
    def nothing(row):
        pixels = np.zeros((height, width, 3), np.uint8)
        return pixels, np.zeros(max_length, np.int32), np.float32(0)

    @tf.autograph.experimental.do_not_convert
    def make(row):
        image, token_ids, weight = tf.numpy_function(
            CALLS.guard(making, nothing),
            [row],
            (tf.uint8, tf.int32, tf.float32),
        )
        return {
            "images": tf.ensure_shape(image, (height, width, 3)),
            "token_ids": tf.ensure_shape(token_ids, (max_length,)),
            "example_weight": tf.ensure_shape(weight, ()),
        }

    whole = used % batch_size == 0
    dataset = rows.map(
        make, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True
    ).batch(batch_size, drop_remainder=whole)
    if repeat and not whole:
        # The last batch of an epoch stays short, as in a pass of its own.
        sizes = [batch_size] * (used // batch_size) + [used % batch_size]
        dataset = dataset.rebatch(sizes)
    dataset = dataset.map(scale_images, num_parallel_calls=tf.data.AUTOTUNE)
    length = math.ceil(used / batch_size)
    cardinality = tf.data.INFINITE_CARDINALITY if repeat else length
    dataset = dataset.apply(
        tf.data.experimental.assert_cardinality(cardinality)
    )
    return dataset.prefetch(tf.data.AUTOTUNE)


def scale_images(batch: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
    """Returns the batch with its uint8 images as float32 in `[-1, 1]`."""
    images = tf.cast(batch["images"], tf.float32) / 127.5 - 1.0
    return {**batch, "images": images}


def _check_whole(argument: str, value: Any, least: int) -> None:
    whole = isinstance(value, (int, np.integer))
    if not whole or isinstance(value, bool) or value < least:
        raise ValueError(
            f"`{argument}` must be an integer of at least {least}. "
            f"Received: {argument}={value!r}."
        )


def _check_share(argument: str, value: Any) -> None:
    number = isinstance(value, (int, float, np.number))
    if not number or not 0 <= value <= 1:
        raise ValueError(
            f"`{argument}` must be a number from 0 to 1. "
            f"Received: {argument}={value!r}."
        )


def _check_count(count: int, batch_size: int, drop_remainder: bool) -> None:
    if count == 0:
        raise ValueError(
            "No image can be read, so there is nothing to train on. Look at "
            "the report of unreadable images."
        )
    if count < batch_size and drop_remainder:
        raise ValueError(
            "`batch_size` must not be larger than the data set. Received: "
            f"batch_size={batch_size} and {count} examples. Use a batch size "
            f"of at most {count}, or `drop_remainder=False`."
        )
