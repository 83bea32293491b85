import functools

import numpy as np
import pytest

from keras_sdft.diffusion import NoiseSchedule
from keras_sdft.diffusion import min_snr
from keras_sdft.diffusion import weighting_table
from keras_sdft.diffusion.weighting import WEIGHTINGS

SNR = np.array([100.0, 5.0, 1.0, 0.25], "float32")


def test_min_snr_by_hand():
    epsilon = min_snr(SNR, "epsilon", gamma=5.0)
    np.testing.assert_allclose(epsilon, [0.05, 1, 1, 1])
    velocity = min_snr(SNR, "v_prediction", gamma=5.0)
    expected = [5 / 101, 5 / 6, 1 / 2, 0.25 / 1.25]
    np.testing.assert_allclose(velocity, expected, rtol=1e-6)


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


def test_min_snr_refuses_a_zero_snr_and_a_bad_gamma():
    with pytest.raises(ValueError, match="zero terminal"):
        min_snr(np.array([1.0, 0.0]), "epsilon")
    with pytest.raises(ValueError, match="gamma"):
        min_snr(SNR, "epsilon", gamma=0)
