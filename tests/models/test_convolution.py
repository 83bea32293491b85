"""The definition of a convolution here is TensorFlow's, in float64."""

import numpy as np
import pytest
import tensorflow as tf

from keras_sdft.models import DiffusionModel
from keras_sdft.models import DiffusionModelSpec
from keras_sdft.models.kernels import convolution
from keras_sdft.models.kernels import gate
from keras_sdft.models.kernels.convolution import convolve


def draw(*shape, seed):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def value_and_gradients(function, images, kernel, weights):
    images, kernel = map(tf.convert_to_tensor, (images, kernel))
    with tf.GradientTape() as tape:
        tape.watch([images, kernel])
        y = function(images, kernel)
        loss = tf.reduce_sum(y * tf.cast(weights, y.dtype))
    return [y, *tape.gradient(loss, [images, kernel])]


def definition(images, kernel):
    return tf.nn.conv2d(images, kernel, strides=1, padding="SAME")


def relative_error(found, expected):
    found, expected = np.asarray(found, "float64"), np.asarray(expected)
    return np.linalg.norm(found - expected) / np.linalg.norm(expected)


@pytest.fixture
def products(monkeypatch):
    """Takes products of matrices at any width; tells how often."""
    calls = []
    original = convolution._neighbourhoods

    def counting(*args):
        calls.append(args[0].shape)
        return original(*args)

    monkeypatch.setattr(gate, "NARROW_CHANNELS", 0)
    monkeypatch.setattr(convolution, "_neighbourhoods", counting)
    return calls


# Forwards and for the kernel's gradient; the latter alone.
@pytest.mark.parametrize(
    "batch_size, most_places, times", [(2, 99, 2), (1, 9, 2), (2, 9, 1)]
)
@pytest.mark.parametrize("size", [1, 3, 5])
def test_equals_its_definition(
    products, monkeypatch, batch_size, most_places, times, size
):
    monkeypatch.setattr(gate, "FEW_PLACES", most_places)
    images = draw(batch_size, 5, 7, 6, seed=0)
    kernel = draw(size, size, 6, 4, seed=1)
    weights = draw(batch_size, 5, 7, 4, seed=2)
    found = value_and_gradients(convolve, images, kernel, weights)
    exact = value_and_gradients(
        definition,
        images.astype("float64"),
        kernel.astype("float64"),
        weights,
    )
    assert len(products) == times
    for a, b in zip(found, exact, strict=True):
        assert a.shape == b.shape
        assert relative_error(a, b) < 1e-6


# Few places, one image, several, and more neighbours than fit.
@pytest.mark.parametrize(
    "batch_size, most_places, fit",
    [(2, 99, 99), (1, 9, 99), (2, 9, 99), (1, 9, 9)],
)
@pytest.mark.parametrize("size", [1, 3])
def test_sizes_that_a_graph_leaves_open(
    products, monkeypatch, batch_size, most_places, fit, size
):
    monkeypatch.setattr(gate, "FEW_PLACES", most_places)
    most = fit * 4 * 6 * size * size
    monkeypatch.setattr(gate, "LARGE_NEIGHBOURHOODS", most)
    images = draw(batch_size, 5, 7, 6, seed=0)
    kernel = draw(size, size, 6, 4, seed=1)
    weights = draw(batch_size, 5, 7, 4, seed=2)
    spec = [
        tf.TensorSpec((batch_size, None, None, 6)),
        tf.TensorSpec(kernel.shape),
        tf.TensorSpec((batch_size, None, None, 4)),
    ]
    graph = tf.function(
        lambda *given: value_and_gradients(convolve, *given),
        input_signature=spec,
    )
    found = graph(images, kernel, weights)
    exact = value_and_gradients(
        definition,
        images.astype("float64"),
        kernel.astype("float64"),
        weights,
    )
    assert len(products) == 2
    for a, b in zip(found, exact, strict=True):
        assert relative_error(a, b) < 1e-6


def test_other_cases_are_tensorflows(products, monkeypatch):
    images, kernel = draw(1, 5, 7, 6, seed=0), draw(3, 3, 6, 4, seed=1)
    convolve(tf.constant(images, "float16"), tf.constant(kernel, "float16"))
    monkeypatch.setattr(gate, "LARGE_NEIGHBOURHOODS", 4 * 5 * 7 * 6 * 9 - 1)
    convolve(tf.constant(images), kernel)
    devices = [tf.config.LogicalDevice("/TPU:0", "TPU")]
    monkeypatch.setattr(tf.config, "list_logical_devices", lambda: devices)
    monkeypatch.setattr(gate, "LARGE_NEIGHBOURHOODS", 2**28)
    convolve(tf.constant(images), kernel)
    assert not products


@pytest.mark.parametrize("graph", [True, False])
def test_a_network_of_them(products, perturb, graph):
    network = DiffusionModel(
        DiffusionModelSpec(
            widths=(8, 12),
            blocks=1,
            num_heads=(2, 4),
            context_width=5,
            groups=4,
        )
    )
    perturb(network)
    shapes = [(2, 4, 8, 4), (2, 8), (2, 77, 5)]
    inputs = [tf.constant(draw(*s, seed=i)) for i, s in enumerate(shapes)]

    def loss_and_gradients():
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(network(inputs, training=True) ** 2)
        return [loss, *tape.gradient(loss, network.trainable_variables)]

    run = tf.function(loss_and_gradients) if graph else loss_and_gradients
    found = run()
    assert products
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gate, "NARROW_CHANNELS", 99)
        expected = loss_and_gradients()
    for a, b in zip(found, expected, strict=True):
        assert relative_error(a, b) < 1e-4
