"""Latents become a noised example and a target; a prediction a loss.

Must not know networks, batches' files or optimizers.
"""

from __future__ import annotations

import difflib
from typing import Any

from keras import ops

from keras_sdft.diffusion import NoiseSchedule
from keras_sdft.diffusion import check_prediction_type
from keras_sdft.diffusion import prediction_target
from keras_sdft.diffusion import weighting_table


class DenoisingLoss:
    """The denoising objective: what is predicted, and how errors count.

    Args:
        schedule: The `NoiseSchedule`.
        prediction_type: `"epsilon"` or `"v_prediction"`.
        weighting: A weighting's name or function, see
            `keras_sdft.diffusion.weighting_table`.
        loss: `"mse"` or `"huber"`.
        huber_delta: Float > 0, the size of error from which `"huber"` grows
            linearly.

    Raises:
        ValueError: If an argument is unknown, or they contradict each
            other.

    References:
        Ho et al., 2020, section 3.4.
    """

    def __init__(
        self,
        schedule: NoiseSchedule,
        prediction_type: str = "epsilon",
        weighting: Any = "constant",
        loss: str = "mse",
        huber_delta: float = 0.1,
    ):
        self.schedule = schedule
        self.prediction_type = check_prediction_type(prediction_type)
        if schedule.zero_terminal_snr and prediction_type == "epsilon":
            raise ValueError(
                "`zero_terminal_snr` cannot be used with "
                "`prediction_type='epsilon'`: at pure noise the noise is the "
                "input itself, and nothing is learned about the image. Use a "
                "v-prediction model."
            )
        _check_loss(loss, huber_delta)
        self.loss_kind = loss
        self.huber_delta = huber_delta
        self.weights = weighting_table(weighting, schedule.snr, prediction_type)

    def noised_example(
        self,
        latents: Any,
        noise: Any,
        timesteps: Any,
        input_noise: Any = None,
    ) -> tuple[Any, Any]:
        """What the network sees, and what it should answer.

        Args:
            latents: Float32 tensor `(B, h, w, C)`, clean.
            noise: Float32 tensor of the same shape.
            timesteps: Int32 tensor `(B,)`.
            input_noise: What the latents are noised with, where that is
                not `noise`, see `keras_sdft.diffusion.perturb_noise`.

        Returns:
            Tuple `(noised_latents, target)`, float32 `(B, h, w, C)`.
        """
        shown = noise if input_noise is None else input_noise
        noised = self.schedule.add_noise(latents, shown, timesteps)
        target = prediction_target(
            self.prediction_type, self.schedule, latents, noise, timesteps
        )
        return noised, target

    def loss(
        self, prediction: Any, target: Any, timesteps: Any, mask: Any = None
    ) -> Any:
        """The weighted loss of each example.

        Args:
            prediction: Tensor `(B, h, w, C)`.
            target: Float32 tensor `(B, h, w, C)`.
            timesteps: Int32 tensor `(B,)`.
            mask: Float32 tensor `(B, h, w, 1)` in [0, 1], how much each
                place counts, or `None`.

        Returns:
            Float32 tensor `(B,)`.
        """
        weights = ops.take(ops.convert_to_tensor(self.weights), timesteps)
        if self.loss_kind == "mse":
            return weights * squared_error(prediction, target, mask)
        return weights * huber_error(prediction, target, self.huber_delta, mask)


def squared_error(prediction: Any, target: Any, mask: Any = None) -> Any:
    """Mean squared error of each example, float32 `(B,)`."""
    return _mean_of_each(ops.square(_difference(prediction, target)), mask)


def huber_error(
    prediction: Any, target: Any, delta: float, mask: Any = None
) -> Any:
    """Mean pseudo-Huber error of each example, float32 `(B,)`.

    `2 * delta * (sqrt(d ** 2 + delta ** 2) - delta)` of the difference `d`:
    `d ** 2` where it is small against `delta`, `2 * delta * abs(d)` where
    large, so that outliers pull less.

    Args:
        prediction: Tensor `(B, h, w, C)`.
        target: Float32 tensor `(B, h, w, C)`.
        delta: Float > 0.
        mask: As for `DenoisingLoss.loss`.

    References:
        Charbonnier et al., Deterministic Edge-Preserving Regularization in
        Computed Imaging, 1997; Khrapov et al., Improving Diffusion Models'
        Data-Corruption Resistance using Scheduled Pseudo-Huber Loss, 2024.
    """
    difference = _difference(prediction, target)
    root = ops.sqrt(ops.square(difference) + delta**2)
    return _mean_of_each(2.0 * delta * (root - delta), mask)


def _difference(prediction: Any, target: Any) -> Any:
    return ops.cast(prediction, "float32") - target


def _mean_of_each(errors: Any, mask: Any) -> Any:
    # Reduced per example before anything is weighted: weights of shape
    # `(B,)` would broadcast over the last axis of an image instead.
    if mask is None:
        return ops.mean(errors, axis=(1, 2, 3))
    # The mean over what the mask lets through: a small mask does not make
    # a small loss, and an empty one makes none.
    mask = ops.cast(mask, "float32")
    total = ops.sum(errors * mask, axis=(1, 2, 3))
    area = ops.sum(mask, axis=(1, 2, 3)) * errors.shape[-1]
    return total / ops.where(area > 0, area, 1.0)


LOSSES = ("huber", "mse")


def _check_loss(loss: str, huber_delta: float) -> None:
    if loss not in LOSSES:
        near = difflib.get_close_matches(str(loss), LOSSES, 1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise ValueError(
            f"`loss` must be one of {list(LOSSES)}. Received: {loss!r}.{hint}"
        )
    if not huber_delta > 0:
        raise ValueError(f"`huber_delta` must be > 0. Received: {huber_delta}.")
