"""Makes latents white without another layer.

The matrix that whitens is folded into the 1x1 convolutions that end the
encoder and begin the decoder. Must not know how they were trained.
"""

from typing import Any

import numpy as np
from keras import ops


def covariance(moments: np.ndarray, scale: float = 1.0) -> np.ndarray:
    """Covariance of the mean of the latents.

    Args:
        moments: Float array `(N, h, w, 2 * C)`.
        scale: Float that the latents are multiplied by.

    Returns:
        Float64 array `(C, C)`.
    """
    return np.cov(_latents(moments) * scale, rowvar=False)


def _latents(moments):
    channels = moments.shape[-1] // 2
    return moments[..., :channels].reshape(-1, channels).astype("float64")


def fold(
    moments_model: Any, decoder: Any, moments: np.ndarray, scale: float
) -> None:
    """Makes scaled latents white; what is decoded stays the same.

    The symmetric root (ZCA) is taken: it moves the latents least. The
    logarithm of the variance becomes a constant for each channel: a
    mixture of channels has no diagonal variance that a linear layer knows.

    Args:
        moments_model: Ends in a 1x1 convolution to `2 * C` channels.
        decoder: Begins with a rescaling by `1 / scale` and a 1x1
            convolution of `C` channels.
        moments: Float array `(N, h, w, 2 * C)` of training pictures.
        scale: Float, the latent scale.
    """
    latents = _latents(moments)
    center = latents.mean(axis=0)
    values, vectors = np.linalg.eigh(np.cov(latents, rowvar=False))
    if values.min() < 1e-6 * values.max():
        raise ValueError(
            "A direction of the latents is not used, so they cannot be made "
            f"white. Eigenvalues of their covariance: {values}. Train longer."
        )
    whiten = (vectors / np.sqrt(values)) @ vectors.T / scale
    color = (vectors * np.sqrt(values)) @ vectors.T * scale
    channels = len(center)
    _fold_encoder(
        moments_model.layers[-1].conv2d,
        whiten,
        center,
        _mixed_log_variance(moments[..., channels:], whiten),
    )
    # After the decoder's input (no layer of a Sequential) and rescaling.
    first = decoder.layers[1].conv2d
    kernel, bias = _values(first)
    first.kernel.assign((color @ kernel)[None, None])
    first.bias.assign(center @ kernel + bias)


def _fold_encoder(last, whiten, center, log_variance):
    kernel, bias = _values(last)
    channels = len(center)
    new = np.zeros_like(kernel)
    new[:, :channels] = kernel[:, :channels] @ whiten
    last.kernel.assign(new[None, None])
    mean = (bias[:channels] - center) @ whiten
    last.bias.assign(np.concatenate([mean, log_variance]))


def _mixed_log_variance(log_variance, whiten):
    variance = np.exp(log_variance.astype("float64"))
    variance = variance.reshape(-1, len(whiten)).mean(axis=0)
    return np.log(variance @ whiten**2)


def _values(convolution):
    kernel = np.asarray(ops.convert_to_numpy(convolution.kernel))[0, 0]
    bias = np.asarray(ops.convert_to_numpy(convolution.bias))
    return kernel.astype("float64"), bias.astype("float64")
