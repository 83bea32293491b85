"""Random numbers as pure functions of a key, and the noise made of them.

Must not know timesteps' schedule, networks or batches of images.
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import ops

# One stream for each use of randomness, so that switching one feature on
# leaves the numbers that every other feature draws as they were.
STREAMS = {
    "timesteps": 1,
    "noise": 2,
    "latents": 3,
    "offset_noise": 4,
    "validation": 5,
}


class StatelessSeed(keras.random.SeedGenerator):
    """A Keras seed that is a value: it has no state and never advances.

    Args:
        key: Int32 tensor of shape `(2,)` (uint32 under JAX).
    """

    def __init__(self, key: Any):
        # The parent would create a variable; a value needs none.
        self.key = key

    def next(self, ordered: bool = True) -> Any:
        return self.key

    def get_config(self) -> dict:
        raise NotImplementedError("A stateless seed is not serialized.")


def stateless_seed(seed: int, stream: str, step: Any) -> StatelessSeed:
    """The seed of one use of randomness in one step.

    Args:
        seed: Integer >= 0, the run's seed.
        stream: String, a key of `STREAMS`.
        step: Integer or scalar integer tensor, usually the optimizer step.

    Returns:
        A `StatelessSeed`, the same for the same three arguments.
    """
    entropy = [int(seed), STREAMS[stream]]
    word = np.random.SeedSequence(entropy).generate_state(1)[0] >> 1
    # JAX takes unsigned keys alone.
    dtype = "uint32" if keras.backend.backend() == "jax" else "int32"
    first = ops.convert_to_tensor(int(word), dtype=dtype)
    second = ops.cast(step, dtype)
    return StatelessSeed(ops.stack([first, second]))


def gaussian(shape: Any, seed: Any) -> Any:
    """Standard normal noise, float32, of `shape`."""
    return keras.random.normal(shape, dtype="float32", seed=seed)


def add_offset_noise(noise: Any, strength: float, seed: Any) -> Any:
    """Adds one normal number per example and channel to the noise.

    Lets a model learn overall brightness, which plain noise never changes.

    Args:
        noise: Float32 tensor of shape `(B, h, w, C)`.
        strength: Float >= 0, the offset's standard deviation. `0.1` is
            usual.
        seed: A `keras.random.SeedGenerator` or `StatelessSeed`.

    Returns:
        Float32 tensor of shape `(B, h, w, C)`.

    References:
        Guttenberg, Diffusion with Offset Noise, 2023.
    """
    shape = ops.shape(noise)
    offset = gaussian((shape[0], 1, 1, shape[3]), seed)
    return noise + strength * offset
