import numpy as np
import pytest

from keras_sdft.diffusion import PREDICTION_TYPES
from keras_sdft.diffusion import NoiseSchedule
from keras_sdft.diffusion import check_prediction_type
from keras_sdft.diffusion import prediction_target
from keras_sdft.diffusion import split_prediction


@pytest.mark.parametrize("prediction_type", PREDICTION_TYPES)
def test_target_leads_back_to_latents_and_noise(prediction_type):
    schedule = NoiseSchedule()
    generator = np.random.default_rng(0)
    latents, noise = generator.normal(size=(2, 3, 4, 4, 2)).astype("float32")
    timesteps = np.array([10, 500, 900])
    noised = schedule.add_noise(latents, noise, timesteps)
    target = prediction_target(
        prediction_type, schedule, latents, noise, timesteps
    )
    found = split_prediction(
        prediction_type,
        noised,
        target,
        schedule.signal_rate(timesteps),
        schedule.noise_rate(timesteps),
    )
    np.testing.assert_allclose(found[0], latents, atol=1e-4)
    np.testing.assert_allclose(found[1], noise, atol=1e-4)


def test_epsilon_target_is_the_noise():
    noise = np.ones((1, 1, 1, 1), "float32")
    target = prediction_target("epsilon", NoiseSchedule(), 0 * noise, noise, 0)
    assert target is noise


def test_misspelt_type_offers_the_nearest():
    with pytest.raises(ValueError, match="Did you mean 'v_prediction'"):
        check_prediction_type("v-prediction")
