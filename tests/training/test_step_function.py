"""The twin of the function here is Keras' own."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_sdft.models.kernels import gate
from keras_sdft.training.tensorflow.step_function import step_function


class Line(keras.Model):
    def __init__(self, single):
        super().__init__()
        self.single = single
        self.dense = keras.layers.Dense(1, kernel_initializer="ones")

    def call(self, inputs):
        return self.dense(inputs)

    def _make_function(self, step):
        if self.single:
            return step_function(self, step)
        return super()._make_function(step)


class Calling(Line):
    """Its work is in a function that is called."""

    def call(self, inputs):
        @tf.function(experimental_attributes={"_noinline": True})
        def apply(inputs, kernel, bias):
            return tf.nn.bias_add(inputs @ kernel, bias)

        return apply(inputs, self.dense.kernel.value, self.dense.bias.value)

    def build(self, shape):
        self.dense.build(shape)


def batches(sizes=(2, 2, 1)):
    x = np.random.default_rng(0).normal(size=(sum(sizes), 3)).astype("float32")
    for part in np.split(x, np.cumsum(sizes)[:-1]):
        yield part, part[:, :1] - 2.0 * part[:, 1:2]


def dataset():
    spec = (tf.TensorSpec((None, 3)), tf.TensorSpec((None, 1)))
    # Of unknown length, so that it ends inside the graph.
    return tf.data.Dataset.from_generator(batches, output_signature=spec)


def trained(single, kind=Line, **options):
    model = kind(single)
    model.compile(keras.optimizers.SGD(0.1), "mse", **options)
    history = model.fit(dataset(), epochs=3, verbose=0, shuffle=False)
    losses = [*history.history["loss"], model.evaluate(dataset(), verbose=0)]
    losses += [model.train_on_batch(*batch) for batch in batches()]
    losses += [model.test_on_batch(*batch) for batch in batches()]
    return losses, model.get_weights()


@pytest.mark.filterwarnings("ignore:.*ran out of data")
@pytest.mark.parametrize(
    "options",
    [
        {"jit_compile": False},
        {"run_eagerly": True},
        {"steps_per_execution": 2, "jit_compile": False},
        {"steps_per_execution": 2, "run_eagerly": True},
    ],
)
def test_trains_as_keras_does(options):
    both = (trained(single, **options) for single in (True, False))
    for found, expected in zip(*both, strict=True):
        for a, b in zip(found, expected, strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.filterwarnings("ignore:.*ran out of data")
def test_trains_as_keras_does_if_it_only_calls():
    found, expected = trained(True, Calling), trained(False, Calling)
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-6)


@pytest.mark.parametrize(
    ("kind", "many", "off", "fewer"),
    [
        (Line, 100, False, True),
        (Calling, 100, True, True),
        (Calling, 4, True, False),
    ],
)
def test_the_graph_optimizer_is_off_for_only_calls_and_few_weights(
    monkeypatch, kind, many, off, fewer
):
    monkeypatch.setattr(gate, "MANY_WEIGHTS", many)
    asked = []
    real = tf.config.optimizer.set_experimental_options
    monkeypatch.setattr(
        tf.config.optimizer,
        "set_experimental_options",
        lambda options: asked.append(options) or real(options),
    )
    model = kind(True)
    model(np.zeros((1, 3), "float32"))
    model.compile("sgd", "mse", jit_compile=False)
    model.train_on_batch(*next(batches()))
    assert ({"disable_meta_optimizer": True} in asked) == off
    # In what is called.
    assert any("remapping" in options for options in asked) == fewer


@pytest.mark.filterwarnings("ignore:.*ran out of data")
def test_the_graph_optimizer_is_left_as_it_was():
    chosen = {"remapping": True, "loop_optimization": False}
    tf.config.optimizer.set_experimental_options(chosen)
    before = tf.config.optimizer.get_experimental_options()
    try:
        # The data ends by an error.
        trained(True, Calling)
        assert tf.config.optimizer.get_experimental_options() == before
    finally:
        nothing = dict.fromkeys(chosen)
        tf.config.optimizer.set_experimental_options(nothing)
