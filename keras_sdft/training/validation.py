"""The validation loss: the same questions in every epoch.

Fixed noise, and timesteps spread over the whole schedule whatever training
draws. Must not know networks: the caller hands over what predicts.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from keras import ops

from keras_sdft.diffusion import gaussian
from keras_sdft.diffusion import stateless_seed
from keras_sdft.diffusion import stratified_timesteps
from keras_sdft.training.denoising import DenoisingLoss
from keras_sdft.training.denoising import squared_error


class Validation:
    """The plain denoising error of examples, at fixed noise.

    Args:
        objective: The `DenoisingLoss`, for its schedule and its target.
        num_timesteps: Integer >= 1, at how many timesteps each example is
            seen.
        seed: Integer >= 0.
    """

    def __init__(self, objective: DenoisingLoss, num_timesteps: int, seed: int):
        self.objective = objective
        self.num_timesteps = num_timesteps
        self.seed = seed

    def latent_noise(self, shape: Any, first: Any) -> Any:
        """The noise that latents of `shape` are sampled with.

        Args:
            shape: `(B, h, w, C)`.
            first: Integer tensor, position of the batch's first example.
        """
        return self._noise(shape, first, 0)

    def losses(
        self,
        predict: Callable[[Any, Any], Any],
        latents: Any,
        first: Any,
        mask: Any = None,
    ) -> Any:
        """The squared error of each example, float32 `(B,)`.

        Args:
            predict: Function of `(noised_latents, timesteps)`.
            latents: Float32 tensor `(B, h, w, C)`.
            first: Integer tensor, position of the batch's first example in
                the validation set.
            mask: Float32 tensor `(B, h, w, 1)` or `None`.
        """
        size = ops.shape(latents)[0]
        positions = first + ops.arange(size, dtype="int32")
        losses = []
        for stratum in range(self.num_timesteps):
            timesteps = stratified_timesteps(
                positions,
                stratum,
                self.num_timesteps,
                self.objective.schedule.num_train_timesteps,
            )
            noise = self._noise(ops.shape(latents), first, stratum + 1)
            noised, target = self.objective.noised_example(
                latents, noise, timesteps
            )
            prediction = predict(noised, timesteps)
            losses.append(squared_error(prediction, target, mask))
        return sum(losses) / len(losses)

    def _noise(self, shape: Any, first: Any, index: int) -> Any:
        key = first * (self.num_timesteps + 1) + index
        return gaussian(shape, stateless_seed(self.seed, "validation", key))
