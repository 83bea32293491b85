"""Guidance and starting noise: what sampling needs around the network.

Must not know text, decoders or presets.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_sdft.diffusion import NoiseSchedule
from keras_sdft.diffusion import ddim
from keras_sdft.diffusion import sampling_timesteps
from keras_sdft.diffusion import timestep_embedding
from keras_sdft.models.spec import StableDiffusionSpec


def starting_noise(
    shape: tuple[int, ...], given: Any = None, seed: int | None = None
) -> Any:
    """The noise that images begin as, drawn or given.

    Args:
        shape: `(B, h, w, C)`.
        given: Noise of that shape, or `(h, w, C)` to begin every image
            alike, or `None` to draw it.
        seed: Integer for the same draw each time, or `None`.

    Returns:
        Float32 tensor of `shape`.
    """
    if given is not None and seed is not None:
        raise ValueError(
            "Pass either `diffusion_noise` or `seed`, not both: the seed "
            "only serves to draw the noise."
        )
    if given is None:
        generator = keras.random.SeedGenerator(seed)
        return keras.random.normal(shape, dtype="float32", seed=generator)
    given = np.asarray(ops.convert_to_numpy(given), dtype="float32")
    if given.ndim == 3:
        given = np.repeat(given[None], shape[0], axis=0)
    if given.shape != shape:
        raise ValueError(
            f"`diffusion_noise` must have shape {shape} or {shape[1:]}. "
            f"Received: shape={given.shape}."
        )
    return ops.convert_to_tensor(given)


def guided_prediction(
    diffusion_model: Any,
    timestep_width: int,
    context: np.ndarray,
    negative: np.ndarray,
    scale: float,
    rescale: float = 0.0,
) -> Callable[[Any, Any], Any]:
    """A prediction with classifier-free guidance, in one batched call.

    Args:
        diffusion_model: The network.
        timestep_width: Integer, size of its timestep embedding.
        context: Float array `(B, 77, D)`, what to draw.
        negative: Float array `(n, 77, D)`, what to stay away from, where
            `n` divides `B`.
        scale: Float; `1.0` predicts from `context` alone.
        rescale: Float in [0, 1], how far the guided prediction is brought
            back to the deviation of the prompt's own.

    Returns:
        A function of `(latents, timesteps)` for `keras_sdft.diffusion.ddim`.

    References:
        Ho & Salimans, Classifier-Free Diffusion Guidance, 2022; Lin et al.,
        Common Diffusion Noise Schedules and Sample Steps are Flawed, 2023,
        section 3.4.
    """
    if not 0.0 <= rescale <= 1.0:
        raise ValueError(
            f"`guidance_rescale` must lie in [0, 1]. Received: {rescale}."
        )
    guided = scale != 1.0
    if guided:
        negative = _one_for_each(negative, len(context))
        context = np.concatenate([negative, context])
    # Torch takes no arrays beside tensors.
    context = ops.convert_to_tensor(context)

    def predict(latents: Any, timesteps: Any) -> Any:
        if guided:
            latents = ops.concatenate([latents, latents])
            timesteps = ops.concatenate([timesteps, timesteps])
        prediction = diffusion_model.predict_on_batch(
            {
                "latent": latents,
                "timestep_embedding": timestep_embedding(
                    timesteps, timestep_width
                ),
                "context": context,
            }
        )
        prediction = ops.cast(prediction, "float32")
        if not guided:
            return prediction
        away, towards = ops.split(prediction, 2, axis=0)
        combined = away + scale * (towards - away)
        if not rescale:
            return combined
        ratio = _deviation(towards) / _deviation(combined)
        return combined * (rescale * ratio + 1.0 - rescale)

    return predict


def _deviation(prediction: Any) -> Any:
    return ops.std(prediction, axis=(1, 2, 3), keepdims=True)


def sample(
    predict: Callable[[Any, Any], Any],
    noise: Any,
    spec: StableDiffusionSpec,
    num_steps: int,
) -> Any:
    """Latents from noise, visiting the timesteps that the model asks for.

    Args:
        predict: Function of `(latents, timesteps)`.
        noise: Float32 tensor `(B, h, w, C)`.
        spec: The `StableDiffusionSpec`.
        num_steps: Integer >= 1.

    Returns:
        Float32 tensor `(B, h, w, C)`.
    """
    schedule = NoiseSchedule(zero_terminal_snr=spec.zero_terminal_snr)
    timesteps = sampling_timesteps(
        num_steps,
        schedule.num_train_timesteps,
        spec.spacing,
        spec.steps_offset,
    )
    return ddim(predict, noise, schedule, timesteps, spec.prediction_type)


def _one_for_each(negative: np.ndarray, count: int) -> np.ndarray:
    if count % len(negative):
        raise ValueError(
            "`negative_prompt` must be one prompt or one for each prompt. "
            f"Received: {len(negative)} for {count} images."
        )
    return np.repeat(negative, count // len(negative), axis=0)


def check_size(height: int, width: int) -> None:
    """Refuses image sizes that are no multiples of 64 pixels."""
    if height % 64 == 0 and width % 64 == 0 and height > 0 and width > 0:
        return
    nearest = tuple(max(64, round(side / 64) * 64) for side in (height, width))
    raise ValueError(
        "`height` and `width` must be multiples of 64 pixels. Received: "
        f"height={height}, width={width}. Nearest valid: {nearest}."
    )
