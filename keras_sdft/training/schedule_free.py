"""AdamW without a learning-rate schedule, and the average it evaluates.

Must not know models or losses.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_sdft.keras_internals import OptimizerHooks
from keras_sdft.keras_internals import decays
from keras_sdft.keras_internals import moments
from keras_sdft.keras_internals import optimized_variables


@keras.saving.register_keras_serializable(package="keras_sdft")
class ScheduleFreeAdamW(OptimizerHooks, keras.optimizers.ScheduleFreeAdamW):
    """Schedule-free AdamW, as in its paper.

    Gradients are taken at an interpolation between the optimizer's own
    iterate and the average of its iterates. Training keeps the
    interpolation in the weights; `Trainer` validates, previews and exports
    with the average.

    Differs from `keras.optimizers.ScheduleFreeAdamW` in what the paper has
    and that leaves out: weight decay acts on the iterate, and the average
    counts each step by its squared learning rate, so that a warm-up does
    not weigh it down. Gradients are clipped to a *global* norm of 1.

    Args:
        learning_rate: Float or a `keras.optimizers.schedules` object.
        weight_decay: Float >= 0.
        beta_1: Float in (0, 1), the share of the average in the
            interpolation.
        beta_2: Float in [0, 1), decay of the second moment.
        epsilon: Float > 0.
        warmup_steps: Integer >= 0, over which the learning rate rises
            linearly.
        global_clipnorm: Float, the largest global norm of all gradients
            together; `None` does not clip.
        **kwargs: As for `keras.optimizers.ScheduleFreeAdamW`.

    References:
        Defazio et al., The Road Less Scheduled, 2024, algorithm 1.
    """

    def __init__(
        self,
        learning_rate: Any = 1e-5,
        weight_decay: float = 1e-2,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-8,
        warmup_steps: int = 0,
        global_clipnorm: float | None = 1.0,
        name: str = "schedule_free_adamw",
        **kwargs: Any,
    ):
        super().__init__(
            learning_rate=learning_rate,
            weight_decay=weight_decay,
            beta_1=beta_1,
            beta_2=beta_2,
            epsilon=epsilon,
            warmup_steps=warmup_steps,
            global_clipnorm=global_clipnorm,
            name=name,
            **kwargs,
        )

    def build(self, var_list: list[Any]) -> None:
        """Makes the iterate, the second moment and the sum of weights."""
        if self.built:
            return
        super().build(var_list)
        self._weight_sum = self.add_variable(
            shape=(),
            dtype="float32",
            name="weight_sum",
            aggregation="only_first_replica",
        )

    def decay_weights(self, variables: Any) -> bool:
        """Does nothing: decay is a part of the iterate's own step."""
        return True

    def update_variables(
        self, gradients: Any, variables: Any, learning_rate: Any
    ) -> bool:
        scalars = self._scalars(learning_rate)
        if self.has_strategy:
            self.update_by_strategy(gradients, variables, learning_rate)
        else:
            # Scalars are made once here, not once per variable.
            for gradient, variable in zip(gradients, variables, strict=True):
                self._update(gradient, variable, scalars)
        self._weight_sum.assign_add(ops.square(scalars["rate"]))
        return True

    def update_step(
        self, gradient: Any, variable: Any, learning_rate: Any
    ) -> None:
        """Updates one variable (the path of distribution strategies)."""
        self._update(gradient, variable, self._scalars(learning_rate))

    def _scalars(self, learning_rate: Any) -> dict[str, Any]:
        step = ops.cast(self.iterations + 1, "float32")
        rate = ops.cast(learning_rate, "float32")
        rate = rate * ops.sqrt(1.0 - ops.power(self.beta_2, step))
        if self.warmup_steps:
            rate = rate * ops.minimum(1.0, step / self.warmup_steps)
        weight = ops.square(rate)
        # A warm-up may begin at a rate of 0.
        share = ops.divide_no_nan(weight, self._weight_sum.value + weight)
        return {"rate": rate, "share": share}

    def _update(
        self, gradient: Any, variable: Any, scalars: dict[str, Any]
    ) -> None:
        iterate, moment = moments(self, variable)
        gradient = ops.cast(ops.convert_to_tensor(gradient), variable.dtype)
        rate, share = (
            ops.cast(scalars[name], variable.dtype)
            for name in ("rate", "share")
        )
        weights = ops.convert_to_tensor(variable)
        average = _average(weights, iterate, self.beta_1)
        second = moment + (1.0 - self.beta_2) * (ops.square(gradient) - moment)
        step = gradient / (ops.sqrt(second) + self.epsilon)
        if self.weight_decay and decays(self, variable):
            step = step + self.weight_decay * weights
        moved = iterate - rate * step
        average = average + share * (moved - average)
        moment.assign(second)
        iterate.assign(moved)
        variable.assign(moved + self.beta_1 * (average - moved))


def _average(weights: Any, iterate: Any, beta_1: float) -> Any:
    return (weights - (1.0 - beta_1) * iterate) / beta_1


def schedule_free_optimizers(optimizer: Any) -> list[Any]:
    """Returns every schedule-free optimizer in one, itself or wrapped."""
    if isinstance(optimizer, keras.optimizers.ScheduleFreeAdamW):
        return [optimizer]
    inner = getattr(optimizer, "inner_optimizer", None)
    parts = [inner] if inner is not None else []
    parts += getattr(optimizer, "optimizers", ())
    return [found for part in parts for found in schedule_free_optimizers(part)]


@contextlib.contextmanager
def averaged_point(optimizer: Any) -> Iterator[None]:
    """Context manager that puts the average into schedule-free weights.

    Afterwards they are bit for bit what they were: a copy stays in host
    memory meanwhile.

    Args:
        optimizer: Any optimizer, or `None`; what is not schedule-free is
            left alone.
    """
    kept = []
    for found in schedule_free_optimizers(optimizer):
        if not found.built:
            continue
        for variable in optimized_variables(found):
            iterate, _ = moments(found, variable)
            kept.append((variable, np.asarray(variable).copy()))
            variable.assign(_average(variable, iterate, found.beta_1))
    try:
        yield
    finally:
        for variable, value in kept:
            variable.assign(value)
