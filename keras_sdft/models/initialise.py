"""Fresh weights as a pure function of a seed, for training from nothing.

Keras draws initial weights from a global generator; a preset that has no
published weights must be the same model for everyone.
"""

from typing import Any

import numpy as np


def initialise(model: Any, seed: int) -> None:
    """Draws every weight of a model anew from `seed`.

    Kernels and embeddings are drawn (Glorot uniform, and normal with
    standard deviation 0.02), scales are one, the rest zero.

    Args:
        model: A built `keras.Model`.
        seed: Integer >= 0.
    """
    for index, weight in enumerate(model.weights):
        generator = np.random.default_rng([seed, index])
        weight.assign(_draw(weight, generator))


def _draw(weight: Any, generator: np.random.Generator) -> np.ndarray:
    shape = tuple(weight.shape)
    if weight.name == "gamma":
        return np.ones(shape, "float32")
    if weight.name == "embeddings":
        return generator.normal(0.0, 0.02, shape).astype("float32")
    if weight.name == "kernel":
        receptive = int(np.prod(shape[:-2]))
        limit = (6.0 / (receptive * (shape[-2] + shape[-1]))) ** 0.5
        return generator.uniform(-limit, limit, shape).astype("float32")
    return np.zeros(shape, "float32")
