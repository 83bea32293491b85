"""A low-rank addition to one dense or convolutional layer.

`x @ down @ up` beside the frozen layer; a full-size delta is formed only to
merge. Must not know which layers of a network are adapted.

References:
    Hu et al., LoRA: Low-Rank Adaptation of Large Language Models, 2021.
    Kalajdzievski, A Rank Stabilization Scaling Factor for Fine-Tuning with
    LoRA, 2023. Liu et al., DoRA: Weight-Decomposed Low-Rank Adaptation,
    2024.
"""

import math
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_sdft.diffusion import StatelessSeed
from keras_sdft.formats.lora_files import LowRankWeights
from keras_sdft.models.frozen_kernels import full_kernel


class LowRank:
    """The adapter of one layer.

    Args:
        layer: A built layer with a `kernel` of shape `(in, out)` or
            `(height, width, in, out)`.
        rank: Integer >= 1.
        alpha: Float > 0; the addition is scaled by `alpha / rank`.
        strength: Float32 scalar `keras.Variable` that all adapters of a set
            share: `0` is the base alone.
        rank_stabilized: Boolean, whether it is scaled by
            `alpha / sqrt(rank)` instead.
        use_dora: Boolean, whether the magnitude of each output's weights is
            learned apart from their direction.
        dropout: A `Dropout` for the inputs, or `None`.
        seed: Integer, of the first values of `down`.
        name: String, the layer's name in the network.
    """

    def __init__(
        self,
        layer: Any,
        rank: int,
        alpha: float,
        strength: Any,
        *,
        rank_stabilized: bool = False,
        use_dora: bool = False,
        dropout: Any = None,
        seed: int = 0,
        name: str = "layer",
    ):
        self.layer = layer
        self.rank = rank
        self.alpha = alpha
        self.rank_stabilized = rank_stabilized
        self.scaling = alpha / (math.sqrt(rank) if rank_stabilized else rank)
        self.strength = strength
        self.dropout = dropout
        shape = tuple(layer.kernel.shape)
        # A 1x1 convolution is a product of matrices.
        self.is_dense = len(shape) == 2 or shape[:2] == (1, 1)
        down, up = self._shapes(shape)
        self.down = _variable(f"{name}/down", _uniform(down, seed))
        self.up = _variable(f"{name}/up", np.zeros(up, "float32"))
        self.magnitude = None
        if use_dora:
            kernel = full_kernel(layer)
            norm = ops.convert_to_numpy(_column_norms(_matrix(kernel)))
            self.magnitude = _variable(f"{name}/magnitude", norm)

    @property
    def weights(self) -> LowRankWeights:
        """The values that a file holds."""
        magnitude = self.magnitude
        return LowRankWeights(
            ops.convert_to_numpy(self.down),
            ops.convert_to_numpy(self.up),
            self.scaling * self.rank,
            None if magnitude is None else ops.convert_to_numpy(magnitude),
        )

    def assign(self, weights: LowRankWeights) -> None:
        """Takes the values of a file.

        Raises:
            ValueError: If their shapes are not those of this layer.
        """
        pairs = [(self.down, weights.down), (self.up, weights.up)]
        if self.magnitude is not None:
            pairs.append((self.magnitude, weights.magnitude))
        for variable, value in pairs:
            # Dense layers of other formats may be 1x1 convolutions.
            squeezed = np.reshape(value, [s for s in value.shape if s != 1])
            own = [side for side in variable.shape if side != 1]
            if list(squeezed.shape) != own:
                raise ValueError(
                    f"The adapter's {variable.name} has shape "
                    f"{tuple(value.shape)}, and the layer needs "
                    f"{tuple(variable.shape)}. Was it trained for another "
                    "model?"
                )
            variable.assign(np.reshape(value, variable.shape))

    def _shapes(self, shape: tuple[int, ...]) -> tuple[Any, Any]:
        if self.is_dense:
            return (shape[-2], self.rank), (self.rank, shape[-1])
        return (*shape[:3], self.rank), (1, 1, self.rank, shape[-1])

    @property
    def learned(self) -> list[Any]:
        """The variables that learn: `down`, `up` and the magnitude."""
        found = [self.down, self.up, self.magnitude]
        return [variable for variable in found if variable is not None]

    @property
    def variables(self) -> list[Any]:
        """All variables that a call reads."""
        kept = [] if self.dropout is None else self.dropout.variables
        return [*self.learned, self.strength, *kept]

    @property
    def kind(self) -> Any:
        """What tells apart adapters that compute differently."""
        dropout = None if self.dropout is None else self.dropout.kind
        return (
            type(self).__name__,
            self.rank,
            self.scaling,
            self.magnitude is not None,
            dropout,
        )

    def inputs(self, inputs: Any) -> Any:
        """Returns the layer's inputs as they are."""
        return inputs

    def __call__(self, inputs: Any, outputs: Any, base: Any) -> Any:
        """Returns `outputs` with the addition, see `models.adapted`."""
        dropped = inputs
        if self.dropout is not None:
            dropped = self.dropout(inputs)
        # Scaled where it is smallest.
        strength = ops.cast(self.strength, self.layer.compute_dtype)
        low = self._low(dropped) * (self.scaling * strength)
        addition = self._high(low)
        if self.magnitude is None:
            return outputs + addition
        # How much longer or shorter each output's weights become. At
        # strength 0 the base itself.
        factor = ops.cast(self._factor(), base.dtype)
        bias = getattr(self.layer, "bias", None)
        linear = base if bias is None else base - ops.cast(bias, base.dtype)
        return outputs + (factor - 1.0) * linear + factor * addition

    def _low(self, inputs: Any) -> Any:
        if self.is_dense:
            return ops.matmul(inputs, self.down)
        return ops.conv(
            inputs,
            self.down,
            strides=self.layer.strides,
            padding=self.layer.padding,
        )

    def _high(self, low: Any) -> Any:
        if self.is_dense:
            return ops.matmul(low, self.up)
        return ops.conv(low, self.up, padding="same")

    def _factor(self) -> Any:
        """DoRA's magnitude over the norm of the adapted weights `(out,)`.

        The norm is a constant for the gradient (section 4.3 of the paper).
        """
        kernel = _matrix(full_kernel(self.layer))
        down, up = (
            ops.cast(_matrix(part), "float32") for part in (self.down, self.up)
        )
        scale = self.scaling * ops.cast(self.strength, "float32")
        # |w + s d u| by column without the full-size product d u.
        mixed = ops.sum(up * ops.matmul(ops.transpose(down), kernel), axis=0)
        own = ops.sum(
            up * ops.matmul(ops.matmul(ops.transpose(down), down), up), axis=0
        )
        squares = ops.sum(ops.square(kernel), axis=0)
        squares = squares + 2.0 * scale * mixed + ops.square(scale) * own
        norm = ops.stop_gradient(ops.sqrt(ops.maximum(squares, 1e-24)))
        factor = ops.cast(self.magnitude, "float32") / norm
        enabled = ops.cast(ops.not_equal(scale, 0.0), "float32")
        return 1.0 + enabled * (factor - 1.0)

    def merged_kernel(self) -> np.ndarray:
        """Returns the layer's kernel with the addition in it, float32."""
        kernel = np.asarray(
            ops.convert_to_numpy(self.layer.kernel), dtype="float32"
        )
        strength = float(ops.convert_to_numpy(self.strength))
        down, up = (
            ops.convert_to_numpy(part).astype("float64")
            for part in (self.down, self.up)
        )
        delta = down.reshape(-1, self.rank) @ up.reshape(self.rank, -1)
        scale = self.scaling * strength
        merged = kernel + scale * delta.reshape(kernel.shape)
        if self.magnitude is not None and strength:
            norm = np.sqrt(
                np.square(merged.reshape(-1, merged.shape[-1])).sum(axis=0)
            )
            merged = merged * (ops.convert_to_numpy(self.magnitude) / norm)
        return merged.astype("float32")


