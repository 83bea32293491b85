"""From flags to the trainer and the callbacks of one run.

Names no option of what is trained: groups of them are handed on whole.
TensorFlow is imported inside the functions.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import TYPE_CHECKING
from typing import Any

import keras_sdft
from keras_sdft import runs
from keras_sdft import training

if TYPE_CHECKING:
    from keras_sdft.cli.command import Options
    from keras_sdft.cli.training_data import Data


def check_training(options: Options) -> dict[str, Any]:
    """Checks groups of options together, and against the model.

    What one group can say is wrong it says itself. Reads at most the heads
    of weight files.

    Returns:
        Dict, the model's spec.

    Raises:
        ValueError: If two options contradict each other, or there is no
            such model, or it cannot be trained so.
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
    spec = keras_sdft.models.describe(options.model)["spec"]
    options.of(training.Objective).resolve(
        spec["prediction_type"], spec.get("zero_terminal_snr", False)
    )
    return spec


def resolve_defaults(options: Options) -> Options:
    """Returns the options with numbers for learning rate and decay.

    What the optimizer's own are, or those of the parts that learn, is saved
    with the run.
    """
    if "learning_rate" not in options.given:
        parts = [options.of(group) for group in training.PART_OPTIONS]
        rates = [getattr(p, "default_learning_rate", None) for p in parts]
        rates = [rate for rate in rates if rate is not None]
        if rates:
            options = options.replace(learning_rate=rates[0])
    resolved = options.of(training.OptimizerOptions).resolved
    return options.replace(**dataclasses.asdict(resolved))


def parts_of(
    options: Options, make_optimizer: Callable[[float], Any] | None = None
) -> list[Any]:
    """Returns what learns, a list of `keras_sdft.training.Part`.

    Args:
        options: The options of any kind of training.
        make_optimizer: Function that makes an optimizer of a learning rate.
            Without it the parts can be looked at, and not trained.
    """
    make_optimizer = make_optimizer or (lambda rate: None)
    parts: list[Any] = [training.DiffusionModel()]
    for group in training.PART_OPTIONS:
        parts = options.of(group).apply(parts, make_optimizer)
    return parts


def needs_captions(options: Options) -> bool:
    """Whether captions are encoded in every step, as their encoder learns."""
    return any("text_encoder" in part.networks for part in parts_of(options))


def make_trainer(options: Options, sd: Any, steps: int) -> Any:
    """Makes and compiles the trainer.

    Args:
        options: The options of any kind of training.
        sd: `keras_sdft.StableDiffusion`.
        steps: Integer, optimizer steps of the run, for schedules.
    """
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
    trainer.compile(make_optimizer(), jit_compile=options.jit_compile)
    return trainer


def interruption() -> Any:
    """Returns what waits for INT and TERM while a run trains."""
    from keras_sdft import callbacks

    return callbacks.Interruption(
        "Finishing this step; then a checkpoint and the weights are written. "
        "A second signal ends at once."
    )


def make_callbacks(
    options: Options, run: Any, data: Data, interruption: Any = None
) -> list[Any]:
    """Makes the callbacks of a run; none writes before `fit`.

    Args:
        options: The options of any kind of training.
        run: `keras_sdft.runs.RunDirectory`.
        data: `Data`.
        interruption: `keras_sdft.callbacks.Interruption`.

    Returns:
        List of Keras callbacks, in the order in which they depend on each
        other's logs; the last one shows the progress.
    """

    from keras_sdft import callbacks

    result = [
        # First, so that nothing is made or saved of weights that broke.
        callbacks.StopOnNaN(),
        callbacks.Throughput(data.images_per_step),
        callbacks.StopAtStep(data.steps),
        callbacks.HistoryFile(run.history),
        callbacks.TensorBoard(run.logs, options.log_every_steps),
    ]
    if options.preview_prompts:
        result.append(
            callbacks.Previews(
                options.preview_prompts,
                run.previews,
                every_steps=options.preview_every_steps,
                num_steps=options.preview_num_steps,
                guidance_scale=options.preview_guidance_scale,
                seed=options.seed,
                tensorboard_directory=run.logs / "previews",
            )
        )
    if options.save_every_steps:
        result.append(callbacks.Export(run.weights, options.save_every_steps))
    best = options.keep_best
    if best is not None and best.startswith("val_") and not data.validation:
        raise ValueError(
            f"`keep_best` is {best!r}, and the run validates on nothing. Give "
            "validation data, or leave `keep_best` out."
        )
    by_steps = options.checkpoint_every_steps
    by_minutes = None if by_steps else options.checkpoint_every_minutes
    keeper = callbacks.Checkpoint(
        run.checkpoints,
        every_steps=by_steps,
        every_minutes=by_minutes or None,
        keep_last=options.keep_checkpoints,
        keep_best=options.keep_best,
        best_directory=run.best,
        interruption=interruption,
        about={"data": runs.data_state(data.report)},
    )
    progress = callbacks.Progress(data.steps, data.images_per_step)
    return [*result, keeper, progress]


def fit(
    options: Options, trainer: Any, data: Data, callbacks: list[Any]
) -> Any:
    """Trains for exactly `data.steps` steps.

    Returns:
        A `keras.callbacks.History`.

    Raises:
        ValueError: If the loss became NaN or infinite.
    """
    try:
        return trainer.fit(
            data.training,
            epochs=data.epochs,
            validation_data=data.validation,
            validation_freq=data.validation_freq,
            callbacks=callbacks,
            verbose=0,
            # The data is shuffled already; Keras warns if it is asked to.
            shuffle=False,
        )
    finally:
        callbacks[-1].close()
