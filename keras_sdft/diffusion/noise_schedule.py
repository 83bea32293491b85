"""The forward process: how much signal and noise each timestep holds.

Tables are computed once in float64 and kept as float32. Must not know
networks or how timesteps are drawn.
"""

from typing import Any

import numpy as np
from keras import ops


def scaled_linear_betas(
    num_train_timesteps: int = 1000,
    beta_start: float = 0.00085,
    beta_end: float = 0.012,
) -> np.ndarray:
    """Returns betas whose square roots are evenly spaced.

    The defaults are the schedule that Stable Diffusion 1.x and 2.x were
    trained with. (KerasCV's `NoiseScheduler()` defaults to another one.)

    Args:
        num_train_timesteps: Integer, length of the table.
        beta_start: Float in (0, 1), the first beta.
        beta_end: Float in (0, 1), the last beta.

    Returns:
        Float64 array of shape `(num_train_timesteps,)`.

    References:
        Rombach et al., High-Resolution Image Synthesis with Latent Diffusion
        Models, 2022.
    """
    if not 0 < beta_start <= beta_end < 1:
        raise ValueError(
            "Betas must satisfy 0 < `beta_start` <= `beta_end` < 1. "
            f"Received: beta_start={beta_start}, beta_end={beta_end}."
        )
    roots = np.linspace(beta_start**0.5, beta_end**0.5, num_train_timesteps)
    return roots**2


def rescale_to_zero_terminal_snr(betas: np.ndarray) -> np.ndarray:
    """Returns betas whose last timestep holds no signal at all.

    The square roots of `alphas_cumprod` are shifted and scaled so that the
    last is 0 and the first stays.

    Args:
        betas: Array of shape `(T,)` with values in (0, 1), `T` >= 2.

    Returns:
        Float64 array of shape `(T,)` in (0, 1]; the last is 1.

    References:
        Lin et al., Common Diffusion Noise Schedules and Sample Steps are
        Flawed, 2023, algorithm 1.
    """
    roots = np.sqrt(np.cumprod(1.0 - np.asarray(betas, dtype="float64")))
    first, last = roots[0], roots[-1]
    alphas_cumprod = ((roots - last) * first / (first - last)) ** 2
    alphas = alphas_cumprod.copy()
    alphas[1:] /= alphas_cumprod[:-1]
    return 1.0 - alphas


class NoiseSchedule:
    """Variance-preserving forward process of Stable Diffusion.

    Args:
        betas: Array of shape `(T,)` with values in (0, 1), or `None` for
            `scaled_linear_betas()`, Stable Diffusion's own.
        zero_terminal_snr: Boolean, whether they are rescaled so that the
            last timestep is pure noise, see
            `rescale_to_zero_terminal_snr`. A network that predicts the
            noise learns nothing there: use `"v_prediction"`.

    Attributes:
        num_train_timesteps: Integer `T`.
        alphas_cumprod: Float32 array `(T,)`: the share of the signal's
            variance left at each timestep.
        snr: Float32 array `(T,)`: signal-to-noise ratio,
            `alphas_cumprod / (1 - alphas_cumprod)`.

    References:
        Ho et al., Denoising Diffusion Probabilistic Models, 2020, section 2.
    """

    def __init__(
        self, betas: np.ndarray | None = None, zero_terminal_snr: bool = False
    ):
        betas = scaled_linear_betas() if betas is None else np.asarray(betas)
        if betas.ndim != 1 or not ((betas > 0) & (betas < 1)).all():
            raise ValueError(
                "`betas` must be a vector of values in (0, 1). Received: "
                f"shape={betas.shape}, min={betas.min()}, max={betas.max()}."
            )
        self.zero_terminal_snr = zero_terminal_snr
        if zero_terminal_snr:
            betas = rescale_to_zero_terminal_snr(betas)
        alphas_cumprod = np.cumprod(1.0 - betas.astype("float64"))
        self.num_train_timesteps = len(betas)
        self.betas = betas.astype("float32")
        self.alphas_cumprod = alphas_cumprod.astype("float32")
        self.snr = (alphas_cumprod / (1 - alphas_cumprod)).astype("float32")
        self._signal = np.sqrt(alphas_cumprod).astype("float32")
        self._noise = np.sqrt(1 - alphas_cumprod).astype("float32")

    def signal_rate(self, timesteps: Any) -> Any:
        """Returns `sqrt(alphas_cumprod[t])`, `(B, 1, 1, 1)`, float32."""
        return _per_example(self._signal, timesteps)

    def noise_rate(self, timesteps: Any) -> Any:
        """Returns `sqrt(1 - alphas_cumprod[t])`, `(B, 1, 1, 1)`, float32."""
        return _per_example(self._noise, timesteps)

    def add_noise(self, latents: Any, noise: Any, timesteps: Any) -> Any:
        """Noises clean latents to the given timesteps.

        Args:
            latents: Float32 tensor of shape `(B, h, w, C)`.
            noise: Float32 tensor of the same shape, unit variance.
            timesteps: Int32 tensor of shape `(B,)` in `[0, T)`.

        Returns:
            Float32 tensor of shape `(B, h, w, C)`.

        References:
            Ho et al., 2020, equation 4.
        """
        return (
            self.signal_rate(timesteps) * latents
            + self.noise_rate(timesteps) * noise
        )

    def velocity(self, latents: Any, noise: Any, timesteps: Any) -> Any:
        """Returns the target of v-prediction, of the shape of `latents`.

        References:
            Salimans & Ho, Progressive Distillation for Fast Sampling of
            Diffusion Models, 2022, appendix D.
        """
        return (
            self.signal_rate(timesteps) * noise
            - self.noise_rate(timesteps) * latents
        )


def _per_example(table: np.ndarray, timesteps: Any) -> Any:
    rates = ops.take(ops.convert_to_tensor(table), timesteps, axis=0)
    return ops.reshape(rates, (-1, 1, 1, 1))
