"""Normalizations and a gate with custom gradients, which keep less.

Automatic differentiation has two to three times as many operations here, and
keeps every intermediate image until the backward pass. These keep inputs and
outputs, which their neighbours keep anyway; normalizations of half precision,
which compute in float32, their inputs alone.
Tests hold them to the same formulas under automatic differentiation. Written
in `keras.ops`; must not know layers.

References:
    Wu & He, Group Normalization, 2018, equation 1; Ba et al., Layer
    Normalization, 2016, equation 3.
"""

import math
from typing import Any

import keras
import numpy as np
from keras import ops


def group_normalization(
    images: Any,
    gamma: Any,
    beta: Any,
    groups: int,
    epsilon: float,
    swish: bool = False,
) -> Any:
    """Normalizes groups of channels, each image on its own.

    Args:
        images: Float tensor `(B, H, W, C)`.
        gamma: Float32 tensor `(C,)`.
        beta: Float32 tensor `(C,)`.
        groups: Integer that divides `C`.
        epsilon: Float > 0, added to the variance.
        swish: Boolean, whether `x * sigmoid(x)` follows.

    Returns:
        Tensor `(B, H, W, C)` of the images' dtype, computed in float32.
    """
    channels = images.shape[-1]
    size = places(images)
    spread = _Groups(channels, groups)

    @ops.custom_gradient
    def normalize(narrow: Any, gamma: Any, beta: Any) -> Any:
        x = _float32(narrow)
        mean = spread.mean(ops.mean(x, axis=1))
        variance = spread.mean(ops.mean(ops.square(x - mean), axis=1))
        root = ops.rsqrt(variance + epsilon)
        scale = root * gamma
        shift = beta - mean * scale
        y = x * scale + shift
        if swish:
            y = y * ops.sigmoid(y)
        kept = y if _is_float32(narrow) else None

        def gradient(*upstream: Any) -> tuple[Any, Any, Any]:
            (dy,) = map(_float32, upstream)
            # Not that of the forward pass, which would be kept.
            x = _float32(narrow)
            if swish:
                normal = x * scale + shift
                gate = ops.sigmoid(normal)
                y = normal * gate if kept is None else kept
                dy = dy * (gate + y * (1.0 - gate))
            centred = x - mean
            # Sums over places, for each image and channel.
            total = ops.sum(dy, axis=1)
            along = ops.sum(dy * centred, axis=1) * ops.squeeze(root, 1)
            per_place = 1.0 / ops.cast(size, "float32")
            pull = spread.mean(total * gamma) * (root * per_place)
            slope = spread.mean(along * gamma) * (root * root * per_place)
            dx = ops.cast(dy * scale - centred * slope - pull, narrow.dtype)
            return dx, ops.sum(along, axis=0), ops.sum(total, axis=0)

        return ops.cast(y, narrow.dtype), gradient

    flat = ops.reshape(images, (-1, size, channels))
    normal = normalize(flat, gamma, beta)
    return ops.reshape(normal, (-1, *sides(images), channels))


class _Groups:
    """Means over the channels of a group, at each of its channels."""

    def __init__(self, channels: int, groups: int):
        self.channels = channels
        self.grouped = (-1, groups, channels // groups)
        self.ones = np.ones((channels // groups,), "float32")

    def mean(self, x: Any) -> Any:
        """Returns the means `(B, 1, C)` of `(B, C)`."""
        x = ops.mean(ops.reshape(x, self.grouped), axis=2, keepdims=True)
        return ops.reshape(x * self.ones, (-1, 1, self.channels))


def layer_normalization(
    rows: Any, gamma: Any, beta: Any, epsilon: float
) -> Any:
    """Normalizes each row.

    Args:
        rows: Float tensor `(N, C)`.
        gamma: Float32 tensor `(C,)`.
        beta: Float32 tensor `(C,)`.
        epsilon: Float > 0, added to the variance.

    Returns:
        Tensor `(N, C)` of the rows' dtype, computed in float32.
    """

    @ops.custom_gradient
    def normalize(narrow: Any, gamma: Any, beta: Any) -> Any:
        x = _float32(narrow)
        mean = ops.mean(x, axis=1, keepdims=True)
        centred = x - mean
        variance = ops.mean(ops.square(centred), axis=1, keepdims=True)
        root = ops.rsqrt(variance + epsilon)
        normal = centred * root
        kept = normal if _is_float32(narrow) else None

        def gradient(*upstream: Any) -> tuple[Any, Any, Any]:
            (dy,) = map(_float32, upstream)
            normal = kept
            if normal is None:
                normal = (_float32(narrow) - mean) * root
            along = dy * normal
            pull = ops.mean(dy * gamma, axis=1, keepdims=True)
            slope = ops.mean(along * gamma, axis=1, keepdims=True)
            dx = (dy * gamma - normal * slope - pull) * root
            dx = ops.cast(dx, narrow.dtype)
            return dx, ops.sum(along, axis=0), ops.sum(dy, axis=0)

        return ops.cast(normal * gamma + beta, narrow.dtype), gradient

    return normalize(rows, gamma, beta)


def gated_gelu(rows: Any) -> Any:
    """Gates the first half of each row by the GELU of the second.

    Args:
        rows: Tensor `(N, 2 * C)`.

    Returns:
        Tensor `(N, C)`.
    """

    @ops.custom_gradient
    def gated(rows: Any) -> Any:
        x, gate = ops.split(rows, 2, axis=-1)
        y = x * (gate * _normal_cdf(gate))

        def gradient(*upstream: Any) -> Any:
            (dy,) = upstream
            x, gate = ops.split(rows, 2, axis=-1)
            below = _normal_cdf(gate)
            density = (0.5 / math.pi) ** 0.5 * ops.exp(gate * gate * -0.5)
            dx = dy * (gate * below)
            dgate = dy * x * (below + gate * density)
            return ops.concatenate([dx, dgate], axis=-1)

        return y, gradient

    return gated(rows)


def _normal_cdf(x: Any) -> Any:
    return 0.5 * ops.erf(x * 0.5**0.5) + 0.5


def _float32(x: Any) -> Any:
    return ops.cast(x, "float32")


def _is_float32(x: Any) -> bool:
    return keras.backend.standardize_dtype(x.dtype) == "float32"


def sides(images: Any) -> tuple[Any, Any]:
    """Returns height and width, as integers where they are known."""
    height, width = images.shape[1:3]
    if height is None or width is None:
        _, height, width, _ = ops.shape(images)
    return height, width


def places(images: Any) -> Any:
    """Returns height times width."""
    height, width = sides(images)
    return height * width
