"""Runs a network without gradients, compiled, on every backend.

Must not know what a network computes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from keras_sdft.models.adapted import variables_read


def predict(network: Any, inputs: Any) -> np.ndarray:
    """Computes a network's outputs for one batch.

    Args:
        network: A `keras.Model` with one output.
        inputs: What it is called with.

    Returns:
        Array, the outputs.
    """
    if keras.backend.backend() != "jax":
        return network.predict_on_batch(inputs)
    # Keras hands over the network's own variables alone, so that what
    # adapters have learned would stay as it was when it was compiled.
    if getattr(network, "compiled_call", None) is None:
        network.compiled_call = _compiled(network)
    return np.asarray(network.compiled_call(inputs))


def _compiled(network: Any) -> Callable[[Any], Any]:
    import jax

    variables = variables_read(network)

    @jax.jit
    def call(values: list[Any], inputs: Any) -> Any:
        pairs = list(zip(variables, values, strict=True))
        with keras.StatelessScope(state_mapping=pairs):
            return network(inputs, training=False)

    return lambda inputs: call([v.value for v in variables], inputs)
