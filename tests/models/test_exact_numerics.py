import keras
import numpy as np
import pytest

from keras_sdft.models.exact_numerics import exact_gelu
from keras_sdft.models.exact_numerics import use_exact_numerics


@pytest.fixture
def network():
    """A normalization of 256 x 256 places; the mean is ten deviations off."""
    model = keras.Sequential(
        [keras.Input((None, None, 8)), keras.layers.GroupNormalization(2)]
    )
    generator = np.random.default_rng(0)
    for weight in model.weights:
        weight.assign(generator.normal(size=weight.shape))
    return model


def in_float64(x, gamma, beta):
    groups = x.astype("float64").reshape(1, -1, 2, 4)
    mean = groups.mean((1, 3), keepdims=True)
    variance = groups.var((1, 3), keepdims=True)
    normal = ((groups - mean) / np.sqrt(variance + 1e-6)).reshape(x.shape)
    return normal * np.asarray(gamma) + np.asarray(beta)


def test_normalization_does_not_lose_digits_in_large_images(network):
    generator = np.random.default_rng(1)
    x = (generator.normal(size=(1, 256, 256, 8)) + 10).astype("float32")
    wanted = in_float64(x, *network.weights)

    def error():
        found = np.asarray(network(x), "float64")
        return np.linalg.norm(found - wanted) / np.linalg.norm(wanted)

    before = error()
    use_exact_numerics(network)
    after = error()
    # Measured 1e-6; the mean itself is rounded to float32.
    assert after < 5e-6 < before


def test_only_the_gelu_by_tanh_is_replaced():
    layers = [
        keras.layers.Dense(2, activation=activation)
        for activation in (keras.ops.gelu, keras.ops.silu)
    ]
    model = keras.Sequential([keras.Input((2,)), *layers])
    use_exact_numerics(model)
    assert layers[0].activation is exact_gelu
    assert layers[1].activation is keras.ops.silu
    # 0.5 * (1 + erf(1 / sqrt(2))), and what tanh makes of it: 0.841192.
    np.testing.assert_allclose(exact_gelu(1.0), 0.8413447, atol=1e-6)
