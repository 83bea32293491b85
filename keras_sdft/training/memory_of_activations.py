"""What the networks hold for their backward pass, in bytes.

What a U-Net keeps is found by walking its layers in the order in which they
run, and counting the tensors that TensorFlow's gradients read again; a test
holds the counts against traced graphs. Must not know trainers or optimizers.
"""

import dataclasses
import itertools
import math
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from keras_sdft.models import frozen_kernels
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

    def scaled(self, up: int = 1, down: int = 1) -> "Place":
        """Returns the place after a layer that changes height and width."""
        height, width = self.height * up // down, self.width * up // down
        return dataclasses.replace(self, height=height, width=width)


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


def peak(found: list[Stage], slack: float = 1.0) -> tuple[int, int]:
    """Returns the most bytes that there are at once.

    In the backward pass a layer's activations go as its gradients come.

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


def forward_bytes(found: list[Stage]) -> int:
    """Returns the most bytes of a forward pass without gradients.

    At most all inputs of layers, which the way up reads again, and what the
    largest layer makes.
    """
    largest = max(stage.held + stage.working for stage in found)
    return sum(stage.entry for stage in found) + largest


def weight_bytes(weights: Any) -> int:
    """Returns the bytes of a list of variables, each in its own dtype."""
    return sum(
        tf.TensorShape(weight.shape).num_elements() * itemsize(weight.dtype)
        for weight in weights
    )


def itemsize(dtype: Any) -> int:
    """Returns the bytes of a number of a dtype."""
    return tf.as_dtype(dtype).size


def _stage(
    layer: Any, entry: int, held: int, working: int, remat: bool = False
) -> Stage:
    size = itemsize(layer.compute_dtype)
    if size < _FLOAT32:
        # The half-precision copy of the kernels is read again on the way
        # back.
        wide = [w for w in layer.weights if itemsize(w.dtype) == _FLOAT32]
        held += weight_bytes(wide) * size // _FLOAT32
    working += _converted(layer)
    gradients = weight_bytes(layer.trainable_weights)
    return Stage(entry, held, working, gradients, remat)


def _converted(layer: Any) -> int:
    """The largest kernel that is held in fewer bits than it computes with."""
    sizes = [
        math.prod(inner.kernel.shape) * itemsize(inner.compute_dtype)
        for inner in frozen_kernels.held_layers(layer)
        if inner.compute_dtype != inner.kernel.dtype
    ]
    return max(sizes, default=0)


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
    held = image * 2 * size
    return _stage(layer, image * size, held, 3 * image * _FLOAT32), place


def _residual(layer: Any, place: Place) -> tuple[Stage, Place]:
    """Twice normalization with activation, and convolution."""
    size = itemsize(layer.compute_dtype)
    channels, filters = layer.entry_flow[-1].conv2d.kernel.shape[2:]
    positions = place.batch * place.area
    # Input and output of a normalization with activation.
    each = (channels + filters) * 2 * size
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
    # The group normalization's input, and that of each layer normalization;
    # in float32 what this makes before scale and shift instead.
    normalized = (1 + 3) * size
    # The normalizations' outputs; query, key, value and the attended
    # values; query and attended values of the text; the last projection's
    # input. Then the GEGLU's input of both halves, and its output.
    projected = (4 + 4 + 2 + 1 + 8 + 4) * size
    held = positions * width * (normalized + projected)
    held += place.batch * length * 2 * width * size
    # The gradient of the GEGLU's: both halves, and four in between.
    working = positions * width * (8 + 4 * 4) * size
    kind = (layer.compute_dtype, attention.head_size)
    for columns in (place.area, length):
        if gate.attends_by_cudnn(*kind, place.area, columns):
            # Of each row the logarithm of its sum, instead of scores.
            held += positions * heads * _FLOAT32
            continue
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
        part = math.prod(at_once) * columns * _FLOAT32
        working = max(working, 3 * part + 2 * parts * each)
    working += positions * 2 * width * size
    entry = positions * width * size
    remat = getattr(layer, "remat", False)
    return _stage(layer, entry, held, working, remat), place


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


# === The encoders ===


def _text_stage(sd: Any, batch: int) -> Stage:
    """Returns what a text encoder that is run with gradients keeps."""
    spec, network = sd.spec.text_encoder, sd.text_encoder
    size = itemsize(network.compute_dtype)
    # Of each layer: two normalizations with input and scale in float32;
    # their outputs, query, key, value and attended values; four times the
    # width around the activation.
    each = spec.width * (4 * 4 + (6 + 4 * 4) * size)
    each += spec.num_heads * spec.max_length * size
    tokens = batch * spec.max_length
    held = tokens * each * spec.depth
    gradients = weight_bytes(network.trainable_variables)
    entry = tokens * spec.width * size
    return Stage(entry, held, tokens * each, gradients, remat=False)


def _bytes_of_images(sd: Any, place: Place) -> int:
    """Returns what a frozen image encoder makes, and does not keep."""
    size = itemsize(sd.image_encoder.compute_dtype)
    # The first level's residual, and around a normalization its input, its
    # output and two in between.
    pixels = place.area * 64 * sd.spec.autoencoder.encoder_widths[0] * 5
    scores = 3 * place.area**2
    return place.batch * size * max(pixels, scores)


def _bytes_of_captions(sd: Any, place: Place) -> int:
    """Returns what a frozen text encoder makes, and does not keep."""
    text = sd.spec.text_encoder
    size = itemsize(sd.text_encoder.compute_dtype)
    each = 12 * text.width + 3 * text.num_heads * text.max_length
    return place.batch * text.max_length * each * size


ENCODER_STAGES = {"text_encoder": _text_stage}
ENCODER_BYTES = {
    "image_encoder": _bytes_of_images,
    "text_encoder": _bytes_of_captions,
}
