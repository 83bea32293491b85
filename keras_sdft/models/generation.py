"""Guidance and starting noise: what sampling needs around the network.

Must not know text, decoders or presets.
"""

import random
from collections.abc import Callable
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_sdft import checks
from keras_sdft import diffusion
from keras_sdft.models import network_calls
from keras_sdft.models.spec import StableDiffusionSpec


class NonFiniteImage(ValueError):
    """Raised if an image's numbers became NaN or infinite."""

    def __init__(self, what: str):
        super().__init__(
            f"The image's {what} became NaN or infinite, so there is no "
            "image. Expected finite numbers. Either the model's weights are "
            "not finite (a training run that diverged; `keras-sdft inspect` "
            "tells), or float16 overflowed: load the model with "
            "dtype='mixed_bfloat16' or 'float32'."
        )


def check_options(
    batch_size: Any,
    num_steps: Any,
    guidance_scale: Any,
    guidance_rescale: Any,
    seed: Any,
    sampler: Any,
) -> None:
    """Checks what `StableDiffusion.generate_image` is called with.

    Raises:
        ValueError: If an option is of another kind or out of its range.
    """
    checks.integer("batch_size", batch_size, minimum=1)
    checks.integer("num_steps", num_steps, 1, 1000)
    checks.number("guidance_scale", guidance_scale, minimum=0)
    checks.number("guidance_rescale", guidance_rescale, 0, 1)
    checks.one_of("sampler", sampler, diffusion.SAMPLERS)
    for one in seed if is_list(seed) else [seed]:
        if seed is not None:
            checks.integer("seed", one, 0, 2**31 - 1)


def is_list(seed: Any) -> bool:
    """Returns whether there is a seed for each image."""
    return isinstance(seed, (Sequence, np.ndarray)) and not isinstance(
        seed, str
    )


def starting_noise(
    shape: tuple[int, ...],
    given: Any = None,
    seed: int | Sequence[int] | None = None,
) -> Any:
    """Returns the noise that images begin as, drawn or given.

    Args:
        shape: `(B, h, w, C)`.
        given: Noise of that shape, or `(h, w, C)` to begin every image
            alike, or `None` to draw it.
        seed: Integer for the same noise each time, a list of one for each
            image (which is then that of the image alone), or `None`.

    Returns:
        Float32 tensor of `shape`.

    Raises:
        ValueError: If a shape or a number does not fit, or both are given.
    """
    if given is not None and seed is not None:
        raise ValueError(
            "Pass either `diffusion_noise` or `seed`, not both: the seed "
            "only serves to draw the noise."
        )
    if is_list(seed):
        if len(seed) != shape[0]:  # type: ignore[arg-type]
            raise ValueError(
                f"A list of seeds must have one for each of {shape[0]} "
                f"images. Received: seed={seed!r}."
            )
        alone = (1, *shape[1:])
        return ops.concatenate(
            [starting_noise(alone, seed=int(s)) for s in seed]  # type: ignore
        )
    if given is None:
        # Not by a generator, whose state is a variable: one worker of several
        # may make none alone. `keras.utils.set_random_seed` reaches this.
        seed = random.randint(1, 10**9) if seed is None else seed
        return keras.random.normal(shape, dtype="float32", seed=seed)
    given = np.asarray(ops.convert_to_numpy(given), dtype="float32")
    if given.ndim == 3:
        given = np.repeat(given[None], shape[0], axis=0)
    if given.shape != shape:
        raise ValueError(
            f"`diffusion_noise` must have shape {shape} or {shape[1:]}. "
            f"Received: shape={given.shape}."
        )
    _check_given("diffusion_noise", given)
    return ops.convert_to_tensor(given)