class Dropout:
    """Drops inputs of adapters while training, by stateless random numbers.

    Args:
        rate: Float in (0, 1).
        seed: Int32 `keras.Variable` `(2,)` that a training step sets, shared
            by all adapters of a set.
        active: Float32 scalar `keras.Variable`: 1 while training, else 0.
        place: Integer, the adapter's number, so that each drops others.
    """

    def __init__(self, rate: float, seed: Any, active: Any, place: int):
        self.rate = rate
        self.place = keras.Variable(
            np.array([0, place], "int32"), trainable=False, name="place"
        )
        self.seed = seed
        self.active = active

    @property
    def variables(self) -> list[Any]:
        return [self.place, self.seed, self.active]

    @property
    def kind(self) -> Any:
        return self.rate

    def __call__(self, inputs: Any) -> Any:
        """Returns the inputs with a share of them set to 0, rescaled."""
        key = ops.bitwise_xor(
            ops.convert_to_tensor(self.seed), ops.convert_to_tensor(self.place)
        )
        uniform = keras.random.uniform(
            ops.shape(inputs), dtype="float32", seed=StatelessSeed(key)
        )
        kept = ops.cast(uniform >= self.rate, inputs.dtype) / (1.0 - self.rate)
        active = ops.cast(self.active, inputs.dtype)
        return inputs * (1.0 + active * (kept - 1.0))


def _variable(name: str, value: np.ndarray) -> Any:
    return keras.Variable(value, dtype="float32", name=name.replace("/", "."))


def _uniform(shape: tuple[int, ...], seed: int) -> np.ndarray:
    """Kaiming's uniform values with `a = sqrt(5)`, as PEFT begins with."""
    bound = 1.0 / math.sqrt(math.prod(shape[:-1]))
    generator = np.random.default_rng(seed)
    return generator.uniform(-bound, bound, shape).astype("float32")


def _matrix(kernel: Any) -> Any:
    return ops.reshape(kernel, (-1, kernel.shape[-1]))


def _column_norms(matrix: Any) -> Any:
    matrix = ops.cast(matrix, "float32")
    return ops.sqrt(ops.sum(ops.square(matrix), axis=0))
