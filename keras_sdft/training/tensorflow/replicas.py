"""Several devices as one: rows know their place, sums are over all devices.

A batch is split into rows for each replica. What a replica draws is its rows
of what one device would draw for the whole batch, and what it sums is summed
over all replicas before anything is made of it. Clipping, the update,
averages and metrics are then those of one device, computed by each replica
on its own copy of the variables. Must not know what a step computes.
"""

import functools
from collections.abc import Callable
from collections.abc import Iterable
from typing import Any

import tensorflow as tf

from keras_sdft.training.tensorflow.accumulation import split

_SUPPORTED = (
    tf.distribute.MirroredStrategy,
    tf.distribute.MultiWorkerMirroredStrategy,
    tf.distribute.OneDeviceStrategy,
)


def strategy_of(model: Any) -> Any:
    """Returns the strategy whose scope a model was made in, or `None`."""
    strategy = model.distribute_strategy
    with strategy.scope():
        return strategy if tf.distribute.has_strategy() else None


def check_strategy(strategy: Any) -> None:
    """Raises `ValueError` for a strategy that training cannot use.

    Args:
        strategy: A `tf.distribute.Strategy`, or `None`.
    """
    if strategy is None or isinstance(strategy, _SUPPORTED):
        return
    raise ValueError(
        "Training runs under `MirroredStrategy` (several GPUs of a machine) "
        "and `MultiWorkerMirroredStrategy` (several machines), which add up "
        "the gradients of each step. Received: "
        f"{type(strategy).__name__}. Use "
        '`keras_sdft.distribution.use("mirrored")` or `"multi_worker"`.'
    )


def check_variables(strategy: Any, variables: Iterable[Any]) -> None:
    """Raises `ValueError` if a variable is not one of the strategy.

    Args:
        strategy: A `tf.distribute.Strategy`, or `None`.
        variables: `keras.Variable`s.
    """
    for variable in variables:
        value = variable.value
        if strategy is None:
            mirrored = isinstance(value, tf.distribute.DistributedValues)
        else:
            mirrored = not strategy.extended.variable_created_in_scope(value)
        if mirrored:
            raise ValueError(
                f"The variable {variable.path!r} was made outside of the "
                "strategy that the trainer was made in. Make the model, the "
                "trainer and the optimizer in one `with strategy.scope():`, "
                "or call `keras_sdft.distribution.use()` before all of them."
            )


def check_compile(
    strategy: Any, optimizer: Any, arguments: dict[str, Any]
) -> None:
    """Raises `ValueError` for what several devices cannot do.

    Args:
        strategy: A `tf.distribute.Strategy`, or `None`.
        optimizer: The optimizer.
        arguments: Dict of further arguments of `Model.compile`.
    """
    if strategy is None:
        return
    if arguments.get("run_eagerly"):
        raise ValueError(
            "`run_eagerly=True` is for one device. Leave it out, or train "
            "without a strategy."
        )
    if arguments.get("steps_per_execution", 1) != 1:
        raise ValueError(
            "`steps_per_execution` must be 1 under a strategy. Received: "
            f"steps_per_execution={arguments['steps_per_execution']}. Leave "
            "it out."
        )
    for one in optimizers_in(optimizer):
        check_variables(strategy, [one.iterations])
        for name, instead in (
            ("use_ema", "ema_decay"),
            ("gradient_accumulation_steps", "gradient_accumulation_steps"),
        ):
            if getattr(one, name, None):
                raise ValueError(
                    f"An optimizer's `{name}` cannot be used under a "
                    f"strategy. Give `Trainer({instead}=...)` instead, which "
                    "does the same."
                )


def optimizers_in(optimizer: Any) -> list[Any]:
    """Returns an optimizer and all optimizers inside it."""
    inner = [getattr(optimizer, "inner_optimizer", None)]
    inner += getattr(optimizer, "optimizers", ())
    found = [one for one in inner if one is not None]
    return [optimizer, *(o for one in found for o in optimizers_in(one))]


# === Rows ===


def distributed(dataset: Any, strategy: Any, micro_batches: int = 1) -> Any:
    """Returns a dataset that gives each replica its rows of each batch.

    A batch that does not divide is filled with rows of no weight.

    Args:
        dataset: A `tf.data.Dataset` of batches: whole ones, or those of
            `keras_sdft.data.load(worker=)`.
        strategy: A `tf.distribute.Strategy`, or `None`.
        micro_batches: Integer >= 1, parts of a replica's rows.

    Returns:
        A `tf.distribute.DistributedDataset` of as many batches, for
        `run_on_each`. They have two keys more: `place` and `whole`, int32,
        each row's place in the whole batch, and how many rows that has.
        Tensors are `(1, m, ...)`: of several workers, TensorFlow forgets the
        size of the first axis, and kernels are chosen by the number of rows.
    """
    if strategy is None:
        return dataset

    def rows_of_worker(context: Any) -> Any:
        function = functools.partial(
            _rows_of_replicas, context=context, micro_batches=micro_batches
        )
        rows = dataset.map(function).unbatch().batch(1)
        # Of steps: each takes one element for each of the replicas.
        return _like(rows.prefetch(_per_worker(context)), dataset)

    result = strategy.distribute_datasets_from_function(rows_of_worker)
    result.passes = getattr(dataset, "passes", None)
    return result


