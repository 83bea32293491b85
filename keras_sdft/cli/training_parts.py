"""From flags to the data, the trainer and the callbacks of one run.

The only place that knows which flag becomes which argument. TensorFlow is
imported inside the functions.
"""

from __future__ import annotations

import dataclasses
import math
import os
from typing import TYPE_CHECKING
from typing import Any

if TYPE_CHECKING:
    from keras_sdft.cli.run_directory import RunDirectory
    from keras_sdft.cli.train import TrainOptions


@dataclasses.dataclass(frozen=True)
class Data:
    """The data of a run, and how long it is.

    Attributes:
        training: `tf.data.Dataset` of the batches of one epoch.
        validation: The same for validation, or `None`.
        report: `keras_sdft.data.Unreadable`.
        images_per_step: Int, images in one optimizer step.
        steps_per_epoch: Int, optimizer steps in one pass over the data.
        steps: Int, optimizer steps of the run.
    """

    training: Any
    validation: Any
    report: Any
    images_per_step: int
    steps_per_epoch: int
    steps: int

    @property
    def epochs(self) -> int:
        """Passes that `steps` need; the last one may be cut short."""
        return math.ceil(self.steps / self.steps_per_epoch)


def load_data(options: TrainOptions, sd: Any) -> Data:
    """Reads training and validation data.

    Args:
        options: `TrainOptions`.
        sd: `keras_sdft.StableDiffusion`, for its tokenizer and image size.

    Returns:
        `Data`.

    Raises:
        ValueError: If the data breaks its convention.
        FileNotFoundError: If it is missing.
    """
    from keras_sdft import data

    report = data.Unreadable()
    common: dict[str, Any] = {
        "resolution": (sd.img_height, sd.img_width),
        "seed": options.seed,
        "image_column": options.image_column,
        "caption_column": options.caption_column,
        "caption_template": options.caption_template,
        "max_unreadable": options.max_unreadable,
        "report": report,
    }
    images = options.batch_size * options.gradient_accumulation_steps
    training = data.load(
        options.data,
        sd.tokenizer,
        batch_size=images,
        split=options.split,
        crop=options.crop,
        horizontal_flip=options.horizontal_flip,
        caption_dropout=options.caption_dropout,
        **common,
    )
    validation = None
    if options.validation_data is not None:
        validation = data.load(
            options.validation_data,
            sd.tokenizer,
            batch_size=options.batch_size,
            shuffle=False,
            drop_remainder=False,
            **common,
        )
    per_epoch = int(training.cardinality())
    steps = options.max_train_steps
    if steps is None:
        steps = options.num_train_epochs * per_epoch
    return Data(training, validation, report, images, per_epoch, steps)


def make_trainer(options: TrainOptions, sd: Any) -> Any:
    """Makes and compiles the trainer.

    Args:
        options: `TrainOptions`.
        sd: `keras_sdft.StableDiffusion`.

    Returns:
        A compiled `keras_sdft.Trainer`.

    Raises:
        ValueError: If an option is out of its range.
    """
    import keras_sdft

    trainer = keras_sdft.Trainer(
        sd,
        prediction_type=options.prediction_type,
        weighting=options.weighting,
        offset_noise=options.offset_noise,
        gradient_accumulation_steps=options.gradient_accumulation_steps,
        ema_decay=options.ema_decay,
        seed=options.seed,
    )
    optimizer = keras_sdft.training.AdamW(
        learning_rate=options.learning_rate,
        weight_decay=options.weight_decay,
        beta_1=options.adam_beta1,
        beta_2=options.adam_beta2,
        epsilon=options.adam_epsilon,
        global_clipnorm=options.max_grad_norm,
    )
    trainer.compile(optimizer=optimizer, jit_compile=options.jit_compile)
    return trainer


def make_callbacks(
    options: TrainOptions, run: RunDirectory, data: Data
) -> list[Any]:
    """Makes the callbacks of a run; none writes before `fit`.

    Args:
        options: `TrainOptions`.
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
    options: TrainOptions, trainer: Any, data: Data, callbacks: list[Any]
) -> Any:
    """Trains for exactly `data.steps` steps.

    Args:
        options: `TrainOptions`.
        trainer: A compiled `keras_sdft.Trainer`.
        data: `Data`.
        callbacks: List of `make_callbacks`.

    Returns:
        A `keras.callbacks.History`.

    Raises:
        ValueError: If the loss is no longer a number.
    """
    try:
        return trainer.fit(
            data.training,
            epochs=data.epochs,
            validation_data=data.validation,
            validation_freq=options.validation_every_epochs,
            callbacks=callbacks,
            verbose=0,
            # The data is shuffled already; Keras warns if it is asked to.
            shuffle=False,
        )
    except RuntimeError as error:
        if "NaN or Inf loss" not in str(error):
            raise
        raise ValueError(
            "The loss is no longer a number, so training stopped and no "
            "weights were written at its end. Try a lower `learning_rate`"
            f" (it was {options.learning_rate}), or `mixed_precision: no` "
            f"(it was {options.mixed_precision})."
        ) from error
    finally:
        callbacks[-1].close()
