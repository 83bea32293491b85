"""A step as one function of the iterator.

Keras makes two, one inside the other, which TensorFlow writes down, copies
and optimizes one by one: over a second before the first step. Must not know
what a step does.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import tensorflow as tf


def step_function(model: Any, step: Callable[[Any], Any]) -> Any:
    """What `fit` and `evaluate` call for each batch, as Keras would make it.

    Args:
        model: A compiled `keras.Model`.
        step: Function of a batch.

    Returns:
        Function of an iterator, or `None` where it takes Keras' own: for
        eager steps, XLA, several steps in one call or several devices.
    """
    with model.distribute_strategy.scope():
        several_devices = tf.distribute.has_strategy()
    if model.run_eagerly or model.jit_compile or several_devices:
        return None
    if model.steps_per_execution != 1:
        return None
    on_batch = tf.function(step, reduce_retracing=True, autograph=False)

    @functools.partial(tf.function, reduce_retracing=True, autograph=False)
    def on_iterator(iterator: Any) -> Any:
        return step(iterator.get_next())

    def function(iterator: Any) -> Any:
        if isinstance(iterator, tf.data.Iterator):
            return on_iterator(iterator)
        # From `train_on_batch` and `test_on_batch`.
        return on_batch(next(iterator))

    return function
