"""How much the loss at each timestep counts: SNR table -> weight table.

A weighting is a function `(snr, prediction_type) -> weights`. It must not
know batches: the trainer looks the weights up by timestep.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable

import numpy as np

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
    if not gamma > 0:
        raise ValueError(f"`gamma` must be > 0. Received: gamma={gamma}.")
    if not (np.asarray(snr) > 0).all():
        raise ValueError(
            "Min-SNR weighting divides by the SNR, which is 0 at a timestep "
            "of this schedule (zero terminal SNR). Use another weighting."
        )
    snr = np.asarray(snr, dtype="float64")
    epsilon = check_prediction_type(prediction_type) == "epsilon"
    divisor = snr if epsilon else snr + 1.0
    return (np.minimum(snr, gamma) / divisor).astype("float32")


WEIGHTINGS: dict[str, Weighting] = {"constant": constant, "min_snr": min_snr}


def weighting_table(
    weighting: str | Weighting, snr: np.ndarray, prediction_type: str
) -> np.ndarray:
    """The weight of every timestep, from a weighting's name or a function.

    Args:
        weighting: A name (`"constant"`, `"min_snr"`) or a callable
            `(snr, prediction_type) -> weights`, for example
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
    if weighting in WEIGHTINGS:
        return WEIGHTINGS[weighting]
    near = difflib.get_close_matches(str(weighting), WEIGHTINGS, 1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    raise ValueError(
        f"`weighting` must be a callable or one of {sorted(WEIGHTINGS)}. "
        f"Received: {weighting!r}.{hint}"
    )
