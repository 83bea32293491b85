"""Encodes a batch in the training step: images to moments, captions to context.

Must not know noise schedules, losses or optimizers.
"""

from __future__ import annotations

from typing import Any

from keras import ops


def sample_latents(moments: Any, noise: Any, latent_scale: float) -> Any:
    """Samples latents from the image encoder's distribution.

    Args:
        moments: Tensor `(B, h, w, 2 * C)`: the mean, then the logarithm of
            the variance, as the image encoder gives them.
        noise: Float32 tensor `(B, h, w, C)`, unit variance.
        latent_scale: Float, what latents are multiplied by to have about
            unit variance.

    Returns:
        Float32 tensor `(B, h, w, C)`.

    References:
        Kingma & Welling, Auto-Encoding Variational Bayes, 2014, section 2.4.
    """
    moments = ops.cast(moments, "float32")
    mean, log_variance = ops.split(moments, 2, axis=-1)
    # The bounds of the original implementation: a variance of e^20 has
    # left every use, and half precision would overflow beyond.
    deviation = ops.exp(0.5 * ops.clip(log_variance, -30.0, 20.0))
    return (mean + deviation * noise) * latent_scale


def latent_shape(
    stable_diffusion: Any, batch: dict[str, Any]
) -> tuple[Any, ...]:
    """Returns the shape `(B, h, w, C)` of the latents of a batch."""
    channels = stable_diffusion.spec.autoencoder.latent_channels
    name, side = ("moments", 1) if "moments" in batch else ("images", 8)
    size, height, width = ops.shape(batch[name])[:3]
    return (size, height // side, width // side, channels)


def encode_images(stable_diffusion: Any, batch: dict[str, Any]) -> Any:
    """Returns the moments `(B, h, w, 2 * C)` of a batch, given or encoded."""
    if "moments" in batch:
        return batch["moments"]
    return stable_diffusion.moments_model(batch["images"], training=False)


def encode_captions(stable_diffusion: Any, batch: dict[str, Any]) -> Any:
    """Returns the context `(B, 77, D)` of a batch, given or encoded."""
    if "context" in batch:
        return batch["context"]
    token_ids = ops.convert_to_tensor(batch["token_ids"], dtype="int32")
    length = stable_diffusion.spec.text_encoder.max_length
    positions = ops.broadcast_to(
        ops.arange(length, dtype="int32"), ops.shape(token_ids)
    )
    return stable_diffusion.text_encoder(
        {"tokens": token_ids, "positions": positions}, training=False
    )


def build_encoders(stable_diffusion: Any, spec: dict[str, Any]) -> None:
    """Builds and loads the encoders that batches of `spec` need.

    They are built when first used, and the first use in `fit` would be
    inside a graph, where weights are neither initialized nor loaded.
    """
    if "moments" not in spec:
        _ = stable_diffusion.moments_model
    if "context" not in spec:
        _ = stable_diffusion.text_encoder
