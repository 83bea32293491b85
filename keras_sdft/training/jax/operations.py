"""What optimizers need of JAX itself, beside `keras.ops`."""

from typing import Any

import jax
from jax import numpy as jnp


def global_norm(gradients: list[Any], count: int = 0) -> Any:
    """Computes the norm of all gradients together, a float32 scalar.

    Nothing is raised where it is not finite: `TrainStep` looks at it.

    Args:
        gradients: List of tensors.
        count: As in TensorFlow; terms of zero change nothing here.
    """
    squares = [jnp.sum(jnp.square(g.astype("float32"))) for g in gradients]
    return jnp.sqrt(sum(squares, jnp.zeros((), "float32")))


def is_known(variable: Any) -> bool:
    """Returns whether a variable's value can be read now, in Python."""
    return not isinstance(variable.value, jax.core.Tracer)
