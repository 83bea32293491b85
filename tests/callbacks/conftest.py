"""A trainer small enough to fit in a second, with a trainer's public face."""

import contextlib

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_sdft import models
from keras_sdft.training.optimizer_groups import learning_rate_of


class FakeStableDiffusion:
    """Paints each image in one colour that tells what it was asked for."""

    spec = models.PRESETS["sd1.4"].spec

    def __init__(self, trainer):
        self.trainer = trainer
        self.calls = []

    def text_to_image(self, prompt, **arguments):
        arguments["averaged"] = self.trainer.averaged
        self.calls.append((prompt, arguments))
        images = np.zeros((arguments["batch_size"], 16, 24, 3), np.uint8)
        images[..., 0] = arguments["seed"]
        return images


class FakeTrainer(keras.Model):
    def __init__(self):
        super().__init__()
        self.dense = keras.layers.Dense(1, kernel_initializer="ones")
        self.averaged = False
        self.exports = []
        self.stable_diffusion = FakeStableDiffusion(self)

    def call(self, inputs):
        return self.dense(inputs)

    @contextlib.contextmanager
    def averaged_weights(self):
        self.averaged = True
        try:
            yield
        finally:
            self.averaged = False

    def current_learning_rate(self):
        return learning_rate_of(self.optimizer)

    def export(self, directory, overwrite=False):
        step = int(self.optimizer.iterations)
        self.exports.append((directory, overwrite, step))


@pytest.fixture
def trainer():
    trainer = FakeTrainer()
    trainer.compile(optimizer=keras.optimizers.SGD(0.125), loss="mse")
    return trainer


@pytest.fixture
def batches():
    """Four batches of two rows."""
    x = np.ones((8, 3), np.float32)
    return tf.data.Dataset.from_tensor_slices((x, x[:, :1])).batch(2)
