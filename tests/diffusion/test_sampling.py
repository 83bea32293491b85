import json
from pathlib import Path

import numpy as np
import pytest

from keras_sdft.diffusion import SAMPLERS
from keras_sdft.diffusion import NoiseSchedule
from keras_sdft.diffusion import ddim
from keras_sdft.diffusion import sample
from keras_sdft.diffusion import sampling_timesteps

GOLDEN = Path(__file__).parent / "golden_samplers.json"


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


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_a_perfect_prediction_leads_to_the_latents(sampler, prediction_type):
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
    found = sample(
        predict,
        start,
        schedule,
        10,
        sampler=sampler,
        prediction_type=prediction_type,
    )
    np.testing.assert_allclose(found, latents, atol=2e-3)


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


def test_samplers_equal_those_of_diffusers():
    """Its schedulers' latents, see benchmarks/_sampler_peer.py."""
    golden = json.loads(GOLDEN.read_text())
    assert {case["sampler"] for case in golden["cases"]} == set(SAMPLERS)
    noise = np.reshape(golden["noise"], golden["shape"]).astype("float32")
    for case in golden["cases"]:
        found = sample(
            _prediction,
            noise,
            NoiseSchedule(zero_terminal_snr=case["zero_terminal_snr"]),
            case["num_steps"],
            sampler=case["sampler"],
            spacing=case["spacing"],
            steps_offset=case["steps_offset"],
            prediction_type=case["prediction_type"],
        )
        expected = np.reshape(case.pop("latents"), golden["shape"])
        error = abs(np.asarray(found) - expected).max() / abs(expected).max()
        assert error < 1e-4, case


def _prediction(latents, timesteps):
    """What benchmarks/_sampler_peer.py has in the place of a network."""
    x = np.asarray(latents, "float64")
    t = float(np.ravel(timesteps)[0])
    return 0.5 * np.tanh(x) * np.cos(t / 700) + 0.3 * np.roll(x, 1, axis=-1)
