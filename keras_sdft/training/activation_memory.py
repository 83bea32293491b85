"""What the U-Net keeps from its forward pass for its backward pass.

Walks the layers in the order in which they run, and counts the tensors that
TensorFlow's gradients read again; a test holds the counts against traced
graphs. Must not know optimizers, nor how much memory there is.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from keras_sdft.models.kernels import gate

_FLOAT32 = 4


@dataclasses.dataclass(frozen=True)
class Stage:
    """One layer in a training step; all in bytes.

    Attributes:
        entry: Its input image, all that rematerialisation keeps of it.
        held: What its backward pass reads of its forward pass.
        working: The most that its backward pass makes beside, at once.
        gradients: The gradients of its weights.
        remat: Boolean, whether it computes `held` a second time instead of
            keeping it.
    """

    entry: int
    held: int
    working: int
    gradients: int
    remat: bool

    @property
    def kept(self) -> int:
        """What is kept of it while other layers run."""
        return self.entry if self.remat else self.held

    @property
    def running(self) -> int:
        """What is added to that while its own backward pass runs."""
        return self.working + (self.held if self.remat else 0)


@dataclasses.dataclass(frozen=True)
class Place:
    """Where in the network a layer stands.

    Attributes:
        batch: Integer, examples that are computed at once.
        height: Integer, of the layer's input.
        width: Integer, of the layer's input.
        context_length: Integer, positions of the text.
    """

    batch: int
    height: int
    width: int
    context_length: int

    @property
    def area(self) -> int:
        """Positions of one image."""
        return self.height * self.width

    def scaled(self, up: int = 1, down: int = 1) -> Place:
        """The place after a layer that changes height and width."""
        return dataclasses.replace(
            self,
            height=self.height * up // down,
            width=self.width * up // down,
        )


def stages(network: Any, place: Place) -> list[Stage]:
    """Lists what the layers of a U-Net keep, from the first to the last.

    Args:
        network: A `keras_sdft.models.DiffusionModel`, or KerasCV's: layers
            are known by the names of their classes, which both share.
        place: `Place` of the latents.

    Returns:
        List of `Stage`.

    Raises:
        ValueError: If no layer is known.
    """
    found = []
    for layer in network.layers:
        count = _COUNTED.get(type(layer).__name__)
        if count is not None:
            stage, place = count(layer, place)
            found.append(stage)
    if not found:
        raise ValueError(
            "The memory of activations is known for the layers of "
            f"`keras_sdft.models.DiffusionModel`: {sorted(_COUNTED)}. "
            f"Received a network without any of them: {network}."
        )
    return found


def fullest(found: list[Stage], slack: float = 1.0) -> tuple[int, int]:
    """The most bytes that there are at once.

    On the way back a layer's activations go as its gradients come.

    Args:
        found: List of `stages`.
        slack: Float >= 1, what an allocator takes for a byte.

    Returns:
        Tuple of the most activations, and of the most activations and
        gradients together.
    """
    kept = itertools.accumulate(stage.kept for stage in found)
    activations = [
        round(slack * (before + stage.running))
        for before, stage in zip(kept, found, strict=True)
    ]
    gradients = list(
        itertools.accumulate(stage.gradients for stage in reversed(found))
    )
    together = [
        sum(pair) for pair in zip(activations, reversed(gradients), strict=True)
    ]
    return max(activations), max(together)


def weight_bytes(weights: Any) -> int:
    """Bytes of a list of `keras.Variable`, each in its own dtype."""
    return sum(
        tf.TensorShape(weight.shape).num_elements() * itemsize(weight.dtype)
        for weight in weights
    )


def itemsize(dtype: Any) -> int:
    """Bytes of a number of a dtype or of a dtype's name."""
    return tf.as_dtype(dtype).size


def _stage(
    layer: Any, entry: int, held: int, working: int, remat: bool = False
) -> Stage:
    size = itemsize(layer.compute_dtype)
    if size < _FLOAT32:
        # The half-precision copy of the kernels is read again on the way
        # back.
        held += weight_bytes(layer.trainable_weights) * size // _FLOAT32
    gradients = weight_bytes(layer.trainable_weights)
    return Stage(entry, held, working, gradients, remat)


