import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import ops

from keras_sdft.models.kernels.custom_gradients import gated_gelu
from keras_sdft.models.kernels.custom_gradients import group_normalization
from keras_sdft.models.kernels.custom_gradients import layer_normalization


def by_hand(x, gamma, beta, epsilon, swish=False):
    """Of `(B, places, groups, size)` over places and size, in float64."""
    mean = ops.mean(x, axis=(1, 3), keepdims=True)
    variance = ops.mean(ops.square(x - mean), axis=(1, 3), keepdims=True)
    y = (x - mean) / ops.sqrt(variance + epsilon) * gamma + beta
    return y * ops.sigmoid(y) if swish else y


def value_and_gradients(function, *inputs, weights):
    inputs = [tf.constant(x) for x in inputs]
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        y = function(*inputs)
        loss = tf.reduce_sum(y * tf.cast(weights, y.dtype))
    return [y, *tape.gradient(loss, inputs)]


def relative_error(found, expected):
    found, expected = np.asarray(found, "float64"), np.asarray(expected)
    return np.linalg.norm(found - expected) / np.linalg.norm(expected)


def draw(*shape, seed, mean=0.0):
    values = np.random.default_rng(seed).normal(mean, 1.0, shape)
    return values.astype("float32")


@pytest.mark.parametrize("swish", [False, True])
@pytest.mark.parametrize("mean", [0.0, 10.0])
def test_group_normalization_equals_its_definition(swish, mean):
    x = draw(2, 5, 6, 12, seed=0, mean=mean)
    gamma, beta = draw(12, seed=1), draw(12, seed=2)
    weights = draw(2, 5, 6, 12, seed=3)
    ours = value_and_gradients(
        lambda *inputs: group_normalization(*inputs, 3, 1e-5, swish),
        x,
        gamma,
        beta,
        weights=weights,
    )

    def definition(x, gamma, beta):
        gamma, beta = (tf.reshape(w, (1, 1, 3, 4)) for w in (gamma, beta))
        x = tf.reshape(x, (2, 30, 3, 4))
        return tf.reshape(by_hand(x, gamma, beta, 1e-5, swish), (2, 5, 6, 12))

    exact = value_and_gradients(
        definition,
        *(array.astype("float64") for array in (x, gamma, beta)),
        weights=weights,
    )
    for a, b in zip(ours, exact, strict=True):
        assert relative_error(a, b) < 1e-5


@pytest.mark.parametrize("mean", [0.0, 10.0])
def test_layer_normalization_equals_its_definition(mean):
    x = draw(14, 12, seed=0, mean=mean)
    gamma, beta = draw(12, seed=1), draw(12, seed=2)
    weights = draw(14, 12, seed=3)
    ours = value_and_gradients(
        lambda *inputs: layer_normalization(*inputs, 1e-5),
        x,
        gamma,
        beta,
        weights=weights,
    )

    def definition(x, gamma, beta):
        x = tf.reshape(x, (14, 1, 1, 12))
        return tf.reshape(by_hand(x, gamma, beta, 1e-5), (14, 12))

    exact = value_and_gradients(
        definition,
        *(array.astype("float64") for array in (x, gamma, beta)),
        weights=weights,
    )
    for a, b in zip(ours, exact, strict=True):
        assert relative_error(a, b) < 1e-5


@pytest.mark.parametrize("swish", [False, True])
def test_half_precision_loses_the_digits_of_its_outputs_alone(swish):
    """In- and outputs are rounded, and nothing in between."""
    x, gamma = draw(2, 30, 1, 12, seed=0, mean=3.0), draw(12, seed=1)
    beta, weights = draw(12, seed=2), draw(2, 30, 1, 12, seed=3)
    x, weights = (
        tf.cast(tf.cast(a, "bfloat16"), "float32") for a in (x, weights)
    )

    def group(*inputs):
        return group_normalization(*inputs, 3, 1e-5, swish)

    def layer(x, gamma, beta):
        return layer_normalization(tf.reshape(x, (60, 12)), gamma, beta, 1e-5)

    for function in (group, layer):
        shape = function(x, gamma, beta).shape
        weight = tf.reshape(weights, shape)
        exact = value_and_gradients(function, x, gamma, beta, weights=weight)
        half = value_and_gradients(
            function, tf.cast(x, "bfloat16"), gamma, beta, weights=weight
        )
        dtypes = ["bfloat16", "bfloat16", "float32", "float32"]
        assert [found.dtype for found in half] == dtypes
        for a, b, limit in zip(
            half, exact, (4e-3, 4e-3, 1e-6, 1e-6), strict=True
        ):
            assert relative_error(tf.cast(a, "float32"), b) < limit


def test_the_gate_equals_its_definition():
    rows, weights = draw(14, 24, seed=0), draw(14, 12, seed=1)
    ours = value_and_gradients(gated_gelu, 2 * rows, weights=weights)

    def definition(rows):
        x, gate = tf.split(rows, 2, axis=-1)
        return x * tf.nn.gelu(gate, approximate=False)

    exact = value_and_gradients(
        definition, 2 * rows.astype("float64"), weights=weights
    )
    for a, b in zip(ours, exact, strict=True):
        assert relative_error(a, b) < 1e-6


def test_sizes_need_not_be_known():
    x = draw(2, 5, 6, 12, seed=0)
    ones, zeros = np.ones(12, "float32"), np.zeros(12, "float32")

    @tf.function(input_signature=[tf.TensorSpec((None, None, None, 12))])
    def normalize(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = group_normalization(x, ones, zeros, 3, 1e-5, swish=True)
        return y, tape.gradient(y, x)

    layer = keras.layers.GroupNormalization(3, epsilon=1e-5)
    y, dx = normalize(x)
    np.testing.assert_allclose(y, ops.silu(layer(x)), atol=1e-5)
    assert dx.shape == x.shape
