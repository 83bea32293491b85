"""Runs a network without gradients, compiled, on every backend.

Must not know what a network computes.
"""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from keras_sdft.keras_internals import count_traces_apart
from keras_sdft.models.adapted import variables_read


def predict(network: Any, inputs: Any) -> np.ndarray:
    """Computes a network's outputs for one batch.

    Args:
        network: A `keras.Model` with one output.
        inputs: What it is called with.

    Returns:
        Array, the outputs.
    """
    make = _maker(network)
    if make is None:
        # What stands in for a network may have none.
        if getattr(network, "predict_function", network) is None:
            network.make_predict_function()
            count_traces_apart(network.predict_function)
        return network.predict_on_batch(inputs)
    if getattr(network, "compiled_call", None) is None:
        network.compiled_call = make(network)
    return np.asarray(network.compiled_call(inputs))


def _maker(network: Any) -> Callable[[Any], Callable[[Any], Any]] | None:
    """Returns what makes a network's own call, or `None` to use Keras'."""
    if keras.backend.backend() == "jax":
        # Keras hands over the network's own variables alone, so that what
        # adapters have learned would stay as it was when it was compiled.
        return _compiled
    strategy = getattr(network, "distribute_strategy", None)
    if strategy is not None and strategy.num_replicas_in_sync > 1:
        # Keras gives each device the whole batch, and joins what they return.
        return _on_one_device
    return None


def _on_one_device(network: Any) -> Callable[[Any], Any]:
    import tensorflow as tf

    def call(inputs: Any) -> Any:
        return network(inputs, training=False)

    return tf.function(call, autograph=False, reduce_retracing=True)


def _compiled(network: Any) -> Callable[[Any], Any]:
    import jax

    variables = variables_read(network)

    @jax.jit
    def call(values: list[Any], inputs: Any) -> Any:
        pairs = list(zip(variables, values, strict=True))
        with keras.StatelessScope(state_mapping=pairs):
            return network(inputs, training=False)

    return lambda inputs: call([v.value for v in variables], inputs)