def _convolution(layer: Any, place: Place) -> tuple[Stage, Place]:
    size = itemsize(layer.compute_dtype)
    channels, filters = layer.conv2d.kernel.shape[2:]
    stride = layer.conv2d.strides[0]
    # At stride 2 a row and a column of padding are written.
    pad = stride - 1
    padded = (place.height + pad) * (place.width + pad)
    held = place.batch * padded * channels * size
    after = place.scaled(down=stride)
    working = held + 2 * place.batch * after.area * filters * size
    return _stage(layer, held, held, working), after


def _upsample(layer: Any, place: Place) -> tuple[Stage, Place]:
    size = itemsize(layer.compute_dtype)
    after = place.scaled(up=2)
    channels, filters = _kernel(layer).shape[2:]
    image = place.batch * place.area * channels * size
    large = place.batch * after.area * size
    working = large * (channels + 2 * filters)
    return _stage(layer, image, large * channels, working), after


def _normalization(layer: Any, place: Place) -> tuple[Stage, Place]:
    """The last normalization, with the activation after it."""
    size = itemsize(layer.compute_dtype)
    image = place.batch * place.area * layer.gamma.shape[0]
    held = image * _normalized(size)
    return _stage(layer, image * size, held, 3 * image * _FLOAT32), place


def _residual(layer: Any, place: Place) -> tuple[Stage, Place]:
    """Twice normalization with activation, and convolution."""
    size = itemsize(layer.compute_dtype)
    channels, filters = layer.entry_flow[-1].conv2d.kernel.shape[2:]
    positions = place.batch * place.area
    each = (channels + filters) * _normalized(size)
    if size < _FLOAT32 and layer.residual_projection is not None:
        each += channels * size
    # The gradients of output, of the activation's input and output, and
    # the sigmoid.
    working = positions * max(channels, filters) * 4 * _FLOAT32
    entry = positions * channels * size
    remat = getattr(layer, "remat", False)
    return _stage(layer, entry, positions * each, working, remat), place


def _transformer(layer: Any, place: Place) -> tuple[Stage, Place]:
    """Normalizations, two attentions with their scores, and the GEGLU."""
    size = itemsize(layer.compute_dtype)
    attention = layer.transformer_block.attn1
    heads = attention.num_heads
    width = heads * attention.head_size
    positions = place.batch * place.area
    length = place.context_length
    # In float32 the group normalization's input, and what each layer
    # normalization makes before scale and shift.
    normalized = (1 + 3) * _FLOAT32
    # The normalizations' outputs; query, key, value and the attended
    # values; query and attended values of the text; the last projection's
    # input. Then the GEGLU's input of both halves, and its output.
    projected = (4 + 4 + 2 + 1 + 8 + 4) * size
    held = positions * width * (normalized + projected)
    held += place.batch * length * 2 * width * size
    # The gradient of the GEGLU's: both halves, and four in between.
    working = positions * width * (8 + 4 * 4) * size
    for columns in (place.area, length):
        scores = positions * heads * columns * size
        at_once = gate.scores_at_once(place.batch * heads, place.area, columns)
        if at_once is None:
            held += scores
            # Of the softmax: of its output, of its input, and the product
            # of output and gradient.
            working = max(working, 3 * scores)
            continue
        # The values as they come, beside those in the next order.
        held += positions * width * size
        each = place.batch * columns * width * _FLOAT32
        parts = place.area // at_once[1]
        working = max(working, 3 * gate.PART_ON_CPU + 2 * parts * each)
    working += positions * 2 * width * size
    entry = positions * width * size
    remat = getattr(layer, "remat", False)
    return _stage(layer, entry, held, working, remat), place


def _normalized(size: int) -> int:
    """What a normalization with activation keeps of a number.

    Its input and its output in float32, and the output as it is computed
    with, if that is another.
    """
    return 2 * _FLOAT32 + (size if size < _FLOAT32 else 0)


def _kernel(layer: Any) -> Any:
    return next(w for w in layer.weights if len(w.shape) == 4)


_Counted = Callable[[Any, Place], tuple[Stage, Place]]
_COUNTED: dict[str, _Counted] = {
    "GroupNormalization": _normalization,
    "PaddedConv2D": _convolution,
    "ResBlock": _residual,
    "SpatialTransformer": _transformer,
    "Upsample": _upsample,
}
