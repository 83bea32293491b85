"""TensorFlow and JAX compute the same from the same weights and draws."""

import numpy as np
import pytest

from tests.jax import both


@pytest.fixture(scope="module")
def trainers():
    return both.trainers()


@pytest.mark.parametrize("name", ["full", "lora"])
def test_losses_and_gradients_are_those_of_tensorflow(
    tensorflow_side, trainers, name
):
    expected = np.load(tensorflow_side / f"{name}.npz")
    found = both.gradients(trainers[name])
    assert set(found) == set(expected)
    assert len(found) > 40
    for key, value in found.items():
        if not key.startswith("gradient"):
            np.testing.assert_allclose(value, expected[key], rtol=1e-6)
    # The biases of keys have no effect, and gradients of nothing but rounding.
    rounding = 1e-8 * max(np.linalg.norm(g) for g in found.values())
    wrong = {
        key: (distance, norm)
        for key, value in found.items()
        for distance in [np.linalg.norm(value - expected[key])]
        for norm in [np.linalg.norm(expected[key])]
        if distance > max(1e-4 * norm, rounding)
    }
    assert not wrong


@pytest.mark.parametrize("name", both.OPTIMIZERS)
def test_optimizers_update_as_in_tensorflow(tensorflow_side, name):
    expected = np.load(tensorflow_side / "updates.npz")
    for key, value in both.updates(name).items():
        np.testing.assert_allclose(value, expected[key], atol=2e-6, rtol=2e-6)


def test_stopped_groups_stay(tensorflow_side):
    found = np.load(tensorflow_side / "updates.npz")
    assert (found["groups_1_1"] == found["groups_2_1"]).all()
    assert (found["groups_1_0"] != found["groups_2_0"]).all()
