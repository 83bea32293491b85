"""What the flags alone can say wrong: checked before anything is loaded.

Numbers out of their range, flags that contradict each other, and what the
model cannot be trained for. Reads at most the heads of weight files.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import TYPE_CHECKING
from typing import Any

from keras_sdft.cli.options import TRAINING

if TYPE_CHECKING:
    from keras_sdft.cli.command import Options

_COUNTS = ("text_encoder_stop_step", "lr_num_cycles")
_POSITIVE = (
    "learning_rate",
    "text_encoder_learning_rate",
    "adam_epsilon",
    "max_grad_norm",
    "lr_power",
    "snr_gamma",
    "p2_gamma",
    "huber_delta",
    "timestep_bias_multiplier",
)
_NOT_NEGATIVE = (
    "weight_decay",
    "lr_warmup_steps",
    "lr_end",
    "offset_noise",
    "multires_noise_iterations",
    "input_perturbation",
)
_SHARES = ("adam_beta1", "adam_beta2")

# A flag that counts only where another one has one of these values; no
# values stand for any but none.
_COUNTS_WITH: dict[str, tuple[str, tuple[Any, ...]]] = {
    "huber_delta": ("loss", ("huber",)),
    "snr_gamma": ("weighting", ("min_snr",)),
    "p2_gamma": ("weighting", ("p2",)),
    "multires_noise_discount": ("multires_noise_iterations", ()),
    "timestep_bias_multiplier": (
        "timestep_bias_strategy",
        ("earlier", "later", "range"),
    ),
    "timestep_bias_portion": ("timestep_bias_strategy", ("earlier", "later")),
    "timestep_bias_begin": ("timestep_bias_strategy", ("range",)),
    "timestep_bias_end": ("timestep_bias_strategy", ("range",)),
    "change_prediction_type": ("prediction_type", ()),
    "text_encoder_learning_rate": ("train_text_encoder", (True,)),
    "text_encoder_stop_step": ("train_text_encoder", (True,)),
    "lr_num_cycles": ("lr_scheduler", ("cosine_with_restarts",)),
    "lr_power": ("lr_scheduler", ("polynomial",)),
    "lr_end": ("lr_scheduler", ("polynomial",)),
    "adam_beta1": ("optimizer", ("adamw", "schedule_free_adamw")),
    "adam_beta2": ("optimizer", ("adamw", "schedule_free_adamw")),
    "adam_epsilon": ("optimizer", ("adamw", "schedule_free_adamw")),
}

_DEFAULTS = {
    field.name: field.default
    for group in TRAINING
    for field in dataclasses.fields(group)
}


def check(options: Options) -> None:
    """Checks what needs no model and no data.

    Args:
        options: The options of any kind of training.

    Raises:
        ValueError: If an option is out of its range, or two contradict each
            other.
    """
    _check_numbers(options)
    _check_timesteps(options)
    _check_idle(options)
    _check_optimizer(options)


def _check_numbers(options: Options) -> None:
    rules = (
        (_COUNTS, ">= 1", lambda value: value >= 1),
        (_POSITIVE, "> 0", lambda value: 0 < value < math.inf),
        (_NOT_NEGATIVE, ">= 0", lambda value: 0 <= value < math.inf),
        (_SHARES, "in [0, 1)", lambda value: 0 <= value < 1),
    )
    for names, wanted, holds in rules:
        for name in names:
            value = getattr(options, name, None)
            if value is not None and not holds(value):
                raise ValueError(
                    f"`{name}` must be {wanted}. Received: {value}."
                )


def _check_timesteps(options: Options) -> None:
    span = options.timestep_range
    if span is not None and len(span) != 2:
        raise ValueError(
            "`timestep_range` must be two numbers, the first timestep and "
            f"the end: `--timestep_range 0 500`. Received: {span}."
        )
    strategy = options.timestep_bias_strategy
    if strategy != "none" and options.timestep_bias_multiplier == 1.0:
        raise ValueError(
            f"`timestep_bias_strategy={strategy}` changes nothing while "
            "`timestep_bias_multiplier` is 1.0. Say how much more often "
            "these timesteps are to be drawn, 2.0 for example."
        )


def _check_idle(options: Options) -> None:
    """Refuses flags that would have no effect."""

    for name, (owner, values) in _COUNTS_WITH.items():
        if not hasattr(options, name):
            continue
        value, found = getattr(options, name), getattr(options, owner)
        fits = found in values if values else bool(found)
        if value == _DEFAULTS[name] or fits:
            continue
        wanted = " or ".join(f"`--{owner} {value}`" for value in values)
        if values in ((), (True,)):
            wanted = f"`--{owner}`"
        raise ValueError(
            f"`{name}` has no effect without {wanted}. Received: "
            f"{name}={value}, {owner}={found}. Add the one or leave out the "
            "other."
        )


def _check_optimizer(options: Options) -> None:
    warmup, steps = options.lr_warmup_steps, options.max_train_steps
    if steps is not None and warmup >= steps:
        raise ValueError(
            "`lr_warmup_steps` must be less than `max_train_steps`. "
            f"Received: lr_warmup_steps={warmup}, max_train_steps={steps}."
        )
    if options.optimizer != "schedule_free_adamw":
        return
    if options.lr_scheduler != "constant":
        raise ValueError(
            "`optimizer=schedule_free_adamw` takes the place of a schedule. "
            f"Received: lr_scheduler={options.lr_scheduler}. Leave it out; "
            "`lr_warmup_steps` may stay."
        )
    if options.ema_decay is not None:
        raise ValueError(
            "`optimizer=schedule_free_adamw` keeps an average of the weights "
            f"by itself. Received: ema_decay={options.ema_decay}. Leave it "
            "out."
        )


def check_model(options: Options) -> dict[str, Any]:
    """Checks the objective against what the model says of itself.

    Args:
        options: The options of any kind of training.

    Returns:
        Dict, the model's spec.

    Raises:
        ValueError: If there is no such model, or it cannot be trained so.
    """
    from keras_sdft import diffusion
    from keras_sdft import models

    spec = models.describe(options.model)["spec"]
    own, asked = spec["prediction_type"], options.prediction_type
    if asked and own and asked != own and not options.change_prediction_type:
        raise ValueError(
            f"`prediction_type={asked}` was asked of a model that predicts "
            f"{own!r}: {options.model}. Leave `prediction_type` out. To train "
            "it to a new answer, which takes far longer than a fine-tune, "
            "add `--change_prediction_type`."
        )
    answer = asked or own
    zero = options.zero_terminal_snr
    if zero is None:
        zero = spec.get("zero_terminal_snr", False)
    if zero and answer == "epsilon":
        raise ValueError(
            "`zero_terminal_snr` needs a model that predicts "
            f"'v_prediction'; {options.model} predicts 'epsilon'. At pure "
            "noise the noise is the input itself, and nothing is learned."
        )
    if answer is not None:
        snr = diffusion.NoiseSchedule(zero_terminal_snr=bool(zero)).snr
        diffusion.weighting_table(weighting(options), snr, answer)
    return spec


def weighting(options: Options) -> Any:
    """Returns what `Trainer(weighting=)` takes."""
    from keras_sdft import diffusion

    if options.weighting == "min_snr" and options.snr_gamma is not None:
        return functools.partial(diffusion.min_snr, gamma=options.snr_gamma)
    if options.weighting == "p2" and options.p2_gamma is not None:
        return functools.partial(diffusion.p2, gamma=options.p2_gamma)
    return options.weighting
