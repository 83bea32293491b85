"""From noise to latents: DDIM over any function that predicts.

Must not know the network, the text or the decoder: the caller hands over a
function of `(latents, timesteps)`.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable
from typing import Any

import numpy as np
from keras import ops

from keras_sdft.diffusion.noise_schedule import NoiseSchedule
from keras_sdft.diffusion.prediction import check_prediction_type
from keras_sdft.diffusion.prediction import split_prediction

SPACINGS = ("linspace", "leading", "trailing")


def sampling_timesteps(
    num_steps: int,
    num_train_timesteps: int = 1000,
    spacing: str = "linspace",
    steps_offset: int = 1,
) -> np.ndarray:
    """The timesteps that sampling visits, the noisiest first.

    Args:
        num_steps: Integer in `[1, num_train_timesteps]`.
        num_train_timesteps: Integer `T`.
        spacing: `"linspace"` (both ends included, KerasCV's), `"leading"`
            (Stable Diffusion's original, shifted by `steps_offset`) or
            `"trailing"` (ends at the very last timestep, for
            zero-terminal-SNR models).
        steps_offset: Integer >= 0, what `"leading"` timesteps are shifted
            by.

    Returns:
        Int32 array of shape `(num_steps,)`, strictly falling.

    References:
        Lin et al., Common Diffusion Noise Schedules and Sample Steps are
        Flawed, 2023, table 2.
    """
    if not 1 <= num_steps <= num_train_timesteps:
        raise ValueError(
            f"`num_steps` must be between 1 and {num_train_timesteps}. "
            f"Received: num_steps={num_steps}."
        )
    last = num_train_timesteps - 1
    rising: np.ndarray
    if spacing == "linspace":
        # A single step starts where the noise is, not where it has gone.
        rising = np.linspace(last * (num_steps == 1), last, num_steps)
    elif spacing == "leading":
        stride = num_train_timesteps // num_steps
        rising = np.minimum(np.arange(num_steps) * stride + steps_offset, last)
    elif spacing == "trailing":
        steps = np.arange(1, num_steps + 1) * num_train_timesteps / num_steps
        rising = np.round(steps) - 1
    else:
        near = difflib.get_close_matches(str(spacing), SPACINGS, 1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise ValueError(
            f"`spacing` must be one of {SPACINGS}. Received: {spacing!r}.{hint}"
        )
    return np.unique(np.round(rising).astype("int32"))[::-1]


def ddim(
    predict: Callable[[Any, Any], Any],
    noise: Any,
    schedule: NoiseSchedule,
    timesteps: np.ndarray,
    prediction_type: str = "epsilon",
    final_alpha: float = 1.0,
    on_step: Callable[[int], None] | None = None,
) -> Any:
    """Deterministic DDIM sampling (eta = 0).

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
        on_step: Function called with the number of finished steps.

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
        batch = ops.full((ops.shape(noise)[0],), int(timestep), dtype="int32")
        prediction = ops.cast(predict(latents, batch), "float32")
        alpha, next_alpha = alphas[index], alphas[index + 1]
        clean, epsilon = split_prediction(
            prediction_type,
            latents,
            prediction,
            alpha**0.5,
            (1 - alpha) ** 0.5,
        )
        latents = next_alpha**0.5 * clean + (1 - next_alpha) ** 0.5 * epsilon
        if on_step is not None:
            on_step(index + 1)
    return latents
