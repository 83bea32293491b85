"""A trainer small enough to fit in a second, with a trainer's public face."""

import contextlib

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_sdft import models
from keras_sdft.keras_internals import StepFunctionHook
from keras_sdft.training import checkpoint
from keras_sdft.training.optimizer_groups import learning_rate_of
from keras_sdft.training.tensorflow.step_function import step_function


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


class FakeTrainer(StepFunctionHook, keras.Model):
    writes_files = True

    def __init__(self):
        super().__init__()
        self.progress = checkpoint.Progress()
        self.dense = keras.layers.Dense(1, kernel_initializer="ones")
        self.averaged = False
        self.exports = []
        self.stable_diffusion = FakeStableDiffusion(self)

    def call(self, inputs):
        return self.dense(inputs)

    def make_step_function(self, step):
        return step_function(self, step, trains=step == self.train_step)

    def fit(self, *args, **kwargs):
        with checkpoint.going_on(self, kwargs):
            return super().fit(*args, **kwargs)

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
