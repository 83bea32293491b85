"""A step as one function of the iterator, which starts sooner than Keras'.

Keras makes two functions, one inside the other, which TensorFlow traces,
copies and optimizes one by one. Here it is one, and TensorFlow's graph
optimizer is off for it where the work is in the functions that it calls.
Together they save four seconds before the first step. Must not know what a
step does.
"""

import collections
import contextlib
import functools
import itertools
import math
from collections.abc import Callable
from collections.abc import Iterator
from typing import Any

import tensorflow as tf

from keras_sdft import collector
from keras_sdft import host_memory
from keras_sdft import keras_internals
from keras_sdft.models.kernels import gate
from keras_sdft.training.tensorflow import replicas
from keras_sdft.training.tensorflow import signals

# Passes of TensorFlow's graph optimizer. In a function that a step calls, to
# which the options at its tracing apply, folding constants and removing what
# is not needed are worth their time; in a graph of nothing but such calls and
# thousands of variables, no pass is. Measured on two cores, see
# benchmarks/NOTES.md; GPUs were not measured, and keep all passes.
_FOR_BLOCKS = {
    "arithmetic_optimization": False,
    "function_optimization": False,
    "layout_optimizer": False,
    "loop_optimization": False,
    "remapping": False,
    "shape_optimization": False,
}
_OFF = {"disable_meta_optimizer": True}
_ITERATORS = (tf.data.Iterator, tf.distribute.DistributedIterator)


def step_function(
    model: Any, step: Callable[[Any], Any], trains: bool = False
) -> Callable[[Any], Any]:
    """Returns what `fit` and `evaluate` call for the next batches.

    Args:
        model: A compiled `keras.Model`.
        step: Function of a batch.
        trains: Boolean, whether `model.progress` decides how many batches a
            call may have, and is told how many it had.

    Returns:
        Function of an iterator.
    """
    on_batches = _eagerly if model.run_eagerly else _in_graphs
    function = on_batches(model, step)
    latest = None

    def counted(iterator: Any) -> Any:
        nonlocal latest
        several = model.steps_per_execution
        most = model.progress.next_batches(several) if trains else several
        results, ran = function(iterator, most)
        if latest != id(iterator):
            # Its dataset may be of a Python generator.
            host_memory.keep_freed_memory()
            latest = id(iterator)
        if int(ran) == 0:
            raise StopIteration
        if trains:
            model.progress.batches = int(ran)
        return results

    return counted


def _eagerly(model: Any, step: Callable[[Any], Any]) -> Any:
    """Returns a function of an iterator and of the most batches."""

    def function(iterator: Any, most: int) -> tuple[Any, int]:
        results, ran = None, 0
        for batch in itertools.islice(iterator, most):
            results = step(batch)
            ran += 1
        return results, ran

    return function


def _in_graphs(model: Any, step: Callable[[Any], Any]) -> Any:
    """Returns a function of an iterator and of the most batches."""
    strategy = replicas.strategy_of(model)
    step = replicas.run_on_each(step, strategy)
    on_batch = tf.function(step, reduce_retracing=True, autograph=False)
    on_several = _of_several(on_batch)

    @functools.partial(tf.function, reduce_retracing=True, autograph=False)
    def on_iterator(iterator: Any, *own: Any) -> Any:
        return step(iterator.get_next(), *own)

    on_cpu = gate.on_cpu()
    fewer = gate.skips_graph_passes(_number_of_weights(model))
    for_blocks = _FOR_BLOCKS if fewer else {}
    only_calls = functools.cache(_only_calls)
    # It keeps functions of its blocks for the next trainer.
    owner = getattr(model, "diffusion_model", model)
    gradients = functools.partial(keras_internals.gradients_end_with, owner)

    def called(function: Any, *arguments: Any) -> Any:
        with collector.paused(), _graph_options(for_blocks), gradients():
            concrete = function.get_concrete_function(*arguments)
        off = on_cpu and only_calls(concrete.graph)
        with _graph_options(_OFF if off else {}):
            return concrete(*arguments)

    def function(iterator: Any, most: int) -> tuple[Any, Any]:
        progress = getattr(model, "progress", None)
        if isinstance(iterator, _ITERATORS):
            if model.steps_per_execution > 1:
                return called(on_several, iterator, tf.constant(most))
            if not getattr(progress, "is_shared", False):
                return called(on_iterator, iterator), 1
            # What another worker received comes back with the results.
            own = signals.received(progress)
            results, total = called(on_iterator, iterator, own)
            signals.tell(progress, total)
            return results, 1
        # From `train_on_batch` and `test_on_batch`.
        if strategy is not None:
            raise ValueError(
                "One batch alone cannot be trained on under a strategy. Use "
                "`fit` or `evaluate` with a dataset."
            )
        return called(on_batch, next(iterator)), 1

    return function


def _of_several(on_batch: Any) -> Any:
    """Returns a function of several batches in one graph.

    It takes an iterator and an int32 scalar, the most batches. It returns the
    last batch's results and an int32 scalar, how many batches there were.
    """

    @functools.partial(tf.function, reduce_retracing=True, autograph=False)
    def on_several(iterator: Any, most: Any) -> tuple[Any, Any]:
        none = tf.experimental.Optional.empty(iterator.element_spec)

        def batch_after(ran: Any) -> Any:
            # No batch more than are used: it would be lost.
            there = iterator.get_next_as_optional
            return tf.cond(ran < most, there, lambda: none)

        def on_next(ran: Any, batch: Any, results: Any) -> Any:
            results = on_batch(batch.get_value())
            return ran + 1, batch_after(ran + 1), results

        concrete = on_batch.get_concrete_function(iterator.element_spec)
        results = tf.nest.map_structure(
            lambda value: tf.zeros(value.shape, value.dtype),
            concrete.structured_outputs,
        )
        ran = tf.constant(0)
        ran, _, results = tf.while_loop(
            lambda ran, batch, results: batch.has_value(),
            on_next,
            (ran, batch_after(ran), results),
        )
        return results, ran

    return on_several


def _number_of_weights(model: Any) -> int:
    return sum(math.prod(v.shape) for v in model.trainable_variables)


def _only_calls(graph: Any) -> bool:
    """Returns whether nearly all work is in functions that a graph calls."""
    kinds = collections.Counter(op.type for op in graph.get_operations())
    own = sum(count for kind, count in kinds.items() if _is_product(kind))
    return own < kinds["PartitionedCall"]


def _is_product(kind: str) -> bool:
    return "Conv" in kind or "MatMul" in kind


@contextlib.contextmanager
def _graph_options(options: dict[str, bool]) -> Iterator[None]:
    """Context manager with other options of TensorFlow's graph optimizer."""
    found = tf.config.optimizer.get_experimental_options()
    before = {name: found.get(name) for name in options}
    tf.config.optimizer.set_experimental_options(options)
    try:
        yield
    finally:
        tf.config.optimizer.set_experimental_options(before)
