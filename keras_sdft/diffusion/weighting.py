"""How much the loss at each timestep counts: SNR table -> weight table.

A weighting is a function `(snr, prediction_type) -> weights`. It must not
know batches: the trainer looks the weights up by timestep.
"""

from collections.abc import Callable

import numpy as np

from keras_sdft import checks
from keras_sdft.diffusion.prediction import check_prediction_type

Weighting = Callable[[np.ndarray, str], np.ndarray]


def constant(snr: np.ndarray, prediction_type: str) -> np.ndarray:
    """Weights every timestep alike: the simple loss of DDPM.

    Args:
        snr: Float array of shape `(T,)`, signal-to-noise ratio.
        prediction_type: `"epsilon"` or `"v_prediction"`.

    Returns:
        Float32 array of ones of shape `(T,)`.

    References:
        Ho et al., 2020, equation 14.
    """
    check_prediction_type(prediction_type)
    return np.ones_like(snr, dtype="float32")


def min_snr(
    snr: np.ndarray, prediction_type: str, gamma: float = 5.0
) -> np.ndarray:
    """Weights each timestep by `min(snr, gamma)`, for the predicted quantity.

    Args:
        snr: Float array of shape `(T,)`, signal-to-noise ratio, > 0.
        prediction_type: `"epsilon"` or `"v_prediction"`.
        gamma: Float > 0, the ceiling on the SNR. Defaults to `5.0`, the
            paper's value.

    Returns:
        Float32 array of shape `(T,)`, dimensionless.

    Raises:
        ValueError: If `prediction_type` is unknown, `gamma` is not positive
            or a timestep has no signal at all.

    References:
        Hang et al., Efficient Diffusion Training via Min-SNR Weighting
        Strategy, 2023, section 3.4.
    """
    checks.number("gamma", gamma, above=0)
    snr = _positive_snr("min_snr", snr)
    weights = np.minimum(snr, gamma) / snr
    return _for_predicted(weights, snr, prediction_type)


def p2(
    snr: np.ndarray, prediction_type: str, gamma: float = 1.0, k: float = 1.0
) -> np.ndarray:
    """Weights the noise's error by `1 / (k + snr) ** gamma`.

    Takes weight from the timesteps with little noise, where only
    imperceptible details are learned.

    Args:
        snr: Float array of shape `(T,)`, signal-to-noise ratio, > 0.
        prediction_type: `"epsilon"` or `"v_prediction"`.
        gamma: Float >= 0, how strongly; `0` is `constant` for `"epsilon"`.
            Defaults to `1.0`, the paper's value.
        k: Float > 0, keeps the weights finite. Defaults to `1.0`.

    Returns:
        Float32 array of shape `(T,)`, dimensionless.

    Raises:
        ValueError: If `prediction_type` is unknown, a number is out of its
            range or a timestep has no signal at all.

    References:
        Choi et al., Perception Prioritized Training of Diffusion Models,
        2022.
    """
    checks.number("gamma", gamma, minimum=0)
    checks.number("k", k, above=0)
    snr = _positive_snr("p2", snr)
    return _for_predicted((k + snr) ** -gamma, snr, prediction_type)


def debiased(
    snr: np.ndarray, prediction_type: str, max_snr: float = 1000.0
) -> np.ndarray:
    """Weights the noise's error by `1 / sqrt(min(snr, max_snr))`.

    Gives weight to the timesteps with much noise, where an error in the
    noise is a large error in the image.

    Args:
        snr: Float array of shape `(T,)`, signal-to-noise ratio, > 0.
        prediction_type: `"epsilon"` or `"v_prediction"`.
        max_snr: Float > 0, the ceiling on the SNR, as other trainers have
            it.

    Returns:
        Float32 array of shape `(T,)`, dimensionless.

    Raises:
        ValueError: If `prediction_type` is unknown, `max_snr` is not
            positive or a timestep has no signal at all.

    References:
        Yu et al., Debias the Training of Diffusion Models, 2023.
    """
    checks.number("max_snr", max_snr, above=0)
    snr = _positive_snr("debiased", snr)
    weights = np.minimum(snr, max_snr) ** -0.5
    return _for_predicted(weights, snr, prediction_type)


def _positive_snr(name: str, snr: np.ndarray) -> np.ndarray:
    snr = np.asarray(snr, dtype="float64")
    if (snr > 0).all():
        return snr
    raise ValueError(
        f"`weighting={name!r}` cannot be used with zero terminal SNR: it "
        "divides by the SNR, which is 0 at the last timestep, or gives that "
        "timestep, where sampling begins, no weight. Use "
        "`weighting='constant'`."
    )


def _for_predicted(
    weights: np.ndarray, snr: np.ndarray, prediction_type: str
) -> np.ndarray:
    """Returns a weight of the noise's error for that of the prediction."""
    if check_prediction_type(prediction_type) == "v_prediction":
        # The same error of the image is `snr` in the noise and `snr + 1`
        # in the velocity (Salimans & Ho, 2022, appendix D).
        weights = weights * snr / (snr + 1.0)
    return weights.astype("float32")


WEIGHTINGS: dict[str, Weighting] = {
    "constant": constant,
    "debiased": debiased,
    "min_snr": min_snr,
    "p2": p2,
}


def weighting_table(
    weighting: str | Weighting, snr: np.ndarray, prediction_type: str
) -> np.ndarray:
    """Returns the weight of every timestep, from a name or a function.

    Args:
        weighting: A name (`"constant"`, `"min_snr"`, `"p2"`, `"debiased"`)
            or a callable `(snr, prediction_type) -> weights`, for example
            `functools.partial(min_snr, gamma=1.0)`.
        snr: Float array of shape `(T,)`.
        prediction_type: `"epsilon"` or `"v_prediction"`.

    Returns:
        Float32 array of shape `(T,)`, finite and >= 0.

    Raises:
        ValueError: If the name is unknown or the table is not usable.
    """
    function = _resolve(weighting)
    table = np.asarray(function(snr, prediction_type), dtype="float32")
    if table.shape != np.shape(snr):
        raise ValueError(
            f"A weighting must return one weight for each of {len(snr)} "
            f"timesteps. Received: shape={table.shape}."
        )
    if not (np.isfinite(table).all() and (table >= 0).all()):
        raise ValueError(
            "A weighting must return finite weights >= 0. Received: "
            f"min={table.min()}, max={table.max()}."
        )
    return table


def _resolve(weighting: str | Weighting) -> Weighting:
    if callable(weighting):
        return weighting
    return WEIGHTINGS[checks.one_of("weighting", weighting, WEIGHTINGS)]