def _like(dataset: Any, original: Any) -> Any:
    """Returns a dataset that is as long as another, and counts as it does."""
    length = original.cardinality()
    dataset.cardinality = lambda: length
    dataset.passes = getattr(original, "passes", None)
    return dataset


def _per_worker(context: Any) -> int:
    return context.num_replicas_in_sync // context.num_input_pipelines


def _rows_of_replicas(
    batch: dict[str, Any], context: Any, micro_batches: int
) -> dict[str, Any]:
    """Returns the rows of a worker's replicas, each tensor `(R, m, ...)`."""
    replicas, workers = _per_worker(context), context.num_input_pipelines
    count = replicas * micro_batches
    if "place" in batch:
        batch = _filled(batch, count)
    else:
        size = tf.shape(batch["example_weight"])[0]
        place, whole = tf.range(size), tf.fill([size], size)
        batch = _filled(
            {**batch, "place": place, "whole": whole}, workers * count
        )
        own = context.input_pipeline_id
        batch = {k: split(v, workers)[own] for k, v in batch.items()}
    return {name: split(value, replicas) for name, value in batch.items()}


def _filled(batch: dict[str, Any], multiple: int) -> dict[str, Any]:
    """Returns the batch with rows of no weight up to a multiple of rows."""
    weights = batch["example_weight"]
    size = weights.shape[0]
    if size is not None and size % multiple == 0:
        return {
            k: tf.ensure_shape(v, [size, *v.shape[1:]])
            for k, v in batch.items()
        }
    size = tf.shape(weights)[0] if size is None else size
    rows = -(-size // multiple) * multiple
    # The last row again: zeros could divide by zero.
    taken = tf.minimum(tf.range(rows), size - 1)
    filled = {name: tf.gather(value, taken) for name, value in batch.items()}
    real = tf.cast(tf.range(rows) < size, weights.dtype)
    return {**filled, "example_weight": filled["example_weight"] * real}


def rows_of(
    draw: Callable[[Any], Any], batch: dict[str, Any], shape: tuple[Any, ...]
) -> Any:
    """Returns this replica's rows of what is drawn for the whole batch.

    Args:
        draw: Function of a shape `(B, ...)`, whose tensors begin with `B`.
        batch: This replica's batch.
        shape: Shape `(m, ...)` of this replica's rows.
    """
    if "place" not in batch:
        return draw(shape)
    drawn = draw((tf.reduce_max(batch["whole"]), *shape[1:]))
    return tf.nest.map_structure(
        lambda value: tf.gather(value, batch["place"]), drawn
    )


# === A step ===


def run_on_each(step: Callable[[Any], Any], strategy: Any) -> Any:
    """Returns a step that all replicas run; one's results, as all are alike.

    Args:
        step: Function of a replica's batch.
        strategy: A `tf.distribute.Strategy`, or `None`.

    Returns:
        Function of a batch. Under a strategy it also takes float scalars of
        this worker, and returns their sums over all replicas with the
        results, if there are any.
    """
    if strategy is None:
        return step

    def on_one(batch: Any, *own: Any) -> Any:
        results = step({name: value[0] for name, value in batch.items()})
        # Copied, to be on this replica's device.
        values = tuple(map(tf.identity, own))
        return (results, *sum_over_replicas(values)) if own else results

    def run(batch: Any, *own: Any) -> Any:
        results = strategy.run(on_one, args=(batch, *own))
        return tf.nest.map_structure(
            lambda value: strategy.experimental_local_results(value)[0],
            results,
        )

    return run


def sum_over_replicas(values: Any) -> Any:
    """Returns sums over all replicas, the same on each.

    Args:
        values: Float tensors in nested tuples and lists.
    """
    context = tf.distribute.get_replica_context()
    if context is None or not tf.distribute.has_strategy():
        return values
    total = context.all_reduce(
        tf.distribute.ReduceOp.SUM, tf.nest.flatten(values)
    )
    return tf.nest.pack_sequence_as(values, total)


def mean_over_replicas(
    losses: Any, weights: Any, sums: list[Any]
) -> tuple[Any, Any, list[Any]]:
    """Returns the weighted mean over all replicas, and sums over them.

    Args:
        losses: Float32 tensor `(B,)`.
        weights: Float32 tensor `(B,)`.
        sums: List of float32 scalars.

    Returns:
        Tuple of the mean, the sum of the weights and that of each of
        `sums`; without a strategy, of the arguments as they are.
    """
    if not tf.distribute.has_strategy():
        return losses, weights, sums
    local = [tf.reduce_sum(losses * weights), tf.reduce_sum(weights), *sums]
    total, count, *sums = sum_over_replicas(local)
    return tf.math.divide_no_nan(total, count), count, sums


def key_of_replica(step: Any) -> Any:
    """Returns an integer that is another one in each step and replica.

    For what is drawn inside of a network, by shapes that are not rows.

    Args:
        step: Integer tensor, the optimizer step.
    """
    context = tf.distribute.get_replica_context()
    if context is None or context.num_replicas_in_sync == 1:
        return step
    replica = tf.cast(context.replica_id_in_sync_group, tf.int32)
    return step * context.num_replicas_in_sync + replica
