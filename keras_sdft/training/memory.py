"""How much memory training will take, counted before it is taken.

Adds up what the trainer, its optimizer and the batch make necessary. Must not
know how much memory there is.
"""

import dataclasses
import math
from collections.abc import Iterable
from typing import Any

import keras

from keras_sdft.encoding import build_encoders
from keras_sdft.models import frozen_kernels
from keras_sdft.models.kernels import gate
from keras_sdft.training.batch_checks import check_batch_spec
from keras_sdft.training.denoising import ENCODED
from keras_sdft.training.memory_of_activations import ENCODER_BYTES
from keras_sdft.training.memory_of_activations import ENCODER_STAGES
from keras_sdft.training.memory_of_activations import Place
from keras_sdft.training.memory_of_activations import Stage
from keras_sdft.training.memory_of_activations import forward_bytes
from keras_sdft.training.memory_of_activations import itemsize
from keras_sdft.training.memory_of_activations import peak
from keras_sdft.training.memory_of_activations import stages
from keras_sdft.training.memory_of_activations import weight_bytes
from keras_sdft.training.optimizer_groups import find_groups

# Measured as docs/memory.md says, with TensorFlow 2.21 and Keras 3.15 on a
# CPU: what an imported TensorFlow and built models take without weights,
_IMPORTED = 700_000_000
# what an operation of the step's graph takes once it is optimized, and how
# many there are: for every step, for each weight that learns,
_OPERATION = 32_000
_OPERATIONS = 300
_OPERATIONS_LEARNING = 12
# again where the block is computed twice, for each weight of a frozen
# encoder, and for each kernel that is converted in the step.
_OPERATIONS_REMAT = 4
_OPERATIONS_FROZEN = 15
_OPERATIONS_CONVERTED = 34
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
        encoders: What the frozen encoders make while they run in the step,
            or the frozen base, where `prior_preservation` asks it.
        program: TensorFlow, the models' Python objects and the step's
            graph, measured on a CPU. On a GPU most of it is in the host's
            memory.
        overlap: What need not be counted twice: activations go as
            gradients come, and the encoders run before both.
        measured: Whether the figures behind it were measured for what
            trains: TensorFlow on a CPU. Elsewhere it is a rough guide.
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
    measured: bool

    @property
    def total(self) -> int:
        """The peak in bytes."""
        return sum(value for _, value in self._rows())

    @property
    def on_device(self) -> int:
        """The peak without the program, which a GPU does not hold."""
        return self.total - self.program

    def _rows(self) -> list[tuple[str, int]]:
        counted = [f.name for f in dataclasses.fields(self)][1:-2]
        return [
            *((f"weights of the {n}", v) for n, v in self.weights.items()),
            *((name, getattr(self, name)) for name in counted),
            ("not at the same time", -self.overlap),
        ]

    def __str__(self) -> str:
        rows = [row for row in self._rows() if row[1]]
        lines = [
            f"  {name.replace('_', ' '):<30}{value / 1e9:8.2f} GB"
            for name, value in [*rows, ("in all", self.total)]
        ]
        return "\n".join(["Memory that training needs, estimated:", *lines])

    __repr__ = __str__


def _is_measured() -> bool:
    return keras.backend.backend() == "tensorflow" and gate.on_cpu()


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
    found = stages(sd.diffusion_model, place)
    for network in set(trainer.networks) & set(ENCODER_STAGES):
        found.insert(0, ENCODER_STAGES[network](sd, place.batch))
    # Those of what is no stage, the timestep's layers, come last.
    rest = gradients - sum(stage.gradients for stage in found)
    found.insert(0, Stage(0, 0, 0, rest, remat=False))
    activations, together = peak(found, _SLACK)
    # What is run without gradients, because the batch does not have it.
    frozen = [
        network
        for network, name in ENCODED.items()
        if network not in trainer.networks and name not in batch
    ]
    encoders = sum(ENCODER_BYTES[network](sd, place) for network in frozen)
    if "base_target" in batch:
        encoders = max(encoders, forward_bytes(found))
    average = trainer.weight_average
    several = steps > 1
    return MemoryEstimate(
        weights={
            name: weight_bytes(part.weights)
            for name, part in sd.built_parts.items()
        },
        gradients=gradients,
        gradient_sum=gradients if several else 0,
        optimizer_state=optimizer_state(trainer.optimizer, learning),
        weight_average=0 if average is None else weight_bytes(average.weights),
        activations=activations,
        encoders=encoders,
        program=_program(trainer, frozen, found, several),
        overlap=activations + gradients + encoders - max(together, encoders),
        measured=_is_measured(),
    )


def _place(trainer: Any, batch: dict[str, Any]) -> Place:
    """Returns a micro-batch's latents; sides that vary are the model's."""
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


# === What belongs to no tensor ===


def _program(
    trainer: Any, frozen: list[str], found: list[Stage], several: bool
) -> int:
    learning = len(trainer.trainable_variables)
    networks = trainer.stable_diffusion.built_parts
    weights = sum(len(networks[name].weights) for name in frozen)
    step = learning * _OPERATIONS_LEARNING + weights * _OPERATIONS_FROZEN
    if any(stage.remat for stage in found):
        step += learning * _OPERATIONS_REMAT
    for network in trainer.networks:
        held = frozen_kernels.held_layers(networks[network])
        step += len(held) * _OPERATIONS_CONVERTED
    # The first micro-batch stands before the loop over the others, and what
    # the loop carries is held twice: a fit, like the numbers above.
    step *= 3 if several else 1
    inner = getattr(trainer.optimizer, "inner_optimizer", trainer.optimizer)
    inner = getattr(inner, "optimizers", (inner,))[0]
    update = _OPERATIONS_UPDATE.get(
        type(inner).__name__, _OPERATIONS_UPDATE_OTHER
    )
    return _IMPORTED + _OPERATION * (_OPERATIONS + step + learning * update)


# === The optimizer ===


def optimizer_state(optimizer: Any, weights: list[Any]) -> int:
    """Returns the bytes that an optimizer keeps for weights, built or not.

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
    """Returns shapes and item sizes of what is kept for one weight."""
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
