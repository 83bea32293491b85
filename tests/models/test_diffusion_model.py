import dataclasses

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras_cv.models.stable_diffusion import (
    DiffusionModel as KerasCVDiffusionModel,
)

from keras_sdft.models import DiffusionModel
from keras_sdft.models import DiffusionModelSpec
from tests.keras_cv_unet import narrow_keras_cv_unet

SD1 = DiffusionModelSpec(
    widths=(16, 24),
    blocks=1,
    num_heads=(2, 4),
    context_width=20,
    groups=4,
)
SD2 = dataclasses.replace(SD1, linear_projection=True, num_heads=(1, 2))


def inputs_of(spec, size, batch_size=2, seed=0):
    generator = np.random.default_rng(seed)
    shapes = {
        "latent": (batch_size, size, size, 4),
        "timestep_embedding": (batch_size, spec.timestep_width),
        "context": (batch_size, 77, spec.context_width),
    }
    return {
        name: generator.normal(size=shape).astype("float32")
        for name, shape in shapes.items()
    }


def relative_error(found, expected):
    found, expected = np.asarray(found), np.asarray(expected)
    return np.linalg.norm(found - expected) / np.linalg.norm(expected)


@pytest.fixture(scope="module", params=[SD1, SD2], ids=["sd1", "sd2"])
def pair(request):
    """Ours with KerasCV's numerics, and KerasCV's, on the same weights."""
    spec = request.param
    theirs = narrow_keras_cv_unet(spec, 8)
    request.getfixturevalue("perturb")(theirs)
    ours = DiffusionModel(spec, numerics="keras_cv")
    ours.set_weights(theirs.get_weights())
    return spec, ours, theirs


def test_equals_keras_cv_on_the_same_weights(pair):
    spec, ours, theirs = pair
    inputs = inputs_of(spec, 8)
    assert relative_error(ours(inputs), theirs(inputs)) < 1e-5


def test_gradients_equal_keras_cv(pair):
    spec, ours, theirs = pair
    inputs = inputs_of(spec, 8)

    def gradients(network):
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(network(inputs, training=True) ** 2)
        return tape.gradient(loss, network.trainable_variables)

    for ours_, theirs_ in zip(gradients(ours), gradients(theirs), strict=True):
        assert relative_error(ours_, theirs_) < 1e-4


def test_weights_pass_both_ways_through_files(pair, tmp_path):
    spec, ours, theirs = pair
    file = tmp_path / "model.weights.h5"
    before = theirs.get_weights()
    theirs.save_weights(file)
    fresh = DiffusionModel(spec)
    fresh.load_weights(file)
    for a, b in zip(fresh.get_weights(), before, strict=True):
        np.testing.assert_array_equal(a, b)
    back = tmp_path / "back.weights.h5"
    fresh.save_weights(back)
    theirs.set_weights([0 * weight for weight in before])
    theirs.load_weights(back)
    for a, b in zip(theirs.get_weights(), before, strict=True):
        np.testing.assert_array_equal(a, b)


def test_exact_numerics_differ_a_little(pair):
    spec, ours, theirs = pair
    exact = DiffusionModel(spec)
    exact.set_weights(theirs.get_weights())
    inputs = inputs_of(spec, 8)
    assert 1e-7 < relative_error(exact(inputs), theirs(inputs)) < 1e-2


@pytest.mark.parametrize("height, width", [(4, 4), (8, 12), (16, 8)])
def test_takes_any_size(height, width):
    model = DiffusionModel(SD1)
    inputs = inputs_of(SD1, 4, batch_size=1)
    inputs["latent"] = np.zeros((1, height, width, 4), "float32")
    assert model(inputs).shape == (1, height, width, 4)


@pytest.mark.parametrize("dtype", ["mixed_bfloat16", "mixed_float16"])
def test_mixed_precision_keeps_float32_weights(dtype):
    model = DiffusionModel(SD1, dtype=dtype)
    assert {w.dtype for w in model.weights} == {"float32"}
    outputs = model(inputs_of(SD1, 4))
    assert outputs.dtype == dtype.removeprefix("mixed_")
    assert keras.config.dtype_policy().name == "float32"


def test_rematerialised_blocks_give_the_same_gradients(perturb):
    plain, remat = DiffusionModel(SD1), DiffusionModel(SD1, remat=True)
    perturb(plain)
    remat.set_weights(plain.get_weights())
    inputs = inputs_of(SD1, 4)

    @tf.function
    def gradients(network):
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(network(inputs, training=True) ** 2)
        return tape.gradient(loss, network.trainable_variables)

    for a, b in zip(gradients(plain), gradients(remat), strict=True):
        assert relative_error(b, a) < 1e-4


@pytest.mark.parametrize(
    "change, message",
    [
        ({"num_heads": (2,)}, "one entry for each"),
        ({"num_heads": (3, 2)}, "multiple of its number of heads"),
        ({"groups": 5}, "groups=5"),
    ],
)
def test_impossible_specs_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        DiffusionModel(dataclasses.replace(SD1, **change))


def test_unknown_numerics_are_refused():
    with pytest.raises(ValueError, match="numerics"):
        DiffusionModel(SD1, numerics="fast")


@pytest.mark.slow
def test_equals_keras_cv_at_full_size():
    theirs = KerasCVDiffusionModel(64, 64, 77, download_weights=False)
    ours = DiffusionModel(numerics="keras_cv")
    assert ours.count_params() == 859_520_964
    ours.set_weights(theirs.get_weights())
    inputs = inputs_of(ours.spec, 8, batch_size=1)
    assert relative_error(ours(inputs), theirs(inputs)) < 1e-5
