"""Trainers from flat options, and the steps that they take, for tests."""

import dataclasses
from functools import partial

import tensorflow as tf

from keras_sdft.encoding import latent_shape
from keras_sdft.training import DiffusionModel
from keras_sdft.training import Noise
from keras_sdft.training import Objective
from keras_sdft.training import TextEncoder
from keras_sdft.training import Trainer
from keras_sdft.training.tensorflow.accumulation import accumulate
from keras_sdft.training.tensorflow.train_step import loss_and_gradients


def options_of(kind, options):
    """Takes the fields of a dataclass out of a dict."""
    names = {field.name for field in dataclasses.fields(kind)} & set(options)
    return kind(**{name: options.pop(name) for name in names})


def trainer_of(model, text_encoder=None, **options):
    """Makes a trainer of options by name.

    Args:
        model: A `StableDiffusion`.
        text_encoder: Dict of arguments of the part that learns too, or
            `None`.
        **options: Fields of `Objective` and `Noise`, and arguments.
    """
    objective = options_of(Objective, options)
    noise = options_of(Noise, options)
    train = [DiffusionModel()]
    if text_encoder is not None:
        train.append(TextEncoder(**text_encoder))
    return Trainer(
        model, train=train, objective=objective, noise=noise, **options
    )


def tensors_of(trainer, batch, step=0):
    """Returns a batch with the random numbers of a step."""
    tensors = {name: tf.constant(value) for name, value in batch.items()}
    shape = latent_shape(trainer.stable_diffusion, tensors)
    return {**tensors, **trainer.noise_sampler(shape, step)}


def step_of(trainer, tensors, parts=1, wrap=lambda function: function):
    """Returns loss, gradients and sums of metrics, in micro-batches."""
    function = partial(
        loss_and_gradients,
        trainer.denoising,
        trainer.trainable_variables,
        sums=trainer.loss_metrics.sums,
    )
    return accumulate(wrap(function), tensors, parts)
