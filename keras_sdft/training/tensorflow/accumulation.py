"""One optimizer batch in several micro-batches, inside one step.

Must not know what is computed for each micro-batch.
"""

from collections.abc import Callable
from typing import Any

import tensorflow as tf


def accumulate(
    micro_step: Callable[[dict[str, Any]], Any],
    batch: dict[str, Any],
    num_micro_batches: int,
) -> Any:
    """Sums what `micro_step` returns over equal parts of a batch.

    Only one part's activations are alive at a time.

    Args:
        micro_step: Function of a part of the batch that returns float
            tensors in nested tuples and lists, of the same shapes for every
            part.
        batch: Dict of tensors that share their first dimension `B`.
        num_micro_batches: Integer that divides `B`.

    Returns:
        The sums, nested likewise.
    """
    if num_micro_batches == 1:
        return micro_step(batch)
    parts = {
        name: split(tensor, num_micro_batches) for name, tensor in batch.items()
    }

    def part(index: Any) -> dict[str, Any]:
        return {name: tensor[index] for name, tensor in parts.items()}

    def body(index: Any, totals: Any) -> tuple[Any, Any]:
        values = micro_step(part(index))
        return index + 1, tf.nest.map_structure(tf.add, totals, values)

    # The first part runs outside the loop: it gives the sums their shapes
    # without a pass that adds to zero.
    first = micro_step(part(0))
    _, totals = tf.while_loop(
        lambda index, totals: index < num_micro_batches,
        body,
        (tf.constant(1), first),
        parallel_iterations=1,
    )
    return totals


def split(tensor: Any, parts: int) -> Any:
    """Splits rows `(B, ...)` into equal parts `(parts, B / parts, ...)`."""
    shape = tf.shape(tensor)
    size = shape[0] // parts
    split = tf.reshape(tensor, tf.concat([[parts, size], shape[1:]], 0))
    static = tensor.shape[0]
    size = None if static is None else static // parts
    split.set_shape([parts, size, *tensor.shape[1:]])
    return split
