"""Optimizers by name, and the options that choose one.

Imports neither Keras nor TensorFlow before an optimizer is made.
"""

import dataclasses
import typing
from typing import Any
from typing import Literal

from keras_sdft import checks

OptimizerName = Literal[
    "adamw", "adafactor", "lion", "muon", "schedule_free_adamw"
]
Scheduler = Literal[
    "constant", "linear", "cosine", "cosine_with_restarts", "polynomial"
]
OPTIMIZERS = tuple(sorted(typing.get_args(OptimizerName)))
# The learning rate and the weight decay to begin with. Adafactor's rate is
# relative to a weight's own size; Lion steps by signs, so that a tenth of
# AdamW's rate is as far, and ten times its decay as strong.
_DEFAULTS = {
    "adafactor": (5e-4, 0.0),
    "adamw": (1e-5, 1e-2),
    "lion": (1e-6, 1e-1),
    "muon": (1e-5, 1e-2),
    "schedule_free_adamw": (1e-5, 1e-2),
}
_LIKE_ADAM = ("adamw", "schedule_free_adamw")


@dataclasses.dataclass(frozen=True, kw_only=True)
class OptimizerOptions:
    """The optimizer: how weights follow gradients.

    Args:
        optimizer: Which one.
        learning_rate: Step size. Null for the optimizer's own, 1e-5 for
            adamw, muon and schedule_free_adamw, 1e-6 for lion, 5e-4 for
            adafactor.
        lr_scheduler: Course of the learning rate over the run.
        lr_warmup_steps: Optimizer steps of linear rise from 0 before it.
        lr_num_cycles: How often cosine_with_restarts starts.
        lr_power: Exponent of polynomial.
        lr_end: Learning rate that polynomial ends at.
        weight_decay: Decoupled weight decay. Null for the optimizer's
            own, 1e-2 for adamw, muon and schedule_free_adamw, 1e-1 for
            lion, 0 for adafactor.
        adam_beta1: Decay of the first moment, of adamw and
            schedule_free_adamw.
        adam_beta2: Decay of the second moment.
        adam_epsilon: Added to the denominator.
        max_grad_norm: Ceiling on the norm of all gradients together; null
            for none.

    Raises:
        ValueError: If an option is out of its range, has no effect, or
            contradicts another.
    """

    optimizer: OptimizerName = "adamw"
    learning_rate: float | None = None
    lr_scheduler: Scheduler = "constant"
    lr_warmup_steps: int = 0
    lr_num_cycles: int = 1
    lr_power: float = 1.0
    lr_end: float = 1e-7
    weight_decay: float | None = None
    adam_beta1: float = 0.9
    adam_beta2: float = 0.999
    adam_epsilon: float = 1e-8
    max_grad_norm: float | None = 1.0

    def __post_init__(self) -> None:
        checks.one_of("optimizer", self.optimizer, OPTIMIZERS)
        names = typing.get_args(Scheduler)
        if self.lr_scheduler == "constant_with_warmup":
            raise ValueError(
                "`lr_scheduler` is 'constant' here, and `lr_warmup_steps` its "
                "warm-up. Received: lr_scheduler='constant_with_warmup'."
            )
        checks.one_of("lr_scheduler", self.lr_scheduler, names)
        if self.learning_rate is not None:
            checks.number("learning_rate", self.learning_rate, above=0)
        if self.weight_decay is not None:
            checks.number("weight_decay", self.weight_decay, 0)
        if self.max_grad_norm is not None:
            checks.number("max_grad_norm", self.max_grad_norm, above=0)
        checks.integer("lr_warmup_steps", self.lr_warmup_steps, 0)
        checks.integer("lr_num_cycles", self.lr_num_cycles, 1)
        checks.number("lr_power", self.lr_power, above=0)
        checks.number("lr_end", self.lr_end, 0)
        for name in ("adam_beta1", "adam_beta2"):
            checks.number(name, getattr(self, name), 0, below=1)
        checks.number("adam_epsilon", self.adam_epsilon, above=0)
        self._check_schedule()
        adam = ("adam_beta1", "adam_beta2", "adam_epsilon")
        checks.effective(self, adam, "optimizer", *_LIKE_ADAM)

    def _check_schedule(self) -> None:
        names = ["lr_num_cycles"]
        checks.effective(self, names, "lr_scheduler", "cosine_with_restarts")
        names = ["lr_power", "lr_end"]
        checks.effective(self, names, "lr_scheduler", "polynomial")
        rate = self.resolved.learning_rate
        if self.lr_scheduler == "polynomial" and not self.lr_end < rate:
            raise ValueError(
                "`lr_end` must be less than `learning_rate`. Received: "
                f"lr_end={self.lr_end}, learning_rate={rate}."
            )
        if self.is_schedule_free and self.lr_scheduler != "constant":
            raise ValueError(
                f"`optimizer={self.optimizer}` takes the place of a "
                f"schedule. Received: lr_scheduler={self.lr_scheduler}. "
                "Leave it out; `lr_warmup_steps` may stay."
            )

    @property
    def is_schedule_free(self) -> bool:
        """Whether the optimizer averages the weights by itself."""
        return self.optimizer == "schedule_free_adamw"

    @property
    def resolved(self) -> Any:
        """The same options, with numbers for learning rate and decay."""
        rate, decay = _DEFAULTS[self.optimizer]
        found: dict[str, Any] = {"learning_rate": rate, "weight_decay": decay}
        missing = {k: v for k, v in found.items() if getattr(self, k) is None}
        return dataclasses.replace(self, **missing) if missing else self

    def check_steps(self, num_steps: int) -> None:
        """Checks the options against the length of a run.

        Args:
            num_steps: Integer, optimizer steps of the run.

        Raises:
            ValueError: If the warm-up is not shorter than the run.
        """
        if self.lr_warmup_steps >= num_steps:
            raise ValueError(
                "`lr_warmup_steps` must be less than the steps of the run. "
                f"Received: lr_warmup_steps={self.lr_warmup_steps}, and a "
                f"run of {num_steps} steps."
            )

    def make(self, num_steps: int, learning_rate: float | None = None) -> Any:
        """Makes the optimizer, with its schedule.

        Args:
            num_steps: Integer, optimizer steps of the run.
            learning_rate: Float > 0, a highest rate in place of the
                options'; the schedule falls in the same proportion.

        Returns:
            A `keras.optimizers.Optimizer`.

        Raises:
            ValueError: If the warm-up is not shorter than the run.
        """
        arguments: dict[str, Any] = {}
        if self.optimizer in _LIKE_ADAM:
            arguments = {
                "beta_1": self.adam_beta1,
                "beta_2": self.adam_beta2,
                "epsilon": self.adam_epsilon,
            }
        rate = float(self.resolved.learning_rate)
        return get(
            self.optimizer,
            learning_rate=self._schedule(num_steps, learning_rate or rate),
            weight_decay=self.resolved.weight_decay,
            global_clipnorm=self.max_grad_norm,
            **arguments,
        )

    def _schedule(self, num_steps: int, rate: float) -> Any:
        if self.lr_scheduler == "constant" and not self.lr_warmup_steps:
            return rate
        from keras_sdft.training import schedules

        self.check_steps(num_steps)
        return schedules.WarmUpSchedule(
            self.lr_scheduler,
            rate,
            num_steps=num_steps,
            warmup_steps=self.lr_warmup_steps,
            num_cycles=self.lr_num_cycles,
            power=self.lr_power,
            end_learning_rate=self.lr_end
            * rate
            / float(self.resolved.learning_rate),
        )


