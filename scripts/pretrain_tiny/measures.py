"""What is measured while training and at its end.

Numbers about networks and arrays; must not know how they were trained.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from keras import ops

from keras_sdft.diffusion import NoiseSchedule
from keras_sdft.diffusion import ddim
from keras_sdft.diffusion import sampling_timesteps
from keras_sdft.diffusion import timestep_embedding
from keras_sdft.models.generation import guided_prediction

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


def conditioning(
    diffusion_model: Any,
    schedule: NoiseSchedule,
    latents: np.ndarray,
    context: np.ndarray,
    timesteps: "tuple[int, ...]" = (500, 800),
) -> "dict[str, float]":
    """How much worse a wrong caption predicts than the right one.

    Args:
        diffusion_model: The network.
        schedule: The `NoiseSchedule`.
        latents: Float32 array `(N, h, w, C)`.
        context: Float32 array `(N, 77, D)`, of the right captions; the
            wrong ones are the next picture's.
        timesteps: Tuple of integers.

    Returns:
        Dictionary of the ratio wrong to right by `"ratio_<timestep>"`.
    """
    result = {}
    for timestep in timesteps:
        at = np.full(len(latents), timestep)
        right, wrong = (
            denoising_error(diffusion_model, schedule, latents, c, at).mean()
            for c in (context, np.roll(context, 1, axis=0))
        )
        result[f"ratio_{timestep}"] = float(wrong / right)
    return result


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


# === Drawing ===


def draw_latents(
    diffusion_model: Any,
    schedule: NoiseSchedule,
    context: np.ndarray,
    empty_context: np.ndarray,
    shape: "tuple[int, ...]",
    guidance: float = 3.0,
    num_steps: int = 25,
    seed: int = 0,
) -> np.ndarray:
    """Latents `(N, *shape)` drawn by DDIM with guidance.

    Args:
        diffusion_model: The network.
        schedule: The `NoiseSchedule`.
        context: Float32 array `(N, 77, D)`.
        empty_context: Float32 array `(1, 77, D)`, of the empty caption.
        shape: `(h, w, C)`.
        guidance: Float.
        num_steps: Integer.
        seed: Integer, of the noise.

    Returns:
        Float32 array.
    """
    noise = np.random.default_rng(seed).standard_normal(
        (len(context), *shape), "float32"
    )
    width = diffusion_model.spec.timestep_width
    timesteps = sampling_timesteps(num_steps, schedule.num_train_timesteps)

    def draw(context, noise):
        predict = guided_prediction(
            diffusion_model, width, context, empty_context, guidance
        )
        return ddim(predict, ops.convert_to_tensor(noise), schedule, timesteps)

    return in_chunks(draw, context, noise)


def retrieval(
    latents: np.ndarray, gallery: np.ndarray, answers: np.ndarray
) -> "dict[str, float]":
    """Whether the nearest picture to what was drawn is the one asked for.

    Args:
        latents: Float array `(N, h, w, C)`, drawn.
        gallery: Float array `(M, h, w, C)`, of real pictures.
        answers: Int array `(N,)`, the right place in the gallery.

    Returns:
        Dictionary of shares in [0, 1]: `top1`, `top5`.
    """
    drawn = latents.reshape(len(latents), -1).astype("float64")
    real = gallery.reshape(len(gallery), -1).astype("float64")
    distances = (
        (drawn**2).sum(1)[:, None] + (real**2).sum(1) - 2 * drawn @ real.T
    )
    right = distances[np.arange(len(drawn)), answers]
    rank = (distances < right[:, None]).sum(axis=1)
    return {"top1": float((rank < 1).mean()), "top5": float((rank < 5).mean())}


def _numpy(tensor: Any) -> np.ndarray:
    return np.asarray(ops.convert_to_numpy(tensor))
