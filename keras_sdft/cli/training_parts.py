"""From flags to the trainer, its optimizer and the callbacks of one run.

The only place that knows which flag becomes which argument of the training
room. TensorFlow is imported inside the functions.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING
from typing import Any

from keras_sdft.cli.checks import weighting

if TYPE_CHECKING:
    from keras_sdft.cli.command import Options
    from keras_sdft.cli.run_directory import RunDirectory
    from keras_sdft.cli.training_data import Data

_LIKE_ADAM = ("adamw", "schedule_free_adamw")


def resolve_defaults(options: Options) -> Options:
    """Fills in the learning rate and the decay that the optimizer has.

    Args:
        options: The options of any kind of training.

    Returns:
        The same with numbers for both, as they are saved with the run.
    """
    from keras_sdft import training

    default = training.optimizers.get(options.optimizer)
    rate, decay = options.learning_rate, options.weight_decay
    if rate is None:
        # A float32 on the device: 1e-5 reads as 9.999999747378752e-06.
        rate = float(f"{float(default.learning_rate):.7g}")
    if decay is None:
        decay = float(default.weight_decay or 0.0)
    return options.replace(learning_rate=rate, weight_decay=decay)


def make_trainer(options: Options, sd: Any, steps: int) -> Any:
    """Makes and compiles the trainer.

    Args:
        options: The options of any kind of training, from `resolve_defaults`.
        sd: `keras_sdft.StableDiffusion`.
        steps: Int, optimizer steps of the run, for schedules.

    Returns:
        A compiled `keras_sdft.Trainer`.

    Raises:
        ValueError: If an option is out of its range.
    """
    import keras_sdft

    span = options.timestep_range
    trainer = keras_sdft.Trainer(
        sd,
        prediction_type=options.prediction_type,
        change_prediction_type=options.change_prediction_type,
        zero_terminal_snr=options.zero_terminal_snr,
        weighting=weighting(options),
        loss=options.loss,
        huber_delta=options.huber_delta,
        offset_noise=options.offset_noise,
        multires_noise_iterations=options.multires_noise_iterations,
        multires_noise_discount=options.multires_noise_discount,
        input_perturbation=options.input_perturbation,
        timestep_range=None if span is None else (span[0], span[1]),
        timestep_bias=_timestep_bias(options),
        train_text_encoder=options.train_text_encoder,
        text_encoder_stop_step=options.text_encoder_stop_step,
        gradient_accumulation_steps=options.gradient_accumulation_steps,
        ema_decay=options.ema_decay,
        seed=options.seed,
    )
    rate = float(options.learning_rate or 0.0)
    own = options.text_encoder_learning_rate
    second = None if own is None else make_optimizer(options, own, steps)
    trainer.compile(
        optimizer=make_optimizer(options, rate, steps),
        text_encoder_optimizer=second,
        jit_compile=options.jit_compile,
    )
    return trainer


def make_optimizer(options: Options, rate: float, steps: int) -> Any:
    """Makes an optimizer with its schedule.

    Args:
        options: The options of any kind of training, from `resolve_defaults`.
        rate: Float > 0, the highest learning rate.
        steps: Int, optimizer steps of the run.

    Returns:
        A Keras optimizer.

    Raises:
        ValueError: If an option is out of its range.
    """
    from keras_sdft import training

    arguments: dict[str, Any] = {}
    if options.optimizer in _LIKE_ADAM:
        arguments = {
            "beta_1": options.adam_beta1,
            "beta_2": options.adam_beta2,
            "epsilon": options.adam_epsilon,
        }
    return training.optimizers.get(
        options.optimizer,
        learning_rate=_schedule(options, rate, steps),
        weight_decay=options.weight_decay,
        global_clipnorm=options.max_grad_norm,
        **arguments,
    )


def _schedule(options: Options, rate: float, steps: int) -> Any:
    from keras_sdft import training

    if options.lr_scheduler == "constant" and not options.lr_warmup_steps:
        return rate
    # The text encoder's own rate falls in the same proportion.
    end = options.lr_end * rate / float(options.learning_rate or rate)
    return training.schedules.get(
        options.lr_scheduler,
        rate,
        num_steps=steps,
        warmup_steps=options.lr_warmup_steps,
        num_cycles=options.lr_num_cycles,
        power=options.lr_power,
        end_learning_rate=end,
    )


def _timestep_bias(options: Options) -> Any:
    from keras_sdft import diffusion

    if options.timestep_bias_strategy == "none":
        return None
    return diffusion.timestep_bias(
        options.timestep_bias_strategy,
        multiplier=options.timestep_bias_multiplier,
        portion=options.timestep_bias_portion,
        begin=options.timestep_bias_begin,
        end=options.timestep_bias_end,
    )


def make_callbacks(
    options: Options, run: RunDirectory, data: Data
) -> list[Any]:
    """Makes the callbacks of a run; none writes before `fit`.

    Args:
        options: The options of any kind of training.
        run: `RunDirectory`.
        data: `Data`.

    Returns:
        List of Keras callbacks, in the order in which they depend on each
        other's logs.

    Raises:
        ValueError: If an option is out of its range.
    """
    import keras

    from keras_sdft import callbacks

    result = [
        # First, so that nothing is drawn or saved from weights that broke.
        keras.callbacks.TerminateOnNaN(raise_error=True),
        callbacks.Throughput(data.images_per_step),
        callbacks.StopAtStep(data.steps),
        callbacks.HistoryFile(run.history),
        keras.callbacks.TensorBoard(
            os.fspath(run.logs),
            write_graph=False,
            update_freq=options.log_every_steps,
        ),
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
    result.append(callbacks.Progress(data.steps, data.images_per_step))
    return result


def fit(
    options: Options, trainer: Any, data: Data, callbacks: list[Any]
) -> Any:
    """Trains for exactly `data.steps` steps.

    Args:
        options: The options of any kind of training.
        trainer: A compiled `keras_sdft.Trainer`.
        data: `Data`.
        callbacks: List of `make_callbacks`.

    Returns:
        A `keras.callbacks.History`.

    Raises:
        ValueError: If the loss became NaN or infinite.
    """
    try:
        return trainer.fit(
            data.training,
            epochs=data.epochs,
            steps_per_epoch=data.steps_per_epoch if data.endless else None,
            validation_data=data.validation,
            validation_freq=getattr(options, "validation_every_epochs", 1),
            callbacks=callbacks,
            verbose=0,
            # The data is shuffled already; Keras warns if it is asked to.
            shuffle=False,
        )
    except RuntimeError as error:
        if "NaN or Inf loss" not in str(error):
            raise
        raise ValueError(
            "The loss became NaN or infinite, so training stopped and no "
            "weights were written at its end. Try a lower `learning_rate`"
            f" (it was {options.learning_rate}), or `mixed_precision: no` "
            f"(it was {options.mixed_precision})."
        ) from error
    finally:
        callbacks[-1].close()