def get(
    optimizer: Any = None,
    learning_rate: Any = None,
    weight_decay: float | None = None,
    global_clipnorm: float | None = 1.0,
    **kwargs: Any,
) -> Any:
    """Returns an optimizer by name, with defaults for fine-tuning.

    Args:
        optimizer: `"adamw"`, `"adafactor"`, `"lion"`, `"muon"` or
            `"schedule_free_adamw"`; `None` for `"adamw"`; another name that
            Keras knows, for Keras' own defaults; or an optimizer, which is
            returned as it is.
        learning_rate: Float or a `keras.optimizers.schedules` object.
            Defaults to 1e-5; to 1e-6 for Lion, and to 5e-4, times the root
            mean square of each weight, for Adafactor.
        weight_decay: Float >= 0. Defaults to 1e-2; to 1e-1 for Lion, and
            to 0 for Adafactor.
        global_clipnorm: Float, the largest global norm of all gradients
            together; `None` does not clip.
        **kwargs: Further arguments of the optimizer.

    Returns:
        A `keras.optimizers.Optimizer`.

    Raises:
        ValueError: If the name is unknown, or arguments are given with what
            takes none.

    References:
        AdamW: Loshchilov & Hutter, 2019. Adafactor: Shazeer & Stern, 2018.
        Lion: Chen et al., 2023. Muon: Jordan et al., 2024; Liu et al.,
        2025. Schedule-free: Defazio et al., 2024.
    """
    name = "adamw" if optimizer is None else optimizer
    if not isinstance(name, str) or name not in _DEFAULTS:
        if learning_rate is not None or weight_decay is not None or kwargs:
            raise ValueError(
                "Arguments can be given with the names "
                f"{list(OPTIMIZERS)}. Received: optimizer={optimizer!r}."
            )
        return _from_keras(optimizer)
    rate, decay = _DEFAULTS[name]
    arguments = {
        "learning_rate": rate if learning_rate is None else learning_rate,
        "weight_decay": decay if weight_decay is None else weight_decay,
        "global_clipnorm": global_clipnorm,
        **kwargs,
    }
    return _make(name, arguments)


def _make(name: str, arguments: dict[str, Any]) -> Any:
    import keras

    from keras_sdft import training

    if name == "adafactor":
        # Its own relative rate would override the one that is asked for.
        return keras.optimizers.Adafactor(relative_step=False, **arguments)
    if name == "muon":
        decay = arguments["weight_decay"]
        return keras.optimizers.Muon(adam_weight_decay=decay, **arguments)
    if name == "lion":
        return keras.optimizers.Lion(**arguments)
    if name == "schedule_free_adamw":
        return training.ScheduleFreeAdamW(**arguments)
    return training.AdamW(**arguments)


def _from_keras(optimizer: Any) -> Any:
    import keras

    try:
        return keras.optimizers.get(optimizer)
    except ValueError:
        if not isinstance(optimizer, str):
            raise
    raise ValueError(
        f"`optimizer` must be a Keras optimizer, its name, or one of "
        f"{list(OPTIMIZERS)}. Received: {optimizer!r}."
        f"{checks.did_you_mean(optimizer, _DEFAULTS)}"
    )
