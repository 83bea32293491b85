"""Guidance and starting noise: what sampling needs around the network.

Must not know text, decoders or presets.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_sdft.diffusion import timestep_embedding


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
) -> Callable[[Any, Any], Any]:
    """A prediction with classifier-free guidance, in one batched call.

    Args:
        diffusion_model: The network.
        timestep_width: Integer, size of its timestep embedding.
        context: Float array `(B, 77, D)`, what to draw.
        negative: Float array `(n, 77, D)`, what to stay away from, where
            `n` divides `B`.
        scale: Float; `1.0` predicts from `context` alone.

    Returns:
        A function of `(latents, timesteps)` for `keras_sdft.diffusion.ddim`.

    References:
        Ho & Salimans, Classifier-Free Diffusion Guidance, 2022.
    """
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
        return away + scale * (towards - away)

    return predict


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
