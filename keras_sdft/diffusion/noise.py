"""Random numbers as pure functions of a key, and the noise made of them.

Must not know timesteps' schedule, networks or batches of images.
"""

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
    "multires_noise": 6,
    "input_perturbation": 7,
    "lora_dropout": 8,
}


class StatelessSeed(keras.random.SeedGenerator):
    """Keras seed that is a value: it has no state and never advances.

    Args:
        key: Int32 tensor of shape `(2,)`.
    """

    def __init__(self, key: Any):
        # The parent would create a variable; a value needs none.
        self.key = ops.cast(key, _key_dtype())

    def next(self, ordered: bool = True) -> Any:
        return self.key

    def get_config(self) -> dict:
        raise NotImplementedError("A stateless seed is not serialized.")


def stateless_seed(seed: int, stream: str, step: Any) -> StatelessSeed:
    """Returns the seed of one use of randomness in one step.

    Args:
        seed: Integer >= 0, the run's seed.
        stream: String, a key of `STREAMS`.
        step: Integer or scalar integer tensor, usually the optimizer step.

    Returns:
        A `StatelessSeed`, the same for the same three arguments.
    """
    entropy = [int(seed), STREAMS[stream]]
    word = np.random.SeedSequence(entropy).generate_state(1)[0] >> 1
    dtype = _key_dtype()
    first = ops.convert_to_tensor(int(word), dtype=dtype)
    second = ops.cast(step, dtype)
    return StatelessSeed(ops.stack([first, second]))


def _key_dtype() -> str:
    # JAX takes unsigned keys alone.
    return "uint32" if keras.backend.backend() == "jax" else "int32"


def gaussian(shape: Any, seed: Any) -> Any:
    """Draws standard normal noise, float32, of `shape`."""
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


def add_multires_noise(
    noise: Any, iterations: int, discount: float, seed: Any
) -> Any:
    """Adds noise of coarser and coarser resolution (pyramid noise).

    `noise + sum(discount ** i * upsampled(i) for i in range(iterations))`,
    divided by its standard deviation over each example. Level `i` is drawn
    at `2 ** i` times smaller sides and upsampled bilinearly; levels end
    where a side is 1.

    Lets a model learn large areas of light and dark, as offset noise does,
    at every scale. (The first description shrinks each level by a random
    factor in [2, 4); here it is 2, so that shapes are known.)

    Args:
        noise: Float32 tensor of shape `(B, h, w, C)`.
        iterations: Integer >= 1, the number of levels; 6 to 10 are usual.
        discount: Float in (0, 1], weight of a level against the one
            before; 0.1 to 0.3 is subtle, 0.8 strong.
        seed: A `keras.random.SeedGenerator` or `StatelessSeed`.

    Returns:
        Float32 tensor of shape `(B, h, w, C)`, each example of unit
        standard deviation.

    References:
        Whitaker, Multi-Resolution Noise for Diffusion Model Training, 2023.
    """
    size, height, width, channels = ops.shape(noise)
    total = noise
    present: Any = 1.0
    for level in range(iterations):
        sides = [_coarser(side, level) for side in (height, width)]
        drawn = gaussian((size, *sides, channels), _level_seed(seed, level))
        if level > 0:
            drawn = _enlarged(drawn, sides, (height, width))
        total = total + present * discount**level * drawn
        # Sides may be known only when the graph runs: a level below one
        # whose side is 1 is then drawn, and counts nothing.
        if isinstance(sides[0], int) and isinstance(sides[1], int):
            if min(sides) == 1:
                break
        else:
            least = ops.minimum(sides[0], sides[1])
            present = ops.cast(least > 1, "float32")
    mean = ops.mean(total, axis=(1, 2, 3), keepdims=True)
    variance = ops.mean(ops.square(total - mean), axis=(1, 2, 3), keepdims=True)
    return total / ops.sqrt(variance)


def _coarser(side: Any, level: int) -> Any:
    if isinstance(side, int):
        return max(1, side >> level)
    return ops.maximum(side // 2**level, 1)


def _enlarged(images: Any, sides: list[Any], size: tuple[Any, Any]) -> Any:
    """Upsamples bilinearly; sides may be tensors, unlike in `resize`."""
    rows, columns = (
        _interpolation(old, new) for old, new in zip(sides, size, strict=True)
    )
    images = ops.einsum("ij,bjkc->bikc", rows, images)
    return ops.einsum("ij,bkjc->bkic", columns, images)


def _interpolation(old: Any, new: Any) -> Any:
    """Returns a matrix `(new, old)` of old pixels' weights in new ones."""
    scale = ops.cast(old, "float32") / ops.cast(new, "float32")
    place = (ops.cast(ops.arange(new), "float32") + 0.5) * scale - 0.5
    last = ops.cast(old, "float32") - 1.0
    place = ops.minimum(ops.maximum(place, 0.0), last)
    index = ops.cast(ops.arange(old), "float32")
    return ops.maximum(1.0 - ops.abs(place[:, None] - index[None, :]), 0.0)


def _level_seed(seed: Any, level: int) -> Any:
    """Returns a seed of each level, from one that never advances."""
    if not isinstance(seed, StatelessSeed):
        return seed
    # The key's second word counts steps; the levels take the first's place.
    first = ops.bitwise_xor(seed.key[0], ops.cast(level << 24, seed.key.dtype))
    return StatelessSeed(ops.stack([first, seed.key[1]]))


def perturb_noise(noise: Any, strength: float, seed: Any) -> Any:
    """Returns the noise that examples get under input perturbation.

    The target stays `noise`: the network learns to predict well from latents
    that are slightly off, as they are in sampling.

    Args:
        noise: Float32 tensor of shape `(B, h, w, C)`.
        strength: Float >= 0; `0.1` is the paper's value.
        seed: A `keras.random.SeedGenerator` or `StatelessSeed`.

    Returns:
        Float32 tensor of shape `(B, h, w, C)`:
        `noise + strength * new noise`.

    References:
        Ning et al., Input Perturbation Reduces Exposure Bias in Diffusion
        Models, 2023.
    """
    return noise + strength * gaussian(ops.shape(noise), seed)
