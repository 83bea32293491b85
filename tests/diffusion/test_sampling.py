import numpy as np
import pytest

from keras_sdft.diffusion import NoiseSchedule
from keras_sdft.diffusion import ddim
from keras_sdft.diffusion import sampling_timesteps


@pytest.mark.parametrize(
    "spacing, expected",
    [
        ("linspace", [999, 666, 333, 0]),
        ("leading", [751, 501, 251, 1]),
        ("trailing", [999, 749, 499, 249]),
    ],
)
def test_spacings_by_hand(spacing, expected):
    assert sampling_timesteps(4, 1000, spacing).tolist() == expected


def test_trailing_rounds_as_diffusers_does():
    """It rounds 62.5 * k before taking 1: 62 and 188, halves to even."""
    found = sampling_timesteps(16, 1000, "trailing").tolist()
    assert found[0] == 999 and found[-3:] == [187, 124, 61]


@pytest.mark.parametrize("spacing", ["linspace", "trailing"])
def test_a_single_step_starts_at_the_noise(spacing):
    assert sampling_timesteps(1, 1000, spacing).tolist() == [999]


@pytest.mark.parametrize("num_steps", [0, 1001])
def test_impossible_step_counts_are_refused(num_steps):
    with pytest.raises(ValueError, match="num_steps"):
        sampling_timesteps(num_steps)


def test_misspelt_spacing_offers_the_nearest():
    with pytest.raises(ValueError, match="Did you mean 'trailing'"):
        sampling_timesteps(4, spacing="trailling")


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_a_perfect_predictor_is_followed_home(prediction_type):
    """With the true answer at every step, DDIM ends at the true latents."""
    schedule = NoiseSchedule()
    generator = np.random.default_rng(0)
    latents, noise = generator.normal(size=(2, 1, 4, 4, 2)).astype("float32")

    def predict(noised, timesteps):
        signal = np.asarray(schedule.signal_rate(timesteps))
        rate = np.asarray(schedule.noise_rate(timesteps))
        epsilon = (np.asarray(noised) - signal * latents) / rate
        if prediction_type == "epsilon":
            return epsilon
        return signal * epsilon - rate * latents

    start = np.asarray(schedule.add_noise(latents, noise, np.array([999])))
    seen = []
    found = ddim(
        predict,
        start,
        schedule,
        sampling_timesteps(10),
        prediction_type,
        on_step=seen.append,
    )
    np.testing.assert_allclose(found, latents, atol=2e-3)
    assert seen == list(range(1, 11))


def test_one_step_by_hand():
    schedule = NoiseSchedule(np.array([0.36, 0.5]))
    found = ddim(
        lambda x, t: np.ones_like(x),
        np.full((1, 1, 1, 1), 2.0, "float32"),
        schedule,
        np.array([1]),
        final_alpha=0.64,
    )
    clean = (2.0 - 0.68**0.5) / 0.32**0.5
    np.testing.assert_allclose(np.ravel(found), [0.8 * clean + 0.6], rtol=1e-5)
