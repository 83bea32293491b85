"""From noise to latents: samplers over any function that predicts.

Must not know the network, the text or the decoder: the caller hands over a
function of `(latents, timesteps)`.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from keras import ops

from keras_sdft import checks
from keras_sdft.diffusion.noise_schedule import NoiseSchedule
from keras_sdft.diffusion.prediction import check_prediction_type
from keras_sdft.diffusion.prediction import split_prediction

SPACINGS = ("linspace", "leading", "trailing")
SAMPLERS = ("ddim", "dpmpp_2m")
# Where a timestep has no signal at all, as much as diffusers' samplers see.
_LEAST_SIGNAL = 2.0**-24


def sampling_timesteps(
    num_steps: int,
    num_train_timesteps: int = 1000,
    spacing: str = "linspace",
    steps_offset: int = 1,
) -> np.ndarray:
    """Returns the timesteps that sampling visits, the noisiest first.

    Args:
        num_steps: Integer in `[1, num_train_timesteps]`.
        num_train_timesteps: Integer `T`.
        spacing: `"linspace"` (both ends included, KerasCV's), `"leading"`
            (Stable Diffusion's original) or `"trailing"` (ends at the very
            last timestep, for zero-terminal-SNR and distilled models).
        steps_offset: Integer >= 0, what `"leading"` adds to each timestep.
            Defaults to 1, as Stable Diffusion has it.

    Returns:
        Int32 array of shape `(num_steps,)`, strictly falling.

    Raises:
        ValueError: If an argument is out of its range.

    References:
        Lin et al., Common Diffusion Noise Schedules and Sample Steps are
        Flawed, 2023, table 2.
    """
    checks.integer("num_steps", num_steps, 1, num_train_timesteps)
    checks.integer("steps_offset", steps_offset, 0, num_train_timesteps - 1)
    checks.one_of("spacing", spacing, SPACINGS)
    last = num_train_timesteps - 1
    rising: np.ndarray
    if spacing == "linspace":
        # A single step starts where the noise is, not where it has gone.
        rising = np.linspace(last * (num_steps == 1), last, num_steps)
    elif spacing == "leading":
        stride = num_train_timesteps // num_steps
        rising = np.minimum(np.arange(num_steps) * stride + steps_offset, last)
    else:
        steps = np.arange(1, num_steps + 1) * num_train_timesteps / num_steps
        rising = np.round(steps) - 1
    return np.unique(np.round(rising).astype("int32"))[::-1]


def sample(
    predict: Callable[[Any, Any], Any],
    noise: Any,
    schedule: NoiseSchedule,
    num_steps: int,
    *,
    sampler: str = "ddim",
    spacing: str = "linspace",
    steps_offset: int = 1,
    prediction_type: str = "epsilon",
) -> Any:
    """Makes latents from noise with a sampler by name.

    Args:
        predict: See `ddim`.
        noise: Float32 tensor `(B, h, w, C)`, unit variance.
        schedule: The `NoiseSchedule` that the network was trained with.
        num_steps: Integer >= 1, calls of `predict`.
        sampler: `"ddim"` (which Euler's method equals where it visits the
            same timesteps), or `"dpmpp_2m"` (DPM-Solver++ of second order),
            which needs about half as many steps.
        spacing: See `sampling_timesteps`.
        steps_offset: See `sampling_timesteps`.
        prediction_type: `"epsilon"` or `"v_prediction"`.

    Returns:
        Float32 tensor `(B, h, w, C)`, clean latents.

    Raises:
        ValueError: If an argument is out of its range.
    """
    checks.one_of("sampler", sampler, SAMPLERS)
    steps = checks.integer("num_steps", num_steps, 1)
    count = schedule.num_train_timesteps
    # This solver's implementations share out the interval down to the image,
    # which it reaches in a step of its own.
    one_more = sampler == "dpmpp_2m" and spacing != "trailing"
    timesteps = sampling_timesteps(
        min(steps + one_more, max(steps, count)), count, spacing, steps_offset
    )[:steps]
    function = dpmpp_2m if sampler == "dpmpp_2m" else ddim
    return function(predict, noise, schedule, timesteps, prediction_type)


def ddim(
    predict: Callable[[Any, Any], Any],
    noise: Any,
    schedule: NoiseSchedule,
    timesteps: np.ndarray,
    prediction_type: str = "epsilon",
    final_alpha: float = 1.0,
) -> Any:
    """Samples with deterministic DDIM (eta = 0).

    Args:
        predict: Function of `(latents (B, h, w, C), timesteps (B,))` that
            returns the network's prediction `(B, h, w, C)`, guidance
            included.
        noise: Float32 tensor `(B, h, w, C)`, unit variance.
        schedule: The `NoiseSchedule` that the network was trained with.
        timesteps: Falling integers, from `sampling_timesteps`.
        prediction_type: `"epsilon"` or `"v_prediction"`.
        final_alpha: Float, `alphas_cumprod` after the last step. `1.0` is
            clean; diffusers' Stable Diffusion configuration stops at
            `schedule.alphas_cumprod[0]`.

    Returns:
        Float32 tensor `(B, h, w, C)`, clean latents.

    References:
        Song et al., Denoising Diffusion Implicit Models, 2021, equation 12.
    """
    check_prediction_type(prediction_type)
    table = schedule.alphas_cumprod.astype("float64")
    alphas = [float(table[t]) for t in timesteps] + [float(final_alpha)]
    latents = noise
    for index, timestep in enumerate(timesteps):
        alpha, next_alpha = alphas[index], alphas[index + 1]
        clean, epsilon = split_prediction(
            prediction_type,
            latents,
            _predicted(predict, latents, timestep),
            alpha**0.5,
            (1 - alpha) ** 0.5,
        )
        latents = next_alpha**0.5 * clean + (1 - next_alpha) ** 0.5 * epsilon
    return latents


def dpmpp_2m(
    predict: Callable[[Any, Any], Any],
    noise: Any,
    schedule: NoiseSchedule,
    timesteps: np.ndarray,
    prediction_type: str = "epsilon",
) -> Any:
    """Samples with the multistep DPM-Solver++ of second order.

    The first step and the last, which goes to the clean latents, are of
    first order.

    Args:
        predict: See `ddim`.
        noise: See `ddim`.
        schedule: See `ddim`.
        timesteps: Falling integers.
        prediction_type: `"epsilon"` or `"v_prediction"`.

    Returns:
        Float32 tensor `(B, h, w, C)`, clean latents.

    References:
        Lu et al., DPM-Solver++: Fast Solver for Guided Sampling of Diffusion
        Probabilistic Models, 2022, algorithm 2.
    """
    check_prediction_type(prediction_type)
    table = np.maximum(schedule.alphas_cumprod.astype("float64"), _LEAST_SIGNAL)
    alphas = [float(table[t]) for t in timesteps]
    latents, before, last_step = noise, None, math.inf
    for index, timestep in enumerate(timesteps):
        signal, spread = alphas[index] ** 0.5, (1 - alphas[index]) ** 0.5
        clean, _ = split_prediction(
            prediction_type,
            latents,
            _predicted(predict, latents, timestep),
            signal,
            spread,
        )
        if index + 1 == len(timesteps):
            return clean
        alpha = alphas[index + 1]
        step = _half_log_snr(alpha) - _half_log_snr(alphas[index])
        towards = clean
        if before is not None:
            towards = clean + (clean - before) * (0.5 * step / last_step)
        latents = (
            1 - alpha
        ) ** 0.5 / spread * latents - alpha**0.5 * math.expm1(-step) * towards
        before, last_step = clean, step
    return latents


def _half_log_snr(alpha: float) -> float:
    return 0.5 * math.log(alpha / (1 - alpha))


def _predicted(predict: Any, latents: Any, timestep: Any) -> Any:
    batch = ops.full((ops.shape(latents)[0],), int(timestep), dtype="int32")
    return ops.cast(predict(latents, batch), "float32")
