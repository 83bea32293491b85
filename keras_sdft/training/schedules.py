"""Learning-rate schedules by name, with warm-up.

At each step equal to the schedules of the same names in the field. Must not
know optimizers.
"""

import math
from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from keras_sdft import checks


def _constant(progress: Any, config: dict[str, Any]) -> Any:
    return ops.ones_like(progress)


def _linear(progress: Any, config: dict[str, Any]) -> Any:
    return 1.0 - progress


def _cosine(progress: Any, config: dict[str, Any]) -> Any:
    return 0.5 * (1.0 + ops.cos(math.pi * progress))


def _cosine_with_restarts(progress: Any, config: dict[str, Any]) -> Any:
    cycles = progress * config["num_cycles"]
    wave = 0.5 * (1.0 + ops.cos(math.pi * (cycles - ops.floor(cycles))))
    return ops.where(progress >= 1.0, 0.0, wave)


def _polynomial(progress: Any, config: dict[str, Any]) -> Any:
    end = config["end_learning_rate"] / config["learning_rate"]
    return end + (1.0 - end) * (1.0 - progress) ** config["power"]


_SHAPES: dict[str, Callable[[Any, dict[str, Any]], Any]] = {
    "constant": _constant,
    "cosine": _cosine,
    "cosine_with_restarts": _cosine_with_restarts,
    "linear": _linear,
    "polynomial": _polynomial,
}
SCHEDULES = tuple(sorted(_SHAPES))


@keras.saving.register_keras_serializable(package="keras_sdft")
class WarmUpSchedule(keras.optimizers.schedules.LearningRateSchedule):
    """A rise to the learning rate, then a schedule down from it, by name.

    Steps are optimizer steps. With a warm-up the first step has a rate of 0,
    and step `warmup_steps` the whole.

    Args:
        schedule: `"constant"`, `"linear"` (to 0), `"cosine"` (half a wave,
            to 0), `"cosine_with_restarts"` (`num_cycles` half waves) or
            `"polynomial"` (to `end_learning_rate`).
        learning_rate: Float > 0, the highest rate.
        num_steps: Integer, steps of the whole run, warm-up included;
            `"constant"` does not need it.
        warmup_steps: Integer >= 0, steps of linear rise from 0.
        num_cycles: Integer >= 1, for `"cosine_with_restarts"`.
        power: Float > 0, for `"polynomial"`; `1.0` is a line.
        end_learning_rate: Float >= 0, for `"polynomial"`.

    Raises:
        ValueError: If the name is unknown or a number out of its range.

    Example:

    ```python
    rate = keras_sdft.training.schedules.WarmUpSchedule(
        "cosine", 1e-5, num_steps=1000, warmup_steps=100
    )
    optimizer = keras_sdft.training.AdamW(learning_rate=rate)
    ```
    """

    def __init__(
        self,
        schedule: str,
        learning_rate: float,
        num_steps: int | None = None,
        warmup_steps: int = 0,
        num_cycles: int = 1,
        power: float = 1.0,
        end_learning_rate: float = 1e-7,
    ):
        super().__init__()
        self._config: dict[str, Any] = {
            "schedule": schedule,
            "learning_rate": learning_rate,
            "num_steps": num_steps,
            "warmup_steps": warmup_steps,
            "num_cycles": num_cycles,
            "power": power,
            "end_learning_rate": end_learning_rate,
        }
        _check(self._config)

    def __call__(self, step: Any) -> Any:
        """The learning rate of an optimizer step, counted from 0."""
        config = self._config
        step = ops.cast(step, "float32")
        warmup = float(config["warmup_steps"])
        # The constant schedule has no end, and needs none.
        last = float(config["num_steps"] or warmup + 1.0)
        progress = (step - warmup) / max(1.0, last - warmup)
        progress = ops.clip(progress, 0.0, 1.0)
        factor = _SHAPES[config["schedule"]](progress, config)
        rising = step / max(1.0, warmup)
        factor = ops.where(step < warmup, rising, factor)
        return config["learning_rate"] * factor

    def with_peak(self, learning_rate: float) -> "WarmUpSchedule":
        """Returns the schedule in proportion to another highest rate."""
        scale = learning_rate / self._config["learning_rate"]
        end = self._config["end_learning_rate"] * scale
        rates = {"learning_rate": learning_rate, "end_learning_rate": end}
        return WarmUpSchedule(**{**self._config, **rates})

    def get_config(self) -> dict[str, Any]:
        return dict(self._config)


def _check(config: dict[str, Any]) -> None:
    name, num_steps = config["schedule"], config["num_steps"]
    checks.one_of("schedule", name, SCHEDULES)
    for argument in ("learning_rate", "power"):
        checks.number(argument, config[argument], above=0)
    checks.integer("warmup_steps", config["warmup_steps"], 0)
    checks.integer("num_cycles", config["num_cycles"], 1)
    end = config["end_learning_rate"]
    if name == "polynomial" and not 0 <= end < config["learning_rate"]:
        raise ValueError(
            "`end_learning_rate` must be in [0, learning_rate). Received: "
            f"end_learning_rate={end}, learning_rate={config['learning_rate']}."
        )
    if num_steps is None and name == "constant":
        return
    if num_steps is None or num_steps <= config["warmup_steps"]:
        raise ValueError(
            f"`num_steps`, the whole run, must be given for {name!r} and be "
            "more than `warmup_steps`. Received: "
            f"num_steps={num_steps}, warmup_steps={config['warmup_steps']}."
        )
