"""What is measured while training and at its end.

Numbers about networks and arrays; must not know how they were trained.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from keras import ops

from keras_sdft.diffusion import NoiseSchedule
from keras_sdft.diffusion import timestep_embedding

CHUNK = 32
BUCKETS = 4


def in_chunks(
    function: Callable[..., Any], *arrays: np.ndarray, size: int = CHUNK
) -> np.ndarray:
    """Applies a function to parts of one size; the last is filled up.

    One size, because another would be compiled anew.
    """
    parts = []
    for begin in range(0, len(arrays[0]), size):
        part = [array[begin : begin + size] for array in arrays]
        count = len(part[0])
        part = [np.resize(p, (size, *p.shape[1:])) for p in part]
        parts.append(np.asarray(ops.convert_to_numpy(function(*part)))[:count])
    return np.concatenate(parts)


# === The autoencoder ===


def reconstruct(
    moments_model: Any, decoder: Any, images: np.ndarray, scale: float
) -> np.ndarray:
    """uint8 images through the autoencoder, at the mean of the latents."""

    def through(part):
        x = part.astype("float32") / 127.5 - 1.0
        mean = np.split(_numpy(moments_model.predict_on_batch(x)), 2, -1)[0]
        return decoder.predict_on_batch(mean.astype("float32") * scale)

    return to_uint8(in_chunks(through, images, size=16))


def to_uint8(images: np.ndarray) -> np.ndarray:
    """Images in about [-1, 1] to uint8."""
    values = (np.asarray(images, "float32") + 1.0) * 127.5
    return np.clip(np.round(values), 0, 255).astype("uint8")


def psnr(images: np.ndarray, others: np.ndarray) -> float:
    """Peak signal-to-noise ratio in dB, the mean of all pictures'."""
    error = images.astype("float64") - others
    squared = np.maximum(np.mean(error**2, axis=(1, 2, 3)), 1e-3)
    return float(np.mean(10 * np.log10(255.0**2 / squared)))


# === Denoising ===


def encode_tokens(text_encoder: Any, token_ids: np.ndarray) -> np.ndarray:
    """Context `(N, 77, D)` of token ids `(N, 77)`, float32."""

    def encode(part):
        positions = np.arange(part.shape[1], dtype="int32")[None]
        return text_encoder.predict_on_batch(
            {
                "tokens": part,
                "positions": np.repeat(positions, len(part), axis=0),
            }
        )

    return in_chunks(encode, token_ids).astype("float32")


def denoising_error(
    diffusion_model: Any,
    schedule: NoiseSchedule,
    latents: np.ndarray,
    context: np.ndarray,
    timesteps: np.ndarray,
    seed: int = 0,
) -> np.ndarray:
    """Mean squared error of the predicted noise, at noise from a seed.

    Args:
        diffusion_model: The network.
        schedule: The `NoiseSchedule`.
        latents: Float32 array `(N, h, w, C)`.
        context: Float32 array `(N, 77, D)`.
        timesteps: Int array `(N,)`.
        seed: Integer >= 0.

    Returns:
        Float array `(N,)`.
    """
    generator = np.random.default_rng(seed)
    noise = generator.standard_normal(latents.shape, "float32")
    width = diffusion_model.spec.timestep_width

    def error(latents, noise, context, timesteps):
        noised = schedule.add_noise(latents, noise, timesteps)
        inputs = {
            "latent": noised,
            "timestep_embedding": timestep_embedding(timesteps, width),
            # Torch takes no arrays beside tensors.
            "context": ops.convert_to_tensor(context),
        }
        prediction = _numpy(diffusion_model.predict_on_batch(inputs))
        difference = prediction.astype("float32") - noise
        return np.mean(difference**2, axis=(1, 2, 3))

    timesteps = np.asarray(timesteps, "int32")
    return in_chunks(error, latents, noise, context, timesteps)


def bucket_errors(
    diffusion_model: Any,
    schedule: NoiseSchedule,
    latents: np.ndarray,
    context: np.ndarray,
) -> "dict[str, float]":
    """Denoising error in each quarter of the schedule, and their mean.

    Each picture is asked once, in a bucket and at a place in it that depend
    on its position alone.
    """
    count, total = len(latents), schedule.num_train_timesteps
    place = (np.arange(count) + 0.5) / count
    timesteps = np.floor(place * total).astype("int32")
    # Neighbours in the alphabet go to different buckets.
    timesteps = np.random.default_rng(0).permutation(timesteps)
    errors = denoising_error(
        diffusion_model, schedule, latents, context, timesteps
    )
    means = by_bucket(errors, timesteps, total)
    return {
        "val_loss": float(np.mean(errors)),
        **{f"val_{i}": value for i, value in enumerate(means)},
    }


def by_bucket(
    errors: np.ndarray, timesteps: np.ndarray, total: int = 1000
) -> "list[float]":
    """Mean error in each quarter of the schedule (NaN for none)."""
    buckets = timesteps * BUCKETS // total
    return [
        float(errors[buckets == i].mean()) if (buckets == i).any() else np.nan
        for i in range(BUCKETS)
    ]


def _numpy(tensor: Any) -> np.ndarray:
    return np.asarray(ops.convert_to_numpy(tensor))