def guided_prediction(
    diffusion_model: Any,
    timestep_width: int,
    context: np.ndarray,
    negative: np.ndarray | None,
    scale: float,
    rescale: float = 0.0,
) -> Callable[[Any, Any], Any]:
    """Returns a prediction with classifier-free guidance, in batched calls.

    Args:
        diffusion_model: The network.
        timestep_width: Integer, size of its timestep embedding.
        context: Float array `(B, 77, D)`, what to generate.
        negative: Float array `(n, 77, D)`, what to stay away from, where
            `n` divides `B`; `None` where `scale` is at most 1.
        scale: Float; up to `1.0` it predicts from `context` alone.
        rescale: Float in [0, 1], how far the guided prediction is brought
            back to the deviation of the prompt's own.

    Returns:
        A function of `(latents, timesteps)` for `keras_sdft.diffusion`.

    References:
        Ho & Salimans, Classifier-Free Diffusion Guidance, 2022; Lin et al.,
        Common Diffusion Noise Schedules and Sample Steps are Flawed, 2023,
        section 3.4.
    """
    checks.number("guidance_rescale", rescale, 0, 1)
    guided = scale > 1.0
    if guided:
        negative = _one_for_each(negative, len(context))
        context = np.concatenate([negative, context])
    # Torch takes no arrays beside tensors.
    context = ops.convert_to_tensor(context)

    def predict(latents: Any, timesteps: Any) -> Any:
        if guided:
            latents = ops.concatenate([latents, latents])
            timesteps = ops.concatenate([timesteps, timesteps])
        prediction = network_calls.predict(
            diffusion_model,
            {
                "latent": latents,
                "timestep_embedding": diffusion.timestep_embedding(
                    timesteps, timestep_width
                ),
                "context": context,
            },
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


def _one_for_each(negative: Any, count: int) -> np.ndarray:
    if count % len(negative):
        raise ValueError(
            "`negative_prompt` must be one prompt or one for each prompt. "
            f"Received: {len(negative)} for {count} images."
        )
    return np.repeat(negative, count // len(negative), axis=0)


def sample(
    predict: Callable[[Any, Any], Any],
    noise: Any,
    spec: StableDiffusionSpec,
    num_steps: int,
    sampler: str = "ddim",
) -> Any:
    """Makes latents from noise at the timesteps that the model asks for.

    Args:
        predict: Function of `(latents, timesteps)`.
        noise: Float32 tensor `(B, h, w, C)`.
        spec: The `StableDiffusionSpec`.
        num_steps: Integer >= 1.
        sampler: See `keras_sdft.diffusion.sample`.

    Returns:
        Float32 tensor `(B, h, w, C)`.

    Raises:
        NonFiniteImage: If the latents are not finite at the end.
    """
    latents = diffusion.sample(
        predict,
        noise,
        diffusion.NoiseSchedule(zero_terminal_snr=spec.zero_terminal_snr),
        num_steps,
        sampler=sampler,
        spacing=spec.spacing,
        steps_offset=spec.steps_offset,
        prediction_type=spec.prediction_type,
    )
    check_finite(latents, "latents")
    return latents


def check_finite(values: Any, what: str) -> None:
    """Raises `NonFiniteImage` if a value is NaN or infinite.

    Args:
        values: Tensor.
        what: String, `"latents"` or `"pixels"`.
    """
    if not bool(ops.all(ops.isfinite(values))):
        raise NonFiniteImage(what)


def given_context(encoded_text: Any, shape: tuple[int, int]) -> np.ndarray:
    """Returns encoded text as a context `(prompts, *shape)`.

    Raises:
        ValueError: If it has another shape, or is not finite.
    """
    context = np.asarray(ops.convert_to_numpy(encoded_text))
    context = context if context.ndim == 3 else context[None]
    if context.shape[1:] != shape or not len(context):
        raise ValueError(
            f"`encoded_text` must have shape (prompts, {shape[0]}, "
            f"{shape[1]}) or {shape}. Received: shape="
            f"{np.shape(encoded_text)}."
        )
    _check_given("encoded_text", context)
    return context


def _check_given(name: str, values: np.ndarray) -> None:
    if not np.isfinite(values.astype("float32")).all():
        raise ValueError(f"`{name}` must be finite. Received NaN or infinity.")


def check_size(height: Any, width: Any) -> None:
    """Checks the sides of images.

    Raises:
        ValueError: If one is no multiple of 64 pixels.
    """
    checks.multiple_of("height", height, 64, " pixels")
    checks.multiple_of("width", width, 64, " pixels")
