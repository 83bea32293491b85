"""The pipeline: a source of captioned images -> batches.

This file orders the room's other files and owns nothing else. It must not
know models or losses.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING
from typing import Any

import numpy as np

from keras_sdft.data.batches import batched
from keras_sdft.data.buckets import Assignment
from keras_sdft.data.buckets import Buckets
from keras_sdft.data.buckets import assign
from keras_sdft.data.buckets import one_bucket
from keras_sdft.data.cache import Cache
from keras_sdft.data.cache_making import CachedExampleMaker
from keras_sdft.data.captions import CaptionTokens
from keras_sdft.data.captions import Tokenizer
from keras_sdft.data.captions import warn_about_captions
from keras_sdft.data.epochs import EpochPlan
from keras_sdft.data.epochs import PriorPlan
from keras_sdft.data.examples import Examples
from keras_sdft.data.making import ExampleMaker
from keras_sdft.data.masks import check_masks
from keras_sdft.data.options import Options
from keras_sdft.data.sources import read_examples
from keras_sdft.data.unreadable import Unreadable
from keras_sdft.data.unreadable import drop_unreadable

if TYPE_CHECKING:
    import tensorflow as tf

logger = logging.getLogger(__name__)


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
    drop_remainder: bool | None = None,
    crop: str = "center",
    horizontal_flip: bool = False,
    caption_template: str | Sequence[str] | None = None,
    caption_dropout: float = 0.0,
    shuffle_tags: bool = False,
    keep_tokens: int = 0,
    tag_separator: str = ",",
    repeats: int | str = 1,
    masks: str | None = None,
    mask_column: str = "mask_file_name",
    buckets: bool | Buckets = False,
    reader: str | None = None,
    split: str | None = None,
    image_column: str | None = None,
    caption_column: str = "text",
    max_unreadable: float = 0.1,
    report: Unreadable | None = None,
    cache: Cache | None = None,
) -> tf.data.Dataset:
    """Loads captioned images as batches for `keras_sdft.Trainer`.

    A batch is a dict of `images`, float32 of shape `(B, H, W, 3)` in
    `[-1, 1]`; `token_ids`, int32 of shape `(B, 77)`; and `example_weight`,
    float32 of shape `(B,)`. With `masks` there is `loss_mask` as well, float32
    of shape `(B, H/8, W/8, 1)` in `[0, 1]`.

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
            or a list, or of `keras_sdft.data.Example`s. A sequence that opens
            its images when it is indexed keeps memory free.
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
            that fill no batch. `None` (the default) is `True`, and `False`
            with buckets. `False` makes a last batch that is smaller; with
            buckets, where each has such examples, it fills their batches up
            with others of the bucket, and lowers the weights of those that
            are shown twice, so that all examples count alike.
        crop: `"center"` (the default) or `"random"`.
        horizontal_flip: Boolean, whether half of the images, anew for each
            epoch, are mirrored. Defaults to `False`.
        caption_template: A string that holds `"{caption}"`, or a list of them,
            of which each epoch draws one for each example. `None` (the
            default) takes the caption as it is.
        caption_dropout: Float in `[0, 1]`, the share of captions replaced by
            the empty one. Defaults to `0.0`.
        shuffle_tags: Boolean, whether each epoch puts the tags of a caption
            in another order. Defaults to `False`.
        keep_tokens: Integer >= 0, how many tags stay first when they are
            shuffled. Defaults to `0`.
        tag_separator: String between two tags. Defaults to `","`.
        repeats: Integer >= 1, how often an epoch shows each image; or the
            name of a table's column that says so. Defaults to `1`.
        masks: Where the loss counts: `"files"` takes the image of the same
            name that ends in `-masklabel.png`, a table's column or an
            `Example`'s `mask`; `"alpha"` takes the image's own alpha channel.
            White and opaque count, black and transparent do not. An image
            without a mask counts whole. `None` (the default) reads none.
        mask_column: Column or key of a table for the masks' paths. Defaults
            to `"mask_file_name"`.
        buckets: `True`, or `keras_sdft.data.Buckets` with limits of your own,
            to train each image at the size near its own aspect ratio, and at
            most the resolution's area, instead of cropping all to one.
            Defaults to `False`.
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
        cache: `keras_sdft.data.Cache`, to encode images and captions once;
            batches then have `moments` and `context` in their places. `None`
            (the default) has none.

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
    options = Options(
        resolution=resolution,
        batch_size=batch_size,
        shuffle=shuffle,
        seed=seed,
        epoch=epoch,
        repeat=repeat,
        drop_remainder=drop_remainder,
        crop=crop,
        horizontal_flip=horizontal_flip,
        caption_template=caption_template,
        caption_dropout=caption_dropout,
        shuffle_tags=shuffle_tags,
        keep_tokens=keep_tokens,
        tag_separator=tag_separator,
        masks=masks,
        buckets=buckets,
        max_unreadable=max_unreadable,
        report=report,
        cache=cache,
    )
    examples = read_examples(
        source,
        reader=reader,
        split=split,
        image_column=image_column,
        caption_column=caption_column,
        mask_column=mask_column if masks == "files" else None,
        repeats=repeats,
    )
    examples = checked(examples, options)
    _check_count(len(examples), options)
    assignment = assigned(examples, options)
    plan = EpochPlan(
        assignment.bucket_of,
        batch_size,
        seed=seed,
        shuffle=shuffle,
        remainder=options.remainder,
    )
    check_plan(plan, assignment, options)
    return dataset_of(
        examples, tokenizer, options, plan, assignment, batch_size
    )


