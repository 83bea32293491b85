"""How networks are called: compiled, and without a warning of no use."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_sdft.models import network_calls


@pytest.fixture
def warnings(caplog):
    """Returns how often retracing was warned of since the last call."""

    def warnings():
        count = caplog.text.count("triggered tf.function retracing")
        caplog.clear()
        return count

    logger = tf.get_logger()
    logger.addHandler(caplog.handler)
    yield warnings
    logger.removeHandler(caplog.handler)


def test_several_models_are_not_told_to_be_traced_too_often(warnings):
    def make():
        return tf.function(lambda x: 2 * x)

    for _ in range(6):
        make()(tf.constant(1.0))
    assert warnings() > 0
    for _ in range(6):
        inputs = keras.Input((4,))
        model = keras.Model(inputs, keras.layers.Dense(3)(inputs))
        found = network_calls.predict(model, np.ones((2, 4), "float32"))
        assert found.shape == (2, 3)
    assert warnings() == 0
