"""Batches: rows of epochs -> a `tf.data.Dataset`.

The only file of the package that imports TensorFlow. It must not know models
or losses; the batch is all that training sees of it.
"""

import contextlib
import functools
from collections.abc import Callable
from collections.abc import Iterator

import numpy as np
import tensorflow as tf

from keras_sdft.data.epochs import COLUMNS
from keras_sdft.data.epochs import EpochRows
from keras_sdft.data.example_builder import ExampleBuilder
from keras_sdft.data.shutdown import CALLS
from keras_sdft.devices import leave_to_jax

leave_to_jax()


def batched(
    rows: EpochRows, builder: ExampleBuilder, repeat: bool
) -> tf.data.Dataset:
    """Returns the dataset of batches, prefetched; endless with `repeat`.

    Its length is that of a whole epoch, its `element_spec` has `None` for
    height and width where there are several sizes, and its `passes` are
    `Passes`.
    """
    passes = Passes(rows)
    dataset = _rows(rows, passes, repeat).map(
        _builder(builder),
        num_parallel_calls=tf.data.AUTOTUNE,
        deterministic=True,
    )
    dataset = dataset.batch(rows.batch_size, drop_remainder=True)
    if "images" in builder.keys:
        dataset = dataset.map(scale_images, num_parallel_calls=tf.data.AUTOTUNE)
    count = tf.data.INFINITE_CARDINALITY if repeat else rows.num_batches
    shorter = rows.start[1] and not repeat
    if not shorter:
        dataset = dataset.apply(tf.data.experimental.assert_cardinality(count))
    dataset = dataset.prefetch(tf.data.AUTOTUNE)
    if shorter:
        # The first pass is shorter than those after it, whose length Keras
        # would else take from the first.
        dataset.cardinality = lambda: tf.constant(count, tf.int64)
    dataset.passes = passes
    return dataset


class Passes:
    """Numbers the passes over a dataset by epoch, from the first one on."""

    def __init__(self, rows: EpochRows):
        self._rows = rows
        self._next = rows.start[0]
        self._has_begun = False
        self._validates = False

    def __call__(self, _: np.ndarray) -> np.ndarray:
        """Returns the rows of the next pass; each iterator calls it once."""
        if self._validates:
            return self._rows.of_epoch(0)
        epoch, self._next = self._next, self._next + 1
        return self._rows(epoch)

    def begin(self) -> None:
        """Makes the next pass the first, once: a training begins.

        Batches that were looked at before it would else count as a pass, and
        a run that was resumed within an epoch miss the rest of it.
        """
        if not self._has_begun:
            self._has_begun, self._next = True, self._rows.start[0]

    @contextlib.contextmanager
    def validating(self) -> Iterator[None]:
        """Context manager in which each pass is epoch 0, and not counted.

        Two validations see the same crops and captions, also where the run
        was resumed between them.
        """
        self._validates = True
        try:
            yield
        finally:
            self._validates = False


def scale_images(batch: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
    """Returns the batch with its uint8 images as float32 in `[-1, 1]`."""
    images = tf.cast(batch["images"], tf.float32) / 127.5 - 1.0
    return {**batch, "images": images}


def _rows(rows: EpochRows, passes: Passes, repeat: bool) -> tf.data.Dataset:
    """Returns the rows of one epoch for each iterator, or of all to come."""
    spec = tf.TensorSpec((None, COLUMNS), tf.int64)

    # Left as it is written: it calls plain Python at every step.
    @tf.autograph.experimental.do_not_convert
    def rows_of(function, argument):
        found = tf.numpy_function(CALLS.guard(function), [argument], spec.dtype)
        return tf.data.Dataset.from_tensor_slices(
            tf.ensure_shape(found, spec.shape)
        )

    if repeat:
        epochs = tf.data.Dataset.range(rows.start[0], tf.int64.max)
        return epochs.flat_map(functools.partial(rows_of, rows))
    # Called by every iterator when it gives its first batch.
    return tf.data.Dataset.range(1).flat_map(functools.partial(rows_of, passes))


def _builder(builder: ExampleBuilder) -> Callable:
    sizes = set(builder.sizes)
    size = builder.sizes[0] if len(sizes) == 1 else (None, None)
    specs = builder.specs(size)
    kept = [tf.TensorSpec(*specs[key]) for key in builder.keys]

    @tf.autograph.experimental.do_not_convert
    def build(row):
        # Readers that outlive the program get examples of no weight.
        call = CALLS.guard(builder, builder.padding)
        values = tf.numpy_function(call, [row], [spec.dtype for spec in kept])
        return {
            key: tf.ensure_shape(value, spec.shape)
            for key, value, spec in zip(builder.keys, values, kept, strict=True)
        }

    return build