def checked(
    examples: Examples, options: Options, needs_mask: bool = True
) -> Examples:
    """Leaves out unreadable images, and refuses masks that are wrong.

    Args:
        examples: `Examples`.
        options: `Options`.
        needs_mask: Boolean, whether one at least must have a mask where
            `options.masks` asks for them.

    Raises:
        ValueError: If too many images are unreadable, or a mask is wrong.
    """
    if options.cache is not None and options.cache.has_read(examples, options):
        return examples
    report = Unreadable() if options.report is None else options.report
    examples = drop_unreadable(
        examples, options.size, report, options.max_unreadable
    )
    if options.report is None and len(report):
        logger.warning(
            "%d images cannot be read and are left out:\n%s",
            len(report),
            report.table(10),
        )
    unused = getattr(examples.records, "masks", {})
    if options.masks is not None and len(examples):
        check_masks(examples, options.masks, needs_mask)
    elif unused:
        logger.warning(
            "%d masks lie beside the images and are not used. Pass "
            "`masks='files'` to train with them.",
            len(unused),
        )
    return examples


def assigned(examples: Examples, options: Options) -> Assignment:
    """Returns the buckets of the examples; one where none are asked for."""
    if options.bucket_limits is None:
        return one_bucket(len(examples), options.size)
    return assign(examples, options.bucket_limits, options.size)


def dataset_of(
    examples: Examples,
    tokenizer: Tokenizer,
    options: Options,
    plan: EpochPlan | PriorPlan,
    assignment: Assignment,
    batch_size: int,
    first_class: int | None = None,
) -> tf.data.Dataset:
    """Returns the batches of a plan.

    Args:
        examples: `Examples`, class images last.
        tokenizer: `Tokenizer`.
        options: `Options`.
        plan: `EpochPlan` or `PriorPlan` of these examples.
        assignment: `Assignment`, for the buckets' sizes.
        batch_size: Integer, rows of a batch.
        first_class: Integer, where class images begin. `None` if there are
            none.
    """
    tokens = CaptionTokens(tokenizer)
    warn_about_captions(examples, tokens, options.templates)
    make: Any = ExampleMaker
    cache = options.cache
    if cache and cache.plan(examples, assignment, options, plan.length):
        make = functools.partial(CachedExampleMaker, cache)
    making = make(
        examples,
        tokens,
        assignment.sizes,
        options,
        Unreadable() if options.report is None else options.report,
        first_class=first_class,
        weight=plan.weight,
    )
    return batched(plan, making, options, tokenizer.max_length, batch_size)


def check_plan(
    plan: EpochPlan, assignment: Assignment, options: Options
) -> None:
    """Refuses a plan without a batch, and warns of images never shown.

    Raises:
        ValueError: If no bucket fills a batch.
    """
    lost = assignment.table()
    if not plan.length:
        raise ValueError(
            "`batch_size` is larger than every bucket, and "
            "`drop_remainder=True` leaves out what fills no batch. Received: "
            f"batch_size={options.batch_size} and the buckets (width x "
            f"height: images)\n{lost}\nUse a smaller batch, or leave "
            "`drop_remainder` out."
        )
    if options.bucket_limits is None or options.remainder != "drop":
        return
    counts = np.bincount(assignment.bucket_of)
    never = int(counts[counts < options.batch_size].sum())
    if never:
        logger.warning(
            "%d images are never trained on: their buckets hold fewer than a "
            "batch, and `drop_remainder=True` leaves them out. The buckets "
            "(width x height: images) are\n%s",
            never,
            lost,
        )


def _check_count(count: int, options: Options) -> None:
    if count == 0:
        raise ValueError(
            "No image can be read, so there is nothing to train on. Look at "
            "the report of unreadable images."
        )
    one_size = options.bucket_limits is None
    if one_size and count < options.batch_size and options.remainder == "drop":
        raise ValueError(
            "`batch_size` must not be larger than the data set. Received: "
            f"batch_size={options.batch_size} and {count} examples. Use a "
            f"batch size of at most {count}, or `drop_remainder=False`."
        )
