"""Which timestep each example gets, and how the network is told.

Must not know latents or noise.
"""

import math
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_sdft import checks

# The fractional part of i times this constant fills [0, 1) evenly for any
# number of points: no two neighbours fall in the same place.
_GOLDEN = (math.sqrt(5.0) - 1.0) / 2.0


def sample_timesteps(
    batch_size: Any,
    seed: Any,
    num_train_timesteps: int = 1000,
    timestep_range: tuple[int, int] | None = None,
    probabilities: Any = None,
) -> Any:
    """Draws timesteps, one for each example.

    Args:
        batch_size: Integer `B`.
        seed: A `keras.random.SeedGenerator`; a `StatelessSeed` makes the
            draw a pure function of its key.
        num_train_timesteps: Integer `T`.
        timestep_range: Pair `(first, end)`; timesteps are drawn from
            `[first, end)`. Defaults to all.
        probabilities: Float array of shape `(T,)`, from
            `timestep_probabilities`. Defaults to uniform over the range.

    Returns:
        Int32 tensor of shape `(B,)` in `[0, T)`.
    """
    if probabilities is None:
        first, end = timestep_range or (0, num_train_timesteps)
        return keras.random.randint(
            (batch_size,), first, end, dtype="int32", seed=seed
        )
    # Inverse of the cumulative distribution. A timestep of probability 0
    # has no interval, so it is never drawn.
    cumulative = np.cumsum(np.asarray(probabilities, dtype="float64"))
    cumulative = (cumulative / cumulative[-1]).astype("float32")
    place = keras.random.uniform((batch_size,), dtype="float32", seed=seed)
    below = ops.convert_to_tensor(cumulative)[None, :] <= place[:, None]
    return ops.sum(ops.cast(below, "int32"), axis=1)


def timestep_bias(
    where: str,
    multiplier: float = 1.0,
    portion: float = 0.25,
    begin: int | None = None,
    end: int | None = None,
    num_train_timesteps: int = 1000,
) -> np.ndarray:
    """Returns a table by which some timesteps are drawn more often.

    Args:
        where: `"earlier"` (little noise: the first `portion`), `"later"`
            (much noise: the last `portion`) or `"range"`
            (`[begin, end)`).
        multiplier: Float > 0, how often those timesteps are drawn, against
            once for the others.
        portion: Float in (0, 1], for `"earlier"` and `"later"`.
        begin: Integer, for `"range"`. Defaults to 0.
        end: Integer, for `"range"`. Defaults to `T`.
        num_train_timesteps: Integer `T`.

    Returns:
        Float64 array of shape `(T,)`, relative probabilities, for
        `Noise(timestep_bias_strategy=...)`.

    Raises:
        ValueError: If an argument is out of its range.
    """
    # To leave timesteps out there is `timestep_range`.
    checks.number("multiplier", multiplier, above=0)
    checks.number("portion", portion, above=0, maximum=1)
    count = int(portion * num_train_timesteps)
    bounds = {
        "earlier": (0, count),
        "later": (num_train_timesteps - count, num_train_timesteps),
        "range": (begin or 0, num_train_timesteps if end is None else end),
    }
    checks.one_of("where", where, bounds)
    first, last = check_timestep_range(bounds[where], num_train_timesteps)
    table = np.ones((num_train_timesteps,), dtype="float64")
    table[first:last] *= multiplier
    return table


def timestep_probabilities(
    bias: Any,
    timestep_range: tuple[int, int] | None = None,
    num_train_timesteps: int = 1000,
) -> np.ndarray:
    """Computes how likely each timestep is, from relative probabilities.

    Args:
        bias: Array of shape `(T,)`, >= 0, or a function of `T` that returns
            one.
        timestep_range: Pair `(first, end)`, outside of which timesteps are
            never drawn; `None` for all.
        num_train_timesteps: Integer `T`.

    Returns:
        Float64 array of shape `(T,)`, of sum 1.

    Raises:
        ValueError: If the table is not usable.
    """
    table = bias(num_train_timesteps) if callable(bias) else bias
    table = np.array(table, dtype="float64")
    if table.shape != (num_train_timesteps,):
        raise ValueError(
            "`timestep_bias` must have one relative probability for each of "
            f"{num_train_timesteps} timesteps. Received: shape={table.shape}."
        )
    if timestep_range is not None:
        first, end = timestep_range
        table[:first] = 0.0
        table[end:] = 0.0
    if not (np.isfinite(table).all() and (table >= 0).all() and table.any()):
        raise ValueError(
            "`timestep_bias` must be finite, >= 0, and > 0 somewhere in "
            f"`timestep_range`. Received: min={table.min()}, "
            f"max={table.max()}, timestep_range={timestep_range}."
        )
    return table / table.sum()


def check_timestep_range(
    timestep_range: Any, num_train_timesteps: int = 1000
) -> tuple[int, int]:
    """Returns `(first, end)` with `0 <= first < end <= T`, or raises."""
    try:
        first, end = (int(side) for side in timestep_range)
    except (TypeError, ValueError):
        first, end = -1, -1
    if 0 <= first < end <= num_train_timesteps:
        return first, end
    raise ValueError(
        "A range of timesteps must be a pair (first, end) with 0 <= first < "
        f"end <= {num_train_timesteps}. Received: {timestep_range!r}."
    )


def stratified_timesteps(
    positions: Any,
    stratum: int,
    num_strata: int,
    num_train_timesteps: int = 1000,
) -> Any:
    """Spreads fixed timesteps evenly inside one of several equal ranges.

    Used for validation: example `i` is seen once in each stratum, at a place
    that depends on nothing but `i`, so the losses of two epochs are of
    the same timesteps, and every part of the schedule counts alike.

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
    """Computes the sinusoidal embedding of Stable Diffusion, cosines first.

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
