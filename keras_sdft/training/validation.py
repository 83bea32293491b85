"""The validation loss: the same batches, noise and timesteps in every epoch.

Timesteps are spread over the whole schedule, whatever training samples.
"""

import contextlib
from typing import Any

from keras import ops

from keras_sdft.diffusion import gaussian
from keras_sdft.diffusion import stateless_seed
from keras_sdft.diffusion import stratified_timesteps
from keras_sdft.encoding import encode_captions
from keras_sdft.encoding import latent_shape
from keras_sdft.training import parts
from keras_sdft.training.denoising import Denoising
from keras_sdft.training.denoising import squared_error


class ValidationStep:
    """The validation of `Trainer`, a base of it."""

    def evaluate(self: Any, x: Any = None, *args: Any, **kwargs: Any) -> Any:
        """Computes the validation loss, of the averaged weights if kept."""
        if x is not None and not self.is_distributed(x):
            with self.devices_scope():
                self.check_dataset(x)
            x = self.distributed(x)
        # The same crops and captions each time.
        passes = getattr(x, "passes", None)
        same = passes.validating() if passes else contextlib.nullcontext()
        with same, self.averaged_weights():
            return super().evaluate(  # type: ignore[misc]
                x, *args, **kwargs
            )

    def reset_metrics(self: Any) -> None:
        super().reset_metrics()  # type: ignore[misc]
        # Validation begins at its first example again.
        self.validated.assign(0)

    def test_step(self: Any, data: dict[str, Any]) -> dict[str, Any]:
        """Computes the plain denoising error at fixed noise and timesteps."""
        parts.prepare(self.parts, self.step, training=False)
        losses = self.validation.losses(data, self.validated)
        whole = ops.shape(losses)[0]
        if "whole" in data:
            whole = ops.max(data["whole"])
        self.validated.assign_add(whole)
        sums = self.loss_metrics.sums(losses, data)
        found = self.mean_over_devices(losses, data["example_weight"], sums)
        return self.loss_metrics.update(*found)


class Validation:
    """The plain denoising error of examples, at fixed noise.

    Args:
        denoising: A `Denoising`, for its model, schedule and target.
        num_timesteps: Integer >= 1, at how many timesteps each example is
            seen.
        seed: Integer >= 0.
    """

    def __init__(self, denoising: Denoising, num_timesteps: int, seed: int):
        self.denoising = denoising
        self.num_timesteps = num_timesteps
        self.seed = seed

    def losses(self, batch: dict[str, Any], first: Any) -> Any:
        """Computes the squared error of each example.

        Args:
            batch: Dict of tensors.
            first: Integer tensor, position of the batch's first example in
                the validation set.

        Returns:
            Float32 tensor `(B,)`.
        """
        denoising = self.denoising
        shape = latent_shape(denoising.stable_diffusion, batch)
        places = ops.arange(shape[0], dtype="int32")
        positions = first + batch.get("place", places)
        noise = self._noise(shape, positions, 0)
        latents = denoising.latents(batch, noise)
        context = encode_captions(denoising.stable_diffusion, batch)
        losses = []
        for stratum in range(self.num_timesteps):
            timesteps = stratified_timesteps(
                positions,
                stratum,
                self.num_timesteps,
                denoising.loss.schedule.num_train_timesteps,
            )
            noise = self._noise(shape, positions, stratum + 1)
            noised, target = denoising.loss.noised_example(
                latents, noise, timesteps
            )
            prediction = denoising.predict(noised, timesteps, context, False)
            mask = batch.get("loss_mask")
            losses.append(squared_error(prediction, target, mask))
        return sum(losses) / len(losses)

    def _noise(self, shape: Any, positions: Any, index: int) -> Any:
        """Returns noise that depends on an example's position alone."""
        keys = positions * (self.num_timesteps + 1) + index

        def of_one(key: Any) -> Any:
            seed = stateless_seed(self.seed, "validation", key)
            return gaussian(shape[1:], seed)

        return ops.map(of_one, keys)
