import numpy as np
import pytest

from keras_sdft.diffusion import NoiseSchedule
from keras_sdft.diffusion import rescale_to_zero_terminal_snr
from keras_sdft.diffusion import scaled_linear_betas
from keras_sdft.models.keras_cv_parts import sampler_alphas_cumprod


def test_table_is_the_one_keras_cv_samples_with():
    ours = NoiseSchedule().alphas_cumprod
    np.testing.assert_allclose(ours, sampler_alphas_cumprod(), rtol=2e-6)


def test_betas_begin_and_end_where_stable_diffusion_does():
    betas = scaled_linear_betas()
    assert len(betas) == 1000
    np.testing.assert_allclose(betas[[0, -1]], [0.00085, 0.012])
    # The square roots are evenly spaced.
    np.testing.assert_allclose(np.diff(np.sqrt(betas), 2), 0, atol=1e-12)


def test_snr_by_hand():
    schedule = NoiseSchedule(np.array([0.5, 0.5]))
    np.testing.assert_allclose(schedule.alphas_cumprod, [0.5, 0.25])
    np.testing.assert_allclose(schedule.snr, [1.0, 1.0 / 3.0], rtol=1e-6)


def test_add_noise_and_velocity_by_hand():
    schedule = NoiseSchedule(np.array([0.36, 0.5]))
    latents = np.full((2, 1, 1, 1), 10.0, "float32")
    noise = np.full((2, 1, 1, 1), 1.0, "float32")
    timesteps = np.array([0, 1])
    # alphas_cumprod: 0.64 and 0.32.
    noised = np.ravel(schedule.add_noise(latents, noise, timesteps))
    expected = [0.8 * 10 + 0.6, 0.32**0.5 * 10 + 0.68**0.5]
    np.testing.assert_allclose(noised, expected, rtol=1e-6)
    velocity = np.ravel(schedule.velocity(latents, noise, timesteps))
    expected = [0.8 - 0.6 * 10, 0.32**0.5 - 0.68**0.5 * 10]
    np.testing.assert_allclose(velocity, expected, rtol=1e-6)


def test_noised_unit_latents_keep_unit_variance():
    schedule = NoiseSchedule()
    for t in (0, 500, 999):
        rates = schedule.signal_rate([t]), schedule.noise_rate([t])
        total = sum(float(np.ravel(r)[0]) ** 2 for r in rates)
        assert total == pytest.approx(1.0, abs=1e-6)


def test_zero_terminal_snr_by_hand():
    # Square roots of alphas_cumprod: 0.8, 0.5, 0.2. Shifted by the last and
    # scaled back to the first: 0.8, 0.4, 0.
    betas = 1 - np.array([0.64, 0.25 / 0.64, 0.04 / 0.25])
    schedule = NoiseSchedule(betas, zero_terminal_snr=True)
    np.testing.assert_allclose(
        schedule.alphas_cumprod, [0.64, 0.16, 0.0], rtol=1e-6
    )
    np.testing.assert_allclose(
        schedule.snr, [0.64 / 0.36, 0.16 / 0.84, 0.0], rtol=1e-6
    )
    np.testing.assert_allclose(
        rescale_to_zero_terminal_snr(betas), [0.36, 0.75, 1.0]
    )


def test_zero_terminal_snr_of_stable_diffusion():
    plain, zero = NoiseSchedule(), NoiseSchedule(zero_terminal_snr=True)
    assert zero.alphas_cumprod[-1] == 0 and zero.snr[-1] == 0
    assert zero.alphas_cumprod[0] == pytest.approx(plain.alphas_cumprod[0])
    assert (np.diff(zero.alphas_cumprod) < 0).all()
    latents = np.full((1, 1, 1, 1), 10.0, "float32")
    noise = np.full((1, 1, 1, 1), 2.0, "float32")
    assert np.ravel(zero.add_noise(latents, noise, [999])).tolist() == [2.0]
    assert np.ravel(zero.velocity(latents, noise, [999])).tolist() == [-10.0]


@pytest.mark.parametrize("betas", [[[0.1]], [0.0, 0.1], [0.5, 1.0]])
def test_bad_betas_are_refused(betas):
    with pytest.raises(ValueError, match="betas"):
        NoiseSchedule(np.array(betas))


def test_bad_ends_are_refused():
    with pytest.raises(ValueError, match="beta_start=0.2"):
        scaled_linear_betas(10, 0.2, 0.1)
