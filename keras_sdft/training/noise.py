"""The options of a training step's random numbers.

Imports neither Keras nor TensorFlow before a table is asked for.
"""

import dataclasses
import typing
from collections.abc import Sequence
from typing import Any
from typing import Literal

from keras_sdft import checks

TimestepBias = Literal["none", "earlier", "later", "range"]
_BIAS_OPTIONS = {
    "timestep_bias_multiplier": ("earlier", "later", "range"),
    "timestep_bias_portion": ("earlier", "later"),
    "timestep_bias_begin": ("range",),
    "timestep_bias_end": ("range",),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Noise:
    """The noise: what is added to images, and at which timesteps.

    In Python `timestep_bias_strategy` may also be an array of the relative
    probability of each timestep, or a function of their number that returns
    one.

    Args:
        offset_noise: Strength of noise that is constant over the image; 0.1
            is strong.
        multires_noise_iterations: Levels of multi-resolution noise; 0 is
            none, 6 to 10 usual.
        multires_noise_discount: Weight of each coarser level against the
            one before.
        input_perturbation: Strength of further noise in what the model
            sees, not in what it shall predict; 0.1 is usual.
        timestep_range: First timestep and the end, which is left out; 0
            1000 are all.
        timestep_bias_strategy: Which timesteps are sampled more often; the
            earlier ones have little noise.
        timestep_bias_multiplier: How much more often.
        timestep_bias_portion: How large a share of the timesteps earlier
            and later mean.
        timestep_bias_begin: First timestep of the strategy range.
        timestep_bias_end: End of the strategy range, left out.

    Raises:
        ValueError: If an option is out of its range or has no effect.
    """

    offset_noise: float = 0.0
    multires_noise_iterations: int = 0
    multires_noise_discount: float = 0.3
    input_perturbation: float = 0.0
    timestep_range: list[int] | None = None
    timestep_bias_strategy: TimestepBias = "none"
    timestep_bias_multiplier: float = 1.0
    timestep_bias_portion: float = 0.25
    timestep_bias_begin: int | None = None
    timestep_bias_end: int | None = None

    def __post_init__(self) -> None:
        checks.number("offset_noise", self.offset_noise, 0)
        levels = self.multires_noise_iterations
        checks.integer("multires_noise_iterations", levels, 0)
        discount = self.multires_noise_discount
        checks.number("multires_noise_discount", discount, above=0, maximum=1)
        checks.number("input_perturbation", self.input_perturbation, 0)
        _check_range(self.timestep_range)
        multiplier = self.timestep_bias_multiplier
        checks.number("timestep_bias_multiplier", multiplier, above=0)
        portion = self.timestep_bias_portion
        checks.number("timestep_bias_portion", portion, above=0, maximum=1)
        for name in ("timestep_bias_begin", "timestep_bias_end"):
            if getattr(self, name) is not None:
                checks.integer(name, getattr(self, name), 0)
        self._check_bias()
        names = ["multires_noise_discount"]
        checks.effective(self, names, "multires_noise_iterations")

    def _check_bias(self) -> None:
        strategy = self.timestep_bias_strategy
        if not isinstance(strategy, str):
            # An array compares element by element, and names no strategy.
            plain = Noise()
            changed = [
                name
                for name in _BIAS_OPTIONS
                if getattr(self, name) != getattr(plain, name)
            ]
            if changed:
                raise ValueError(
                    f"`{changed[0]}` has no effect with probabilities of "
                    "your own in `timestep_bias_strategy`. Leave it out."
                )
            return
        names = typing.get_args(TimestepBias)
        checks.one_of("timestep_bias_strategy", strategy, names)
        for name, values in _BIAS_OPTIONS.items():
            checks.effective(self, [name], "timestep_bias_strategy", *values)
        if strategy != "none" and self.timestep_bias_multiplier == 1.0:
            raise ValueError(
                f"`timestep_bias_strategy={strategy}` changes nothing while "
                "`timestep_bias_multiplier` is 1.0. Set how much more often "
                "these timesteps are sampled, 2.0 for example."
            )

    def probabilities(self, num_train_timesteps: int = 1000) -> Any:
        """Returns the probability of each timestep, or `None` for equal ones.

        Args:
            num_train_timesteps: Integer `T`.

        Returns:
            Float64 array `(T,)` of sum 1, or `None`.

        Raises:
            ValueError: If a timestep is not in `[0, T)`, or none is left.
        """
        from keras_sdft import diffusion

        bias: Any = self.timestep_bias_strategy
        span: Any = self.timestep_range
        if span is not None:
            span = diffusion.check_timestep_range(span, num_train_timesteps)
        if isinstance(bias, str):
            if bias == "none":
                return None
            bias = diffusion.timestep_bias(
                bias,
                multiplier=self.timestep_bias_multiplier,
                portion=self.timestep_bias_portion,
                begin=self.timestep_bias_begin,
                end=self.timestep_bias_end,
                num_train_timesteps=num_train_timesteps,
            )
        return diffusion.timestep_probabilities(bias, span, num_train_timesteps)


def _check_range(timestep_range: Any) -> None:
    if timestep_range is None:
        return
    if isinstance(timestep_range, Sequence) and len(timestep_range) == 2:
        first, end = timestep_range
        if all(isinstance(side, int) for side in timestep_range):
            if 0 <= first < end:
                return
    raise ValueError(
        "`timestep_range` must be two integers, the first timestep and the "
        "end, with 0 <= first < end <= 1000: 0 500 for example. Received: "
        f"timestep_range={timestep_range!r}."
    )
