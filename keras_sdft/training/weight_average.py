"""An exponential moving average of the weights, with warm-up.

Counted in optimizer steps. Must not know what the weights compute.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import keras
from keras import ops


class WeightAverage(keras.layers.Layer):
    """Averages variables over the steps of training.

    The decay of step `n` (counted from 0) is
    `min(decay, (1 + n) / (10 + n))`, so that the average is not held back
    by the weights that training began with.

    Args:
        variables: List of `keras.Variable` to average.
        decay: Float in (0, 1), the decay after warm-up. `0.9999` is usual
            for long runs.
    """

    def __init__(self, variables: list[Any], decay: float):
        if not 0.0 < decay < 1.0:
            raise ValueError(
                f"`ema_decay` must lie in (0, 1). Received: {decay}."
            )
        super().__init__(name="weight_average", dtype="float32")
        self.decay = decay
        # Behind a closure, so that the averaged variables are not counted
        # as this layer's own.
        self._sources = lambda: variables
        self._averages = [
            self.add_weight(
                shape=variable.shape,
                dtype=variable.dtype,
                initializer="zeros",
                trainable=False,
                name=f"average_{index}",
            )
            for index, variable in enumerate(variables)
        ]
        for average, variable in zip(self._averages, variables, strict=True):
            average.assign(variable)
        self.built = True

    def update(self, step: Any) -> None:
        """Moves the average towards the weights.

        Args:
            step: Integer tensor, optimizer steps taken before this one.
        """
        count = ops.cast(step, "float32")
        decay = ops.minimum(self.decay, (1.0 + count) / (10.0 + count))
        for average, variable in zip(
            self._averages, self._sources(), strict=True
        ):
            average.assign_sub((1.0 - decay) * (average - variable))

    @contextlib.contextmanager
    def swapped_in(self) -> Iterator[None]:
        """Inside, the variables hold the average; afterwards, themselves."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def _swap(self) -> None:
        # One variable at a time: a second copy of all would not fit beside
        # a large model.
        for average, variable in zip(
            self._averages, self._sources(), strict=True
        ):
            kept = ops.copy(variable.value)
            variable.assign(average)
            average.assign(kept)
