import numpy as np
import pytest
import tensorflow as tf

from keras_sdft.diffusion import StatelessSeed
from keras_sdft.diffusion import add_multires_noise
from keras_sdft.diffusion import add_offset_noise
from keras_sdft.diffusion import gaussian
from keras_sdft.diffusion import perturb_noise
from keras_sdft.diffusion import stateless_seed
from keras_sdft.diffusion.noise import STREAMS


def test_gaussian_has_unit_moments():
    noise = np.asarray(gaussian((100000,), stateless_seed(0, "noise", 0)))
    assert abs(noise.mean()) < 4 / 100000**0.5
    assert abs(noise.var() - 1) < 4 * (2 / 100000) ** 0.5


def test_streams_and_steps_are_independent():
    draws = {
        (stream, step): tuple(
            np.asarray(gaussian((4,), stateless_seed(0, stream, step)))
        )
        for stream in STREAMS
        for step in range(3)
    }
    assert len(set(draws.values())) == len(draws)


def test_offset_noise_moves_each_channel_as_one():
    noise = np.zeros((3, 4, 5, 2), "float32")
    seed = stateless_seed(0, "offset_noise", 0)
    moved = np.asarray(add_offset_noise(noise, 0.1, seed))
    assert np.ptp(moved, axis=(1, 2)).max() == 0
    expected = 0.1 * np.asarray(gaussian((3, 1, 1, 2), seed))
    np.testing.assert_allclose(moved[:, :1, :1], expected, rtol=1e-6)


def upsampled(small, height, width):
    """Bilinear upsampling by whole factors, written out."""

    def matrix(n, m):
        place = np.clip((np.arange(m) + 0.5) * n / m - 0.5, 0, n - 1)
        left = np.floor(place).astype(int)
        right = np.minimum(left + 1, n - 1)
        weights = np.zeros((m, n))
        weights[np.arange(m), left] += 1 - (place - left)
        weights[np.arange(m), right] += place - left
        return weights

    rows = matrix(small.shape[1], height)
    columns = matrix(small.shape[2], width)
    return np.einsum("ij,bjkc,lk->bilc", rows, small, columns)


@pytest.mark.parametrize("iterations, levels", [(1, 1), (3, 3), (10, 4)])
def test_multires_noise_by_hand(iterations, levels):
    """A 16 x 8 example has levels of 16x8, 8x4, 4x2 and 2x1; no more."""
    shape = (2, 16, 8, 4)
    noise = np.asarray(gaussian(shape, stateless_seed(0, "noise", 5)))
    seed = stateless_seed(0, "multires_noise", 5)
    total = noise.astype("float64")
    for level in range(levels):
        key = np.array(seed.key)
        key[0] ^= level << 24
        size = (2, 16 >> level, 8 >> level, 4)
        drawn = np.asarray(gaussian(size, StatelessSeed(tf.constant(key))))
        total = total + 0.7**level * upsampled(drawn, 16, 8)
    expected = total / total.std(axis=(1, 2, 3), keepdims=True)
    found = add_multires_noise(noise, iterations, 0.7, seed)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_multires_noise_where_sides_are_not_known_beforehand():
    seed = stateless_seed(0, "multires_noise", 5)
    noise = gaussian((2, 16, 8, 4), stateless_seed(0, "noise", 5))

    @tf.function(input_signature=[tf.TensorSpec([None, None, None, 4])])
    def add(noise):
        return add_multires_noise(noise, 6, 0.7, seed)

    expected = add_multires_noise(noise, 6, 0.7, seed)
    np.testing.assert_allclose(add(noise), expected, rtol=1e-4, atol=1e-5)


def test_perturbed_noise_by_hand():
    noise = np.ones((2, 3, 3, 4), "float32")
    seed = stateless_seed(0, "input_perturbation", 0)
    expected = 1 + 0.1 * np.asarray(gaussian((2, 3, 3, 4), seed))
    np.testing.assert_allclose(
        perturb_noise(noise, 0.1, seed), expected, rtol=1e-6
    )
