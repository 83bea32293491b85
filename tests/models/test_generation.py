import dataclasses

import numpy as np
import pytest
from keras import ops

from keras_sdft.models import StableDiffusionSpec
from keras_sdft.models.generation import guided_prediction
from keras_sdft.models.generation import sample
from keras_sdft.models.generation import starting_noise

SPEC = StableDiffusionSpec(name="any")
ZERO = dataclasses.replace(
    SPEC, prediction_type="v_prediction", zero_terminal_snr=True
)


@pytest.mark.parametrize(
    "spec, expected",
    [(SPEC, [999, 666, 333, 0]), (ZERO, [999, 749, 499, 249])],
)
def test_a_zero_snr_model_is_sampled_from_its_last_timestep(spec, expected):
    seen = []

    def predict(latents, timesteps):
        seen.append(np.asarray(timesteps).tolist())
        return ops.zeros_like(latents)

    noise = np.ones((2, 2, 2, 4), "float32")
    latents = np.asarray(sample(predict, noise, spec, 4))
    assert seen == [[t, t] for t in expected]
    assert np.isfinite(latents).all()


def test_pure_noise_is_left_by_what_the_network_says():
    """At no signal the velocity is minus the image, whatever the noise."""
    clean = np.random.default_rng(0).normal(size=(1, 2, 2, 4))

    def predict(latents, timesteps):
        return -ops.convert_to_tensor(clean, dtype="float32")

    noise = np.random.default_rng(1).normal(size=(1, 2, 2, 4))
    latents = sample(predict, noise.astype("float32"), ZERO, 1)
    np.testing.assert_allclose(latents, clean, rtol=1e-5)


class Network:
    """Answers the unconditional half with `away`, the other `towards`."""

    away = np.random.default_rng(2).normal(size=(3, 2, 2, 4))
    towards = np.random.default_rng(3).normal(size=(3, 2, 2, 4))

    def predict_on_batch(self, inputs):
        both = np.concatenate([self.away, self.towards])
        return ops.convert_to_tensor(both, dtype="float32")


@pytest.mark.parametrize("rescale", [0.0, 0.7, 1.0])
def test_rescaled_guidance_by_hand(rescale):
    context = np.zeros((3, 77, 8), "float32")
    predict = guided_prediction(
        Network(), 16, context, context[:1], 7.5, rescale
    )
    found = predict(np.zeros((3, 2, 2, 4), "float32"), np.zeros(3, "int32"))
    combined = Network.away + 7.5 * (Network.towards - Network.away)
    ratio = Network.towards.std((1, 2, 3)) / combined.std((1, 2, 3))
    rescaled = combined * ratio.reshape(3, 1, 1, 1)
    expected = rescale * rescaled + (1 - rescale) * combined
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_bad_arguments_are_refused():
    context = np.zeros((1, 77, 8), "float32")
    with pytest.raises(ValueError, match="guidance_rescale"):
        guided_prediction(Network(), 16, context, context, 7.5, 1.5)
    with pytest.raises(ValueError, match="not both"):
        starting_noise((1, 2, 2, 4), np.zeros((2, 2, 4)), seed=0)
