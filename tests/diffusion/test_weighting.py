import functools

import numpy as np
import pytest

from keras_sdft.diffusion import NoiseSchedule
from keras_sdft.diffusion import debiased
from keras_sdft.diffusion import min_snr
from keras_sdft.diffusion import p2
from keras_sdft.diffusion import weighting_table
from keras_sdft.diffusion.weighting import WEIGHTINGS

SNR = np.array([100.0, 5.0, 1.0, 0.25], "float32")


def test_min_snr_by_hand():
    epsilon = min_snr(SNR, "epsilon", gamma=5.0)
    np.testing.assert_allclose(epsilon, [0.05, 1, 1, 1])
    velocity = min_snr(SNR, "v_prediction", gamma=5.0)
    expected = [5 / 101, 5 / 6, 1 / 2, 0.25 / 1.25]
    np.testing.assert_allclose(velocity, expected, rtol=1e-6)


def test_p2_by_hand():
    np.testing.assert_allclose(
        p2(SNR, "epsilon"), [1 / 101, 1 / 6, 1 / 2, 0.8], rtol=1e-6
    )
    half = p2(SNR, "epsilon", gamma=0.5, k=3.0)
    np.testing.assert_allclose(half, (3 + SNR) ** -0.5, rtol=1e-6)
    np.testing.assert_array_equal(p2(SNR, "epsilon", gamma=0.0), 1.0)


def test_debiased_by_hand():
    np.testing.assert_allclose(
        debiased(SNR, "epsilon"), [0.1, 5**-0.5, 1, 2], rtol=1e-6
    )
    capped = debiased(SNR, "epsilon", max_snr=4.0)
    np.testing.assert_allclose(capped, [0.5, 0.5, 1, 2], rtol=1e-6)


@pytest.mark.parametrize("name", sorted(set(WEIGHTINGS) - {"constant"}))
def test_a_weight_counts_the_same_error_whatever_is_predicted(name):
    """The noise, the velocity and the image err together.

    From noised latents `x`, an error `d` in the image is an error
    `-sqrt(snr) * d` in the noise and `-sqrt(snr + 1) * d` in the velocity.
    """
    alpha = SNR / (1 + SNR)
    signal, noise = alpha**0.5, (1 - alpha) ** 0.5
    image, epsilon, error = 0.3, -0.7, 0.25
    x = signal * image + noise * epsilon
    wrong = image + error
    wrong_epsilon = (x - signal * wrong) / noise
    wrong_velocity = signal * wrong_epsilon - noise * wrong
    velocity = signal * epsilon - noise * image
    weighted = [
        weighting_table(name, SNR, "epsilon") * (wrong_epsilon - epsilon) ** 2,
        weighting_table(name, SNR, "v_prediction")
        * (wrong_velocity - velocity) ** 2,
    ]
    np.testing.assert_allclose(*weighted, rtol=1e-4)


@pytest.mark.parametrize("name", sorted(WEIGHTINGS))
@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_every_weighting_gives_usable_weights(name, prediction_type):
    snr = NoiseSchedule().snr
    table = weighting_table(name, snr, prediction_type)
    assert table.shape == (1000,) and table.dtype == np.float32
    assert (table >= 0).all() and table.max() > 0


def test_a_callable_is_a_weighting():
    table = weighting_table(
        functools.partial(min_snr, gamma=1.0), SNR, "epsilon"
    )
    np.testing.assert_allclose(table, [0.01, 0.2, 1, 1])


def test_misspelt_name_offers_the_nearest():
    with pytest.raises(ValueError, match="Did you mean 'min_snr'"):
        weighting_table("min-snr", SNR, "epsilon")


@pytest.mark.parametrize(
    "bad, message",
    [
        (lambda snr, kind: snr[:2], "one weight for each"),
        (lambda snr, kind: -snr, "finite weights"),
        (lambda snr, kind: snr / 0 * 0, "finite weights"),
    ],
)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_unusable_tables_are_refused(bad, message):
    with pytest.raises(ValueError, match=message):
        weighting_table(bad, SNR, "epsilon")


@pytest.mark.parametrize("name", sorted(set(WEIGHTINGS) - {"constant"}))
@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_a_timestep_without_signal_is_refused_by_name(name, prediction_type):
    snr = np.array([1.0, 0.0])
    with pytest.raises(ValueError, match=f"'{name}'.*zero terminal SNR"):
        weighting_table(name, snr, prediction_type)


@pytest.mark.parametrize(
    "weighting, message",
    [
        (functools.partial(min_snr, gamma=0), "gamma"),
        (functools.partial(p2, gamma=-1), "gamma"),
        (functools.partial(p2, k=0), "`k`"),
        (functools.partial(debiased, max_snr=0), "max_snr"),
    ],
)
def test_bad_numbers_are_refused(weighting, message):
    with pytest.raises(ValueError, match=message):
        weighting(SNR, "epsilon")
