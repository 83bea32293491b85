"""Batches: rows of epochs -> a `tf.data.Dataset`.

This is the only file of the room that knows TensorFlow. It must not know
models or losses; the batch is all that training sees of it.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from keras_sdft.data.epochs import COLUMNS
from keras_sdft.data.epochs import Row
from keras_sdft.data.example_builder import ExampleBuilder
from keras_sdft.data.options import Options
from keras_sdft.data.shutdown import CALLS


def batched(
    plan: Any,
    making: ExampleBuilder,
    options: Options,
    max_length: int,
    batch_size: int,
) -> tf.data.Dataset:
    """Returns the dataset of batches.

    Args:
        plan: `EpochPlan` or `PriorPlan`; rows of one bucket fill each batch.
        making: `ExampleBuilder`.
        options: `Options`.
        max_length: Integer, token ids of an example.
        batch_size: Integer, rows of a batch.

    Returns:
        `tf.data.Dataset`, prefetched, of known length. Its `element_spec` has
        `None` for height and width where there are several sizes.
    """
    length = plan.length
    whole = length % batch_size == 0
    dataset = _rows(plan, options.epoch, options.repeat).map(
        _maker(making, max_length),
        num_parallel_calls=tf.data.AUTOTUNE,
        deterministic=True,
    )
    dataset = dataset.batch(batch_size, drop_remainder=whole)
    if options.repeat and not whole:
        # The last batch of an epoch stays short, as in a pass of its own.
        sizes = [batch_size] * (length // batch_size) + [length % batch_size]
        dataset = dataset.rebatch(sizes)
    if "images" in making.keys:
        dataset = dataset.map(scale_images, num_parallel_calls=tf.data.AUTOTUNE)
    count = math.ceil(length / batch_size)
    cardinality = tf.data.INFINITE_CARDINALITY if options.repeat else count
    dataset = dataset.apply(
        tf.data.experimental.assert_cardinality(cardinality)
    )
    return dataset.prefetch(tf.data.AUTOTUNE)


def scale_images(batch: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
    """Returns the batch with its uint8 images as float32 in `[-1, 1]`."""
    images = tf.cast(batch["images"], tf.float32) / 127.5 - 1.0
    return {**batch, "images": images}


def _rows(
    plan: Callable[[int], np.ndarray], epoch: int, repeat: bool
) -> tf.data.Dataset:
    """Returns the rows of one epoch for each iterator, or of all to come."""
    spec = tf.TensorSpec((None, COLUMNS), tf.int64)

    # Left as it is written: it calls plain Python at every step.
    @tf.autograph.experimental.do_not_convert
    def rows_of(function, argument):
        rows = tf.numpy_function(CALLS.guard(function), [argument], spec.dtype)
        return tf.data.Dataset.from_tensor_slices(
            tf.ensure_shape(rows, spec.shape)
        )

    if repeat:
        epochs = tf.data.Dataset.range(epoch, tf.int64.max)
        return epochs.flat_map(functools.partial(rows_of, plan))
    passes = itertools.count(epoch)
    # Called once by every iterator, when it gives its first batch.
    return tf.data.Dataset.range(1).flat_map(
        functools.partial(rows_of, lambda _: plan(next(passes)))
    )


def _maker(making: ExampleBuilder, max_length: int) -> Callable:
    one_size = making.sizes[0] if len(set(making.sizes)) == 1 else None
    kept = list(_specs(making, one_size or (None, None), max_length).values())

    # An example of no weight, for readers that outlive the program.
    def nothing(row):
        size = making.sizes[Row(*row).bucket]
        shapes = making.specs(size, max_length)
        return tuple(np.zeros(*shapes[key]) for key in making.keys)

    @tf.autograph.experimental.do_not_convert
    def make(row):
        made = tf.numpy_function(
            CALLS.guard(making, nothing), [row], [spec.dtype for spec in kept]
        )
        return {
            key: tf.ensure_shape(value, spec.shape)
            for key, value, spec in zip(making.keys, made, kept, strict=True)
        }

    return make


def _specs(
    making: ExampleBuilder, size: tuple[int | None, int | None], max_length: int
) -> dict[str, tf.TensorSpec]:
    """Returns what an example's values are, before pixels are scaled."""
    specs = making.specs(size, max_length)
    return {key: tf.TensorSpec(*specs[key]) for key in making.keys}
