"""How much memory training will take, counted before it is taken.

Adds up what the trainer, its optimizer and the batch make necessary. Must
not know how much memory there is.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable
from typing import Any

import keras

from keras_sdft.encoding import build_encoders
from keras_sdft.training.activation_memory import Place
from keras_sdft.training.activation_memory import Stage
from keras_sdft.training.activation_memory import fullest
from keras_sdft.training.activation_memory import itemsize
from keras_sdft.training.activation_memory import stages
from keras_sdft.training.activation_memory import weight_bytes
from keras_sdft.training.conditioning import check_batch_spec
from keras_sdft.training.tensorflow.optimizer_groups import find_groups

# Measured as docs/memory.md says, with TensorFlow 2.21 and Keras 3.15 on a
# CPU: what an imported TensorFlow and built models take without weights,
_IMPORTED = 700_000_000
# what an operation of the step's graph takes once it is optimized, and how
# many there are: for every step, for each weight that learns,
_OPERATION = 32_000
_OPERATIONS = 300
_OPERATIONS_LEARNING = 12
# again where the block is computed twice, and for each weight of a frozen
# encoder.
_OPERATIONS_REMAT = 4
_OPERATIONS_FROZEN = 15
# What an optimizer adds for each weight, by class.
_OPERATIONS_UPDATE = {"AdamW": 14, "Lion": 37}
_OPERATIONS_UPDATE_OTHER = 50
# Freed blocks do not fit exactly what is asked for next.
_SLACK = 1.1
# Numbers that no two dimensions of a weight's state share by accident.
_PRIMES = (11, 13, 17, 19, 23, 29)


@dataclasses.dataclass(frozen=True)
class MemoryEstimate:
    """Bytes that training needs, from `Trainer.memory_estimate`.

    Attributes:
        weights: Dict of bytes by part, of the parts that are in memory.
        gradients: Of all weights that learn.
        gradient_sum: The sum over micro-batches, where there are several.
        optimizer_state: What the optimizer keeps.
        weight_average: The average of the weights, where it is kept.
        activations: What the diffusion model (and a text encoder that
            learns) holds for the backward pass of one micro-batch, and
            makes on the way, at most.
        encoders: What the frozen encoders make while they run in the step.
        program: TensorFlow, the models' Python objects and the step's
            graph, measured on a CPU. On a GPU most of it is in the host's
            memory.
        overlap: What need not be counted twice: activations go as
            gradients come, and the encoders run before both.
    """

    weights: dict[str, int]
    gradients: int
    gradient_sum: int
    optimizer_state: int
    weight_average: int
    activations: int
    encoders: int
    program: int
    overlap: int

    @property
    def total(self) -> int:
        """The peak in bytes."""
        rows = dataclasses.asdict(self)
        rows["overlap"] = -self.overlap
        return sum(self.weights.values()) + sum(
            value for name, value in rows.items() if name != "weights"
        )

    @property
    def on_device(self) -> int:
        """The peak without the program, which a GPU does not hold."""
        return self.total - self.program

    def __str__(self) -> str:
        rows = [
            (f"weights of the {name.replace('_', ' ')}", value)
            for name, value in self.weights.items()
        ]
        rows += [
            (field.name.replace("_", " "), getattr(self, field.name))
            for field in dataclasses.fields(self)
            if field.name not in ("weights", "overlap")
        ]
        rows.append(("not at the same time", -self.overlap))
        shown = [row for row in rows if row[1]] + [("in all", self.total)]
        lines = [f"  {name:<30}{value / 1e9:8.2f} GB" for name, value in shown]
        return "\n".join(["Memory that training needs, estimated:", *lines])


def estimate(trainer: Any, batch: dict[str, Any]) -> MemoryEstimate:
    """Estimates the peak of a training step.

    Args:
        trainer: A compiled `keras_sdft.Trainer`. Encoders that the batch
            needs are built.
        batch: Dict of arrays, tensors or `tf.TensorSpec`.

    Returns:
        A `MemoryEstimate`.

    Raises:
        ValueError: If it cannot be trained on, if its size is not known,
            or if the network is none whose layers are known.
    """
    sd, steps = trainer.stable_diffusion, trainer.gradient_accumulation_steps
    check_batch_spec(batch, sd, steps, trainer.networks)
    build_encoders(sd, batch)
    place = _place(trainer, batch)
    learning = trainer.trainable_variables
    gradients = weight_bytes(learning)
    found = stages(trainer.diffusion_model, place)
    if "text_encoder" in trainer.networks:
        found.insert(0, _text_stage(trainer, place.batch))
    # Those of what is no stage, the timestep's layers, come last.
    rest = gradients - sum(stage.gradients for stage in found)
    found.insert(0, Stage(0, 0, 0, rest, remat=False))
    activations, together = fullest(found, _SLACK)
    encoders = _encoders(trainer, batch, place)
    average = trainer.weight_average
    several = steps > 1
    return MemoryEstimate(
        weights=_resident(sd),
        gradients=gradients,
        gradient_sum=gradients if several else 0,
        optimizer_state=optimizer_state(trainer.optimizer, learning),
        weight_average=0 if average is None else weight_bytes(average.weights),
        activations=activations,
        encoders=encoders,
        program=_program(trainer, batch, found, several),
        overlap=activations + gradients + encoders - max(together, encoders),
    )


def _place(trainer: Any, batch: dict[str, Any]) -> Place:
    """One micro-batch's latents; sides that vary are the model's own."""
    sd = trainer.stable_diffusion
    name, step = ("moments", 1) if "moments" in batch else ("images", 8)
    size, height, width = tuple(batch[name].shape)[:3]
    if size is None:
        raise ValueError(
            "The batch size must be known to estimate memory. Received: "
            f"{name} of shape {tuple(batch[name].shape)}. Batch the dataset "
            "with `drop_remainder=True`, or pass a batch."
        )
    return Place(
        -(-int(size) // trainer.gradient_accumulation_steps),
        sd.img_height // 8 if height is None else int(height) // step,
        sd.img_width // 8 if width is None else int(width) // step,
        sd.spec.text_encoder.max_length,
    )


def _resident(stable_diffusion: Any) -> dict[str, int]:
    parts = stable_diffusion.built_parts
    return {name: weight_bytes(part.weights) for name, part in parts.items()}


# === Networks that are run, but are not the U-Net ===


def _text_stage(trainer: Any, batch: int) -> Stage:
    """What a text encoder that learns keeps."""
    spec = trainer.stable_diffusion.spec.text_encoder
    network = trainer.stable_diffusion.text_encoder
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


def _encoders(trainer: Any, batch: dict[str, Any], place: Place) -> int:
    """What frozen encoders make on their way; nothing of it is kept."""
    sd, total = trainer.stable_diffusion, 0
    if "images" in batch:
        spec = sd.spec.autoencoder
        size = itemsize(sd.image_encoder.compute_dtype)
        # The first level's residual, and around a normalization its input,
        # its output and two in between.
        pixels = place.area * 64 * spec.encoder_widths[0] * 5
        scores = 3 * place.area**2
        total += place.batch * size * max(pixels, scores)
    if "token_ids" in batch and "text_encoder" not in trainer.networks:
        text = sd.spec.text_encoder
        size = itemsize(sd.text_encoder.compute_dtype)
        each = 12 * text.width + 3 * text.num_heads * text.max_length
        total += place.batch * text.max_length * each * size
    return total


# === What belongs to no tensor ===


def _program(
    trainer: Any, batch: dict[str, Any], found: list[Stage], several: bool
) -> int:
    sd = trainer.stable_diffusion
    learning = len(trainer.trainable_variables)
    frozen = 0
    if "images" in batch:
        frozen += len(sd.image_encoder.weights)
    if "token_ids" in batch and "text_encoder" not in trainer.networks:
        frozen += len(sd.text_encoder.weights)
    step = learning * _OPERATIONS_LEARNING + frozen * _OPERATIONS_FROZEN
    if any(stage.remat for stage in found):
        step += learning * _OPERATIONS_REMAT
    # The first micro-batch stands before the loop over the others, and what
    # the loop carries is held twice: a fit, like the numbers above.
    step *= 3 if several else 1
    update = learning * _operations_of_update(trainer.optimizer)
    return _IMPORTED + _OPERATION * (_OPERATIONS + step + update)


def _operations_of_update(optimizer: Any) -> int:
    inner = getattr(optimizer, "inner_optimizer", optimizer)
    inner = getattr(inner, "optimizers", (inner,))[0]
    return _OPERATIONS_UPDATE.get(
        type(inner).__name__, _OPERATIONS_UPDATE_OTHER
    )


# === The optimizer ===


def optimizer_state(optimizer: Any, weights: list[Any]) -> int:
    """Bytes that an optimizer keeps for weights, built or not.

    One that is not built is asked: a copy of it is built for a small weight
    of each rank and dtype, and the shapes of what it makes are scaled up.
    Rules by a weight's name are not seen, but for `"embedding"`.

    Args:
        optimizer: Any Keras optimizer.
        weights: List of `keras.Variable` that it is to train.

    Returns:
        Integer, bytes.
    """
    if optimizer.built:
        return weight_bytes(optimizer.variables)
    groups = find_groups(optimizer)
    if groups is not None:
        return sum(
            optimizer_state(group.optimizer, group.variables)
            for group in groups.groups
        )
    probed: dict[Any, list[Any]] = {}
    total = 0
    for weight in weights:
        kind = (len(weight.shape), weight.dtype, "embedding" in weight.path)
        if kind not in probed:
            probed[kind] = _state_of_probe(optimizer, *kind)
        total += sum(
            _scaled_up(shape, weight.shape) * size
            for shape, size in probed[kind]
        )
    return total


def _state_of_probe(
    optimizer: Any, rank: int, dtype: str, embedding: bool
) -> list[tuple[tuple[int, ...], int]]:
    """Shapes and item sizes of what is kept for one weight."""
    probe = keras.Variable(
        keras.ops.zeros(_PRIMES[:rank], dtype),
        dtype=dtype,
        name="embedding" if embedding else "kernel",
    )
    copy = type(optimizer).from_config(optimizer.get_config())
    before = {id(variable) for variable in copy.variables}
    copy.build([probe])
    return [
        (tuple(variable.shape), itemsize(variable.dtype))
        for variable in copy.variables
        if id(variable) not in before
    ]


def _scaled_up(shape: Iterable[int], real: Iterable[int]) -> int:
    """Elements of a state whose sides are those of the probe, or products."""
    sides = dict(zip(_PRIMES, real, strict=False))
    total = 1
    for side in shape:
        known = [prime for prime in sides if side % prime == 0]
        rest = side // math.prod(known)
        total *= rest * math.prod(sides[prime] for prime in known)
    return total
