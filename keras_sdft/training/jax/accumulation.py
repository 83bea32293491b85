"""One optimizer batch in several micro-batches, inside one step.

Must not know what is computed for each micro-batch.
"""

from collections.abc import Callable
from typing import Any

import jax
from jax import numpy as jnp


def accumulate(
    micro_step: Callable[[dict[str, Any]], Any],
    batch: dict[str, Any],
    num_micro_batches: int,
) -> Any:
    """Sums what `micro_step` returns over equal parts of a batch.

    As `accumulate` in `training/tensorflow/accumulation.py`, for JAX.
    """
    if num_micro_batches == 1:
        return micro_step(batch)
    parts = {name: _split(x, num_micro_batches) for name, x in batch.items()}
    one = {name: x[0] for name, x in parts.items()}
    zeros = jax.tree.map(
        lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(micro_step, one)
    )

    def body(totals: Any, part: dict[str, Any]) -> tuple[Any, None]:
        return jax.tree.map(jnp.add, totals, micro_step(part)), None

    totals, _ = jax.lax.scan(body, zeros, parts)
    return totals


def _split(x: Any, parts: int) -> Any:
    # Every `parts`-th row, so that each device keeps its own rows of a batch
    # that several share.
    return jnp.swapaxes(jnp.reshape(x, (-1, parts, *x.shape[1:])), 0, 1)
