"""A batch and its random numbers become the loss of each example.

In `keras.ops` alone: without a tape, an optimizer or a backend's own
operations. The step of each backend differentiates `Denoising.losses`.
"""

import dataclasses
from collections.abc import Iterable
from typing import Any

from keras import ops

from keras_sdft.diffusion import NoiseSchedule
from keras_sdft.diffusion import prediction_target
from keras_sdft.diffusion import timestep_embedding
from keras_sdft.encoding import encode_captions
from keras_sdft.encoding import encode_images
from keras_sdft.encoding import sample_latents
from keras_sdft.models import adapted
from keras_sdft.training.objective import Objective

# What a network encodes in a batch.
ENCODED = {"image_encoder": "moments", "text_encoder": "context"}
_ENCODE = {"image_encoder": encode_images, "text_encoder": encode_captions}


class Denoising:
    """The denoising loss of a model.

    Args:
        stable_diffusion: A `keras_sdft.StableDiffusion`.
        loss: A `DenoisingLoss`.
        networks: Names of the networks that are run with gradients.
    """

    def __init__(
        self,
        stable_diffusion: Any,
        loss: "DenoisingLoss",
        networks: Iterable[str] = ("diffusion_model",),
    ):
        self.stable_diffusion = stable_diffusion
        self.loss = loss
        self.networks = tuple(networks)

    def encode_frozen(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Returns the batch with what frozen encoders make of it.

        To be called outside of differentiation, so that nothing is kept for
        a backward pass.
        """
        found = dict(batch)
        for network, name in ENCODED.items():
            if network not in self.networks:
                encode = _ENCODE[network]
                found[name] = encode(self.stable_diffusion, batch)
        if "base_target" in batch:
            found["base_prediction"] = self.base_prediction(found)
        return found

    def base_prediction(self, batch: dict[str, Any]) -> Any:
        """Returns what the base under the adapters predicts.

        Args:
            batch: As for `losses`.
        """
        timesteps = batch["timesteps"]
        latents = self.latents(batch, batch["latent_noise"])
        noised, _ = self.loss.noised_example(
            latents, batch["noise"], timesteps, batch.get("input_noise")
        )
        with adapted.adapters_disabled():
            context = encode_captions(self.stable_diffusion, batch)
            return self.predict(noised, timesteps, context)

    def losses(self, batch: dict[str, Any]) -> Any:
        """Computes the weighted loss of each example.

        Args:
            batch: Dict of tensors: a batch, with the random numbers of
                `NoiseSampler`, from `encode_frozen`. Rows whose
                `base_target` is 1 are compared with what the base under the
                adapters predicts.

        Returns:
            Float32 tensor `(B,)`.

        References:
            Rombach et al., 2022, equation 3.
        """
        timesteps = batch["timesteps"]
        latents = self.latents(batch, batch["latent_noise"])
        context = encode_captions(self.stable_diffusion, batch)
        noised, target = self.loss.noised_example(
            latents, batch["noise"], timesteps, batch.get("input_noise")
        )
        if "base_target" in batch:
            asked = ops.reshape(batch["base_target"], (-1, 1, 1, 1)) > 0
            base = ops.cast(batch["base_prediction"], target.dtype)
            target = ops.where(asked, base, target)
        prediction = self.predict(noised, timesteps, context)
        return self.loss.losses(
            prediction, target, timesteps, batch.get("loss_mask")
        )

    def latents(self, batch: dict[str, Any], noise: Any) -> Any:
        """Returns the latents `(B, h, w, C)`, sampled with `noise`."""
        moments = encode_images(self.stable_diffusion, batch)
        scale = self.stable_diffusion.spec.autoencoder.latent_scale
        return sample_latents(moments, noise, scale)

    def predict(
        self,
        noised_latents: Any,
        timesteps: Any,
        context: Any,
        training: bool = True,
    ) -> Any:
        """Runs the diffusion model, see `DiffusionModel`."""
        width = self.stable_diffusion.spec.diffusion_model.timestep_width
        inputs = {
            "latent": noised_latents,
            "timestep_embedding": timestep_embedding(timesteps, width),
            "context": context,
        }
        model = self.stable_diffusion.diffusion_model
        return model(inputs, training=training)


class DenoisingLoss:
    """What is predicted for noised latents, and how errors count.

    Args:
        objective: An `Objective`.
        prediction_type: `"epsilon"` or `"v_prediction"`.
        zero_terminal_snr: Boolean, whether the schedule ends in pure noise.
    """

    def __init__(
        self,
        objective: Objective,
        prediction_type: str = "epsilon",
        zero_terminal_snr: bool = False,
    ):
        self.objective = objective
        self.prediction_type = prediction_type
        self.schedule = NoiseSchedule(zero_terminal_snr=zero_terminal_snr)
        self.weights = objective.weights(prediction_type, zero_terminal_snr)

    @classmethod
    def of(cls, objective: Objective, stable_diffusion: Any) -> "DenoisingLoss":
        """Makes the loss of a model, as it was trained or is asked to be.

        Raises:
            ValueError: If the model cannot be trained so.
        """
        spec = stable_diffusion.spec
        prediction_type, zero_terminal_snr = objective.resolve(
            spec.prediction_type,
            spec.zero_terminal_snr,
            stable_diffusion.is_pretrained,
        )
        return cls(objective, prediction_type, zero_terminal_snr)

    def spec_of(self, spec: Any) -> Any:
        """Returns the spec of the model that is trained with this loss."""
        return dataclasses.replace(
            spec,
            prediction_type=self.prediction_type,
            zero_terminal_snr=self.schedule.zero_terminal_snr,
        )

    def noised_example(
        self,
        latents: Any,
        noise: Any,
        timesteps: Any,
        input_noise: Any = None,
    ) -> tuple[Any, Any]:
        """Returns what the network sees, and what it should predict.

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

    def losses(
        self, prediction: Any, target: Any, timesteps: Any, mask: Any = None
    ) -> Any:
        """Computes the weighted loss of each example.

        Args:
            prediction: Tensor `(B, h, w, C)`.
            target: Float32 tensor `(B, h, w, C)`.
            timesteps: Int32 tensor `(B,)`.
            mask: Float32 tensor `(B, h, w, 1)` in [0, 1], how much each
                position counts, or `None`.

        Returns:
            Float32 tensor `(B,)`.
        """
        weights = ops.take(ops.convert_to_tensor(self.weights), timesteps)
        if self.objective.loss == "mse":
            return weights * squared_error(prediction, target, mask)
        delta = self.objective.huber_delta
        return weights * huber_error(prediction, target, delta, mask)


def loss_of(losses: Any, batch: dict[str, Any]) -> Any:
    """Returns the scalar that a step differentiates.

    Each example's share is that of the whole batch, so that the sum over
    micro-batches and replicas is the mean over the batch.

    Args:
        losses: Float32 tensor `(B,)`.
        batch: Dict with `example_weight` and `share`, tensors `(B,)`.
    """
    return ops.sum(losses * batch["example_weight"] * batch["share"])


def squared_error(prediction: Any, target: Any, mask: Any = None) -> Any:
    """Computes the mean squared error of each example, float32 `(B,)`."""
    return _mean_of_each(ops.square(_difference(prediction, target)), mask)


def huber_error(
    prediction: Any, target: Any, delta: float, mask: Any = None
) -> Any:
    """Computes the mean pseudo-Huber error of each example, float32 `(B,)`.

    `2 * delta * (sqrt(d ** 2 + delta ** 2) - delta)` of the difference `d`:
    `d ** 2` where it is small against `delta`, `2 * delta * abs(d)` where
    large, so that outliers pull less.

    Args:
        prediction: Tensor `(B, h, w, C)`.
        target: Float32 tensor `(B, h, w, C)`.
        delta: Float > 0.
        mask: As for `DenoisingLoss.losses`.

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
    # The mean over what the mask selects: a small mask does not make a small
    # loss, and an empty one makes none.
    mask = ops.cast(mask, "float32")
    total = ops.sum(errors * mask, axis=(1, 2, 3))
    area = ops.sum(mask, axis=(1, 2, 3)) * errors.shape[-1]
    return total / ops.where(area > 0, area, 1.0)
