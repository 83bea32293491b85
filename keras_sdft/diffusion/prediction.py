"""What the network predicts, and the way back to latents and noise.

Must not know the network or the loss.
"""

from typing import Any

from keras_sdft import checks
from keras_sdft.diffusion.noise_schedule import NoiseSchedule

PREDICTION_TYPES = ("epsilon", "v_prediction")


def check_prediction_type(prediction_type: str) -> str:
    """Returns a valid prediction type, or raises `ValueError`."""
    return checks.one_of("prediction_type", prediction_type, PREDICTION_TYPES)


def prediction_target(
    prediction_type: str,
    schedule: NoiseSchedule,
    latents: Any,
    noise: Any,
    timesteps: Any,
) -> Any:
    """Returns what the network should predict for noised latents.

    Args:
        prediction_type: `"epsilon"` (the noise) or `"v_prediction"`.
        schedule: The `NoiseSchedule`.
        latents: Float32 tensor `(B, h, w, C)`, clean.
        noise: Float32 tensor of the same shape.
        timesteps: Int32 tensor `(B,)`.

    Returns:
        Float32 tensor of the shape of `latents`.
    """
    if check_prediction_type(prediction_type) == "epsilon":
        return noise
    return schedule.velocity(latents, noise, timesteps)


def split_prediction(
    prediction_type: str,
    noised_latents: Any,
    prediction: Any,
    signal_rate: Any,
    noise_rate: Any,
) -> tuple[Any, Any]:
    """Returns the clean latents and the noise that a prediction implies.

    Args:
        prediction_type: `"epsilon"` or `"v_prediction"`.
        noised_latents: Float32 tensor `(B, h, w, C)`.
        prediction: Float32 tensor of the same shape, the network's output.
        signal_rate: `sqrt(alphas_cumprod)`: a float, or `(B, 1, 1, 1)`.
        noise_rate: `sqrt(1 - alphas_cumprod)`, likewise.

    Returns:
        Tuple `(latents, noise)` of float32 tensors `(B, h, w, C)`.

    References:
        Salimans & Ho, 2022, appendix D.
    """
    if check_prediction_type(prediction_type) == "epsilon":
        latents = (noised_latents - noise_rate * prediction) / signal_rate
        return latents, prediction
    latents = signal_rate * noised_latents - noise_rate * prediction
    noise = signal_rate * prediction + noise_rate * noised_latents
    return latents, noise
