"""All random numbers of a training step, for the whole batch at once.

Pure functions of the seed, the step and the place in the batch, so that
micro-batches, replicas and resumed runs see the same numbers. Must not know
networks or losses.
"""

from typing import Any

from keras import ops

from keras_sdft.diffusion import add_multires_noise
from keras_sdft.diffusion import add_offset_noise
from keras_sdft.diffusion import gaussian
from keras_sdft.diffusion import perturb_noise
from keras_sdft.diffusion import sample_timesteps
from keras_sdft.diffusion import stateless_seed
from keras_sdft.training.noise import Noise


class NoiseSampler:
    """Samples timesteps and noise.

    Each option has its own stream of random numbers: switching one on
    leaves the others' numbers as they were.

    Args:
        noise: A `Noise`.
        seed: Integer >= 0, the run's seed.
        num_train_timesteps: Integer `T`.
    """

    def __init__(self, noise: Noise, seed: int, num_train_timesteps: int):
        self.noise = noise
        self.seed = seed
        self.num_train_timesteps = num_train_timesteps
        self.probabilities = noise.probabilities(num_train_timesteps)
        span: Any = noise.timestep_range
        self.timestep_range = None if span is None else tuple(span)

    def __call__(self, shape: tuple[Any, ...], step: Any) -> dict[str, Any]:
        """Returns the random numbers of one step.

        Args:
            shape: `(B, h, w, C)`, of the latents.
            step: Integer tensor, the optimizer step.

        Returns:
            Dict of `timesteps (B,)`, `noise` and `latent_noise` of `shape`,
            each example's `share (B,)` of the batch, and `input_noise` of
            `shape` where it is not the noise itself.
        """
        size = shape[0]
        noise = self._noise(shape, step)
        known = isinstance(size, int)
        share = 1.0 / (size if known else ops.cast(size, "float32"))
        found = {
            "timesteps": sample_timesteps(
                size,
                stateless_seed(self.seed, "timesteps", step),
                self.num_train_timesteps,
                self.timestep_range,
                self.probabilities,
            ),
            "noise": noise,
            "latent_noise": gaussian(
                shape, stateless_seed(self.seed, "latents", step)
            ),
            "share": ops.full((size,), share, dtype="float32"),
        }
        if self.noise.input_perturbation:
            seed = stateless_seed(self.seed, "input_perturbation", step)
            found["input_noise"] = perturb_noise(
                noise, self.noise.input_perturbation, seed
            )
        return found

    def _noise(self, shape: tuple[Any, ...], step: Any) -> Any:
        options = self.noise
        noise = gaussian(shape, stateless_seed(self.seed, "noise", step))
        if options.multires_noise_iterations:
            noise = add_multires_noise(
                noise,
                options.multires_noise_iterations,
                options.multires_noise_discount,
                stateless_seed(self.seed, "multires_noise", step),
            )
        if options.offset_noise:
            seed = stateless_seed(self.seed, "offset_noise", step)
            noise = add_offset_noise(noise, options.offset_noise, seed)
        return noise
