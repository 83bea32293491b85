"""From flags to the model and the trainer of a run."""

import dataclasses
import functools
from collections.abc import Callable
from collections.abc import Iterable
from typing import Any

import keras_sdft
from keras_sdft import distribution
from keras_sdft import models
from keras_sdft import training
from keras_sdft.cli.command import Options


def inputs_of(options: Options, names: Iterable[str]) -> dict[str, str | None]:
    """Returns what is read, by flag: the model, and `names` of the data."""
    flags = ("model", "vae", *names, "weights_directory")
    inputs = {name: getattr(options, name) for name in flags}
    # A preset's name is no path, whatever lies there.
    if options.model in models.PRESETS:
        del inputs["model"]
    return inputs


def check_training(options: Options) -> dict[str, Any]:
    """Checks groups of options together, and against the model.

    Reads at most the heads of weight files, and returns the model's spec.
    """
    optimizer = options.of(training.OptimizerOptions)
    if options.max_train_steps is not None:
        optimizer.check_steps(options.max_train_steps)
    if optimizer.is_schedule_free and options.ema_decay is not None:
        raise ValueError(
            f"`optimizer={optimizer.optimizer}` keeps an average of the "
            f"weights by itself. Received: ema_decay={options.ema_decay}. "
            "Leave it out."
        )
    spec = models.describe(options.model)["spec"]
    options.of(training.Objective).resolve(
        spec["prediction_type"], spec.get("zero_terminal_snr", False)
    )
    return spec


def resolve_defaults(options: Options) -> Options:
    """Returns the options with the learning rate and decay that are used."""
    parts = [options.of(group) for group in training.PART_OPTIONS]
    rates = [getattr(p, "default_learning_rate", None) for p in parts]
    rates = [rate for rate in rates if rate is not None]
    if rates and "learning_rate" not in options.given:
        options = options.replace(learning_rate=rates[0])
    resolved = options.of(training.OptimizerOptions).resolved
    return options.replace(**dataclasses.asdict(resolved))


def parts_of(
    options: Options, make_optimizer: Callable[[float], Any] = lambda rate: None
) -> list[Any]:
    """Returns what learns, to be looked at if no optimizer is made for it."""
    parts: list[Any] = [training.DiffusionModel()]
    for group in training.PART_OPTIONS:
        parts = options.of(group).apply(parts, make_optimizer)
    return parts


def load_for_training(options: Options) -> Any:
    """Loads the model that is to be trained.

    A model that declares what it predicts is loaded as that, and may be
    trained towards `prediction_type`; for one that does not, it says both.
    """
    declared = models.describe(options.model)["spec"]
    is_missing = declared["prediction_type"] is None
    sd = options.of(models.ModelOptions).load(
        height=options.resolution,
        width=options.resolution,
        prediction_type=options.prediction_type if is_missing else None,
        remat=options.remat,
    )
    for part in parts_of(options):
        part.add_tokens(sd)
    if distribution.worker()[1] > 1:
        sd.build_parts()
    return sd


def make_trainer(options: Options, sd: Any, steps: int) -> Any:
    """Makes and compiles the trainer of a run of so many optimizer steps."""
    optimizer = options.of(training.OptimizerOptions)
    make_optimizer = functools.partial(optimizer.make, steps)
    trainer = keras_sdft.Trainer(
        sd,
        train=parts_of(options, make_optimizer),
        objective=options.of(training.Objective),
        noise=options.of(training.Noise),
        gradient_accumulation_steps=options.gradient_accumulation_steps,
        ema_decay=options.ema_decay,
        seed=options.seed,
    )
    chosen = options.jit_compile
    trainer.compile(
        make_optimizer(), jit_compile="auto" if chosen is None else chosen
    )
    return trainer
