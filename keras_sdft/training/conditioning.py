"""A batch becomes latents and context, through frozen encoders.

Must not know noise schedules, losses or optimizers.
"""

from __future__ import annotations

from typing import Any

from keras import ops


def sample_latents(moments: Any, noise: Any, latent_scale: float) -> Any:
    """Draws latents from the image encoder's distribution.

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
    """Shape `(B, h, w, C)` of the latents of a batch."""
    channels = stable_diffusion.spec.autoencoder.latent_channels
    if "moments" in batch:
        size, height, width = ops.shape(batch["moments"])[:3]
        return (size, height, width, channels)
    size, height, width = ops.shape(batch["images"])[:3]
    return (size, height // 8, width // 8, channels)


def encode_latents(
    stable_diffusion: Any, batch: dict[str, Any], noise: Any
) -> Any:
    """The latents `(B, h, w, C)` of a batch, sampled with `noise`."""
    moments = encode_images(stable_diffusion, batch)
    scale = stable_diffusion.spec.autoencoder.latent_scale
    return sample_latents(moments, noise, scale)


def encode_images(stable_diffusion: Any, batch: dict[str, Any]) -> Any:
    """The moments `(B, h, w, 8)` of a batch, given or encoded."""
    if "moments" in batch:
        return batch["moments"]
    return stable_diffusion.moments_model(batch["images"], training=False)


def encode_captions(stable_diffusion: Any, batch: dict[str, Any]) -> Any:
    """The context `(B, 77, D)` of a batch, given or encoded."""
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
    inside a graph, where weights are neither drawn nor loaded.
    """
    if "moments" not in spec:
        _ = stable_diffusion.moments_model
    if "context" not in spec:
        _ = stable_diffusion.text_encoder


def check_dataset(
    dataset: Any,
    stable_diffusion: Any,
    gradient_accumulation_steps: int,
    train_text_encoder: bool = False,
) -> None:
    """Checks a dataset's batches, and builds the encoders they need.

    Args:
        dataset: A `tf.data.Dataset`.
        stable_diffusion: As for `check_batch_spec`.
        gradient_accumulation_steps: Likewise.
        train_text_encoder: Likewise.

    Raises:
        ValueError: If it is no dataset, or cannot be trained on.
    """
    spec = getattr(dataset, "element_spec", None)
    if spec is None:
        raise ValueError(
            "Expected a `tf.data.Dataset` of batches, from "
            f"`keras_sdft.data.load`. Received: {type(dataset)}."
        )
    check_batch_spec(
        spec, stable_diffusion, gradient_accumulation_steps, train_text_encoder
    )
    build_encoders(stable_diffusion, spec)


def check_batch_spec(
    spec: Any,
    stable_diffusion: Any,
    gradient_accumulation_steps: int,
    train_text_encoder: bool = False,
) -> None:
    """Holds a dataset's `element_spec` against the batch contract.

    Args:
        spec: The `element_spec` of a `tf.data.Dataset`.
        stable_diffusion: The `StableDiffusion` that is to be trained.
        gradient_accumulation_steps: Integer >= 1.
        train_text_encoder: Boolean, whether the text encoder learns too.

    Raises:
        ValueError: If the dataset's batches cannot be trained on.
    """
    if not isinstance(spec, dict):
        raise ValueError(
            "A dataset's batches must be dicts of `images` or `moments`, "
            "`token_ids` or `context`, and `example_weight` (see "
            f"`keras_sdft.data.load`). Received: {spec}."
        )
    pixels = _one_of(spec, "images", "moments")
    text = _one_of(spec, "token_ids", "context")
    if train_text_encoder and text == "context":
        raise ValueError(
            "`train_text_encoder=True` cannot be used with cached `context`: "
            "it was encoded before the text encoder learned anything. Use a "
            "dataset with `token_ids`."
        )
    _one_of(spec, "example_weight")
    moments = 2 * stable_diffusion.spec.autoencoder.latent_channels
    _check_shape(pixels, spec, (3 if pixels == "images" else moments,))
    encoder = stable_diffusion.spec.text_encoder
    context = (encoder.max_length, encoder.width)
    _check_shape(text, spec, context[: 1 if text == "token_ids" else 2])
    _check_sides(pixels, spec[pixels].shape)
    _check_mask(pixels, spec)
    _check_micro_batches(spec[pixels].shape[0], gradient_accumulation_steps)


def _one_of(spec: dict[str, Any], *names: str) -> str:
    for name in names:
        if name in spec:
            return name
    raise ValueError(
        f"A batch must have {' or '.join(f'`{n}`' for n in names)} (see "
        f"`keras_sdft.data.load`). Received only: {sorted(spec)}."
    )


def _check_shape(
    name: str, spec: dict[str, Any], last: tuple[int, ...]
) -> None:
    shape = tuple(spec[name].shape)
    given = shape[len(shape) - len(last) :]
    if any(
        side is not None and side != expected
        for side, expected in zip(given, last, strict=True)
    ):
        raise ValueError(
            f"`{name}` must end in the dimensions {last} for this model. "
            f"Received: shape={shape}."
        )


def _check_sides(name: str, shape: Any) -> None:
    step = 64 if name == "images" else 8
    if any(side is not None and side % step for side in shape[1:3]):
        raise ValueError(
            f"Height and width of `{name}` must be multiples of {step}. "
            f"Received: shape={tuple(shape)}."
        )


def _check_mask(pixels: str, spec: dict[str, Any]) -> None:
    if "loss_mask" not in spec:
        return
    step = 8 if pixels == "images" else 1
    size, height, width = spec[pixels].shape[:3]
    latents = [None if s is None else s // step for s in (height, width)]
    expected = (size, *latents, 1)
    shape = tuple(spec["loss_mask"].shape)
    if len(shape) == 4 and all(
        None in pair or pair[0] == pair[1]
        for pair in zip(shape, expected, strict=True)
    ):
        return
    raise ValueError(
        "`loss_mask` must have the size of the latents, an eighth of the "
        f"images': {expected}. Received: shape={shape}."
    )


def _check_micro_batches(batch_size: int | None, steps: int) -> None:
    if batch_size is None or batch_size % steps == 0:
        return
    raise ValueError(
        "The dataset's batch size must be a multiple of "
        "`gradient_accumulation_steps`, since each batch is one optimizer "
        f"step. Received: batch size {batch_size}, "
        f"gradient_accumulation_steps={steps}."
    )
