"""Which timestep each example gets, and how the network is told.

Must not know latents or noise.
"""

from __future__ import annotations

import math
from typing import Any

import keras
from keras import ops

# The fractional part of i times this constant fills [0, 1) evenly for any
# number of points: no two neighbours fall in the same place.
_GOLDEN = (math.sqrt(5.0) - 1.0) / 2.0


def sample_timesteps(
    batch_size: Any, seed: Any, num_train_timesteps: int = 1000
) -> Any:
    """Draws timesteps uniformly, one for each example.

    Args:
        batch_size: Integer `B`.
        seed: A `keras.random.SeedGenerator`; a `StatelessSeed` makes the
            draw a pure function of its key.
        num_train_timesteps: Integer `T`.

    Returns:
        Int32 tensor of shape `(B,)` in `[0, T)`.
    """
    return keras.random.randint(
        (batch_size,), 0, num_train_timesteps, dtype="int32", seed=seed
    )


def stratified_timesteps(
    positions: Any,
    stratum: int,
    num_strata: int,
    num_train_timesteps: int = 1000,
) -> Any:
    """Fixed timesteps spread evenly inside one of several equal ranges.

    Used for validation: example `i` is seen once in each stratum, at a place
    that depends on nothing but `i`, so the loss of two epochs compares the
    same questions and every part of the schedule has the same say.

    Args:
        positions: Int32 tensor of shape `(B,)`: the examples' positions in
            the validation set, counted from 0.
        stratum: Integer in `[0, num_strata)`.
        num_strata: Integer, the number of ranges.
        num_train_timesteps: Integer `T`.

    Returns:
        Int32 tensor of shape `(B,)` in `[0, T)`.
    """
    # A position enters through its remainder: float32 would lose the
    # fraction of a product beyond some hundred thousand examples.
    place = ops.cast(positions % 4096, "float32") * _GOLDEN + 0.5
    place = place - ops.floor(place)
    share = (stratum + place) / num_strata
    timesteps = ops.cast(ops.floor(share * num_train_timesteps), "int32")
    return ops.clip(timesteps, 0, num_train_timesteps - 1)


def timestep_embedding(
    timesteps: Any, width: int = 320, max_period: float = 10000.0
) -> Any:
    """Sinusoidal embedding, cosines first, as Stable Diffusion has it.

    Args:
        timesteps: Tensor of shape `(B,)`, any numeric dtype.
        width: Even integer, the size of the embedding.
        max_period: Float, the longest period in timesteps over 2 pi.

    Returns:
        Float32 tensor of shape `(B, width)` in `[-1, 1]`.

    References:
        Vaswani et al., Attention Is All You Need, 2017, section 3.5; Ho et
        al., 2020, appendix B.
    """
    if width % 2:
        raise ValueError(f"`width` must be even. Received: width={width}.")
    half = width // 2
    exponents = ops.arange(half, dtype="float32") / half
    frequencies = ops.exp(-math.log(max_period) * exponents)
    angles = ops.cast(timesteps, "float32")[:, None] * frequencies[None, :]
    return ops.concatenate([ops.cos(angles), ops.sin(angles)], axis=-1)
