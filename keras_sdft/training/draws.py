"""All random numbers of a training step, drawn for the whole batch at once.

Pure functions of the seed, the step and the place in the batch, so that
micro-batches, replicas and resumed runs see the same numbers. Must not know
networks or losses.
"""

from __future__ import annotations

from typing import Any

from keras import ops

from keras_sdft.diffusion import add_multires_noise
from keras_sdft.diffusion import add_offset_noise
from keras_sdft.diffusion import check_timestep_range
from keras_sdft.diffusion import gaussian
from keras_sdft.diffusion import perturb_noise
from keras_sdft.diffusion import sample_timesteps
from keras_sdft.diffusion import stateless_seed
from keras_sdft.diffusion import timestep_probabilities


class Draws:
    """Draws timesteps and noise, as the options of the trainer ask for.

    Each option has its own stream of random numbers: switching one on
    leaves what the others draw as it was.

    Args:
        seed: Integer >= 0, the run's seed.
        num_train_timesteps: Integer `T`.
        offset_noise: Float >= 0, see `add_offset_noise`.
        multires_noise_iterations: Integer >= 0, see `add_multires_noise`.
        multires_noise_discount: Float in (0, 1].
        input_perturbation: Float >= 0, see `perturb_noise`.
        timestep_range: Pair `(first, end)` or `None` for all.
        timestep_bias: Relative probabilities of the timesteps, or a
            function of `T` that returns them, or `None`.
    """

    def __init__(
        self,
        seed: int = 0,
        num_train_timesteps: int = 1000,
        offset_noise: float = 0.0,
        multires_noise_iterations: int = 0,
        multires_noise_discount: float = 0.3,
        input_perturbation: float = 0.0,
        timestep_range: tuple[int, int] | None = None,
        timestep_bias: Any = None,
    ):
        check_at_least("seed", seed, 0)
        check_at_least("offset_noise", offset_noise, 0)
        check_at_least(
            "multires_noise_iterations", multires_noise_iterations, 0
        )
        check_at_least("input_perturbation", input_perturbation, 0)
        if not 0.0 < multires_noise_discount <= 1.0:
            raise ValueError(
                "`multires_noise_discount` must lie in (0, 1]. Received: "
                f"{multires_noise_discount}."
            )
        if timestep_range is not None:
            timestep_range = check_timestep_range(
                timestep_range, num_train_timesteps
            )
        self.seed = seed
        self.num_train_timesteps = num_train_timesteps
        self.offset_noise = offset_noise
        self.multires_noise_iterations = multires_noise_iterations
        self.multires_noise_discount = multires_noise_discount
        self.input_perturbation = input_perturbation
        self.timestep_range = timestep_range
        self.probabilities = None
        if timestep_bias is not None:
            self.probabilities = timestep_probabilities(
                timestep_bias, timestep_range, num_train_timesteps
            )

    def __call__(self, shape: tuple[Any, ...], step: Any) -> dict[str, Any]:
        """Draws for one step.

        Args:
            shape: `(B, h, w, C)`, of the latents.
            step: Integer tensor, the optimizer step.

        Returns:
            Dict of `timesteps (B,)`, `noise` and `latent_noise` of `shape`,
            each example's `share (B,)` of the batch, and `input_noise` of
            `shape` where it is not the noise itself.
        """
        noise = self._noise(shape, step)
        draws = {
            "timesteps": sample_timesteps(
                shape[0],
                stateless_seed(self.seed, "timesteps", step),
                self.num_train_timesteps,
                self.timestep_range,
                self.probabilities,
            ),
            "noise": noise,
            "latent_noise": gaussian(
                shape, stateless_seed(self.seed, "latents", step)
            ),
            "share": ops.full((shape[0],), 1.0 / shape[0], dtype="float32"),
        }
        if self.input_perturbation:
            seed = stateless_seed(self.seed, "input_perturbation", step)
            draws["input_noise"] = perturb_noise(
                noise, self.input_perturbation, seed
            )
        return draws

    def _noise(self, shape: tuple[Any, ...], step: Any) -> Any:
        noise = gaussian(shape, stateless_seed(self.seed, "noise", step))
        if self.multires_noise_iterations:
            noise = add_multires_noise(
                noise,
                self.multires_noise_iterations,
                self.multires_noise_discount,
                stateless_seed(self.seed, "multires_noise", step),
            )
        if self.offset_noise:
            seed = stateless_seed(self.seed, "offset_noise", step)
            noise = add_offset_noise(noise, self.offset_noise, seed)
        return noise


def check_at_least(name: str, value: Any, least: int) -> None:
    """Raises `ValueError` for an argument below its least value."""
    if value < least:
        raise ValueError(f"`{name}` must be >= {least}. Received: {value}.")
