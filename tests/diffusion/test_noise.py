import numpy as np

from keras_sdft.diffusion import add_offset_noise
from keras_sdft.diffusion import gaussian
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
