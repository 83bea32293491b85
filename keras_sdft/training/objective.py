"""Latents become a noised example and a target; a prediction a loss.

Must not know networks, batches' files or optimizers.
"""

from __future__ import annotations

from typing import Any

from keras import ops

from keras_sdft.diffusion import NoiseSchedule
from keras_sdft.diffusion import check_prediction_type
from keras_sdft.diffusion import prediction_target
from keras_sdft.diffusion import weighting_table


class Objective:
    """The denoising objective: what is predicted, and how errors count.

    Args:
        schedule: The `NoiseSchedule`.
        prediction_type: `"epsilon"` or `"v_prediction"`.
        weighting: A weighting's name or function, see
            `keras_sdft.diffusion.weighting_table`.

    References:
        Ho et al., 2020, section 3.4.
    """

    def __init__(
        self,
        schedule: NoiseSchedule,
        prediction_type: str = "epsilon",
        weighting: Any = "constant",
    ):
        self.schedule = schedule
        self.prediction_type = check_prediction_type(prediction_type)
        self.weights = weighting_table(weighting, schedule.snr, prediction_type)

    def noised_example(
        self, latents: Any, noise: Any, timesteps: Any
    ) -> tuple[Any, Any]:
        """What the network sees, and what it should answer.

        Args:
            latents: Float32 tensor `(B, h, w, C)`, clean.
            noise: Float32 tensor of the same shape.
            timesteps: Int32 tensor `(B,)`.

        Returns:
            Tuple `(noised_latents, target)`, float32 `(B, h, w, C)`.
        """
        noised = self.schedule.add_noise(latents, noise, timesteps)
        target = prediction_target(
            self.prediction_type, self.schedule, latents, noise, timesteps
        )
        return noised, target

    def loss(self, prediction: Any, target: Any, timesteps: Any) -> Any:
        """Weighted mean squared error of each example, float32 `(B,)`."""
        weights = ops.take(ops.convert_to_tensor(self.weights), timesteps)
        return weights * squared_error(prediction, target)


def squared_error(prediction: Any, target: Any) -> Any:
    """Mean squared error of each example, float32 `(B,)`."""
    # Reduced per example before anything is weighted: weights of shape
    # `(B,)` would broadcast over the last axis of an image instead.
    difference = ops.cast(prediction, "float32") - target
    return ops.mean(ops.square(difference), axis=(1, 2, 3))
