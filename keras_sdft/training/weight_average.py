"""An exponential moving average of the weights, with warm-up.

Counted in optimizer steps. Must not know what the weights compute.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import keras
from keras import ops

from keras_sdft import checks
from keras_sdft.training.schedule_free import averaged_point
from keras_sdft.training.schedule_free import schedule_free_optimizers


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
        check_average(decay)
        super().__init__(name="weight_average", dtype="float32")
        self.decay = decay
        # In a closure, so that the averaged variables are not counted as
        # this layer's own.
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
            # A copy: JAX would let both have one buffer, and reuse it.
            average.assign(ops.copy(variable.value))
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
        """Context manager that puts the average into the variables."""
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


def check_average(ema_decay: Any, optimizer: Any = None) -> float | None:
    """Returns the decay of a moving average, or raises.

    Args:
        ema_decay: Float in (0, 1), or `None` for no average.
        optimizer: Any optimizer, or `None`.

    Raises:
        ValueError: If the decay is out of its range, or the optimizer keeps
            an average by itself.
    """
    if ema_decay is None:
        return None
    if optimizer is not None and schedule_free_optimizers(optimizer):
        raise ValueError(
            "`ema_decay` cannot be used with a schedule-free optimizer, which "
            f"keeps an average of the weights by itself. Received: ema_decay="
            f"{ema_decay}. Leave it out."
        )
    return checks.number("ema_decay", ema_decay, above=0, below=1)


@contextlib.contextmanager
def evaluation_weights(weight_average: Any, optimizer: Any) -> Iterator[None]:
    """Context manager that puts the weights to evaluate and export in place.

    Args:
        weight_average: A `WeightAverage`, or `None`.
        optimizer: Any optimizer, or `None`.
    """
    with contextlib.ExitStack() as stack:
        if weight_average is not None:
            stack.enter_context(weight_average.swapped_in())
        stack.enter_context(averaged_point(optimizer))
        yield
