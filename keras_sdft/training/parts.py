"""What learns: networks of the model, and the options that choose them.

A part may be any object with the attributes of `Part`. Nothing else in
training, in the estimate of memory or in the command knows parts by name.
"""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

from keras_sdft import checks
from keras_sdft.adapters import Group
from keras_sdft.adapters import LoRAOptions
from keras_sdft.adapters import Part
from keras_sdft.adapters import TextualInversionOptions
from keras_sdft.formats import lora_files
from keras_sdft.models.model_card import ModelCard
from keras_sdft.models.model_card import hub_name


class _Network(Part):
    """All weights of one network."""

    def attach(self, stable_diffusion: Any) -> None:
        stable_diffusion.check_full_precision([self.name])
        self._network = getattr(stable_diffusion, self.name)
        if not self._network.trainable:
            # Another trainer's adapters froze it as a whole.
            self._network.trainable = True
        # An export must hold what is in no other file.
        stable_diffusion.trained_parts.add(self.name)

    @property
    def variables(self) -> list[Any]:
        return self._network.trainable_variables


class DiffusionModel(_Network):
    """The diffusion model learns: all of its weights.

    Args:
        learning_rate: See `Part`.
        optimizer: See `Part`.
        stop_step: See `Part`.
    """

    name = "diffusion_model"
    networks = ("diffusion_model",)


class TextEncoder(_Network):
    """The text encoder learns: all of its weights.

    Captions are then encoded in every step, so that cached ones are
    refused.

    Args:
        learning_rate: See `Part`.
        optimizer: See `Part`.
        stop_step: See `Part`.
    """

    name = "text_encoder"
    networks = ("text_encoder", "diffusion_model")


NAMED_PARTS: dict[str, type[Part]] = {
    part.name: part for part in (DiffusionModel, TextEncoder)
}


def get(train: Any) -> list[Any]:
    """Returns the parts of `Trainer(train=...)`.

    Args:
        train: A part or the name of one, or a list of them.

    Raises:
        ValueError: If there is none, or a name is unknown.
    """
    entries = train if isinstance(train, (list, tuple)) else [train]
    if not entries:
        raise ValueError(
            "`train` must name at least one part. Received: "
            f"train={train!r}. For example: train='diffusion_model'."
        )
    return [_part(entry) for entry in entries]


def _part(entry: Any) -> Any:
    if isinstance(entry, str):
        return NAMED_PARTS[checks.one_of("train", entry, NAMED_PARTS)]()
    if not callable(getattr(entry, "attach", None)):
        raise ValueError(
            f"`train` must be of {list(NAMED_PARTS)} or objects with the "
            "methods of `keras_sdft.training.Part`. Received: "
            f"{entry!r}."
        )
    return entry


def attach(parts: list[Any], stable_diffusion: Any) -> tuple[str, ...]:
    """Attaches the parts that learn to a model.

    Args:
        parts: List of `Part`.
        stable_diffusion: A `StableDiffusion`.

    Returns:
        Tuple of the names of the networks that are run with gradients.

    Raises:
        ValueError: If a part has nothing that learns, or two have the same
            variables.
    """
    if stable_diffusion.has_adapters:
        raise ValueError(
            f"The model has the LoRAs {sorted(stable_diffusion.adapters.loras)}"
            ", which an export of what is trained now would not hold. Call "
            "`merge_adapters()` or `unload_adapters()` first."
        )
    owners: dict[int, str] = {}
    for part in parts:
        part.attach(stable_diffusion)
        variables = part.variables
        if not variables:
            raise ValueError(
                f"{part.name!r} in `train` has no variable that learns. Is "
                "its network frozen by another part?"
            )
        for variable in variables:
            other = owners.setdefault(id(variable), part.name)
            if other is not part.name:
                raise ValueError(
                    f"{other!r} and {part.name!r} in `train` have the same "
                    f"variables, {variable.path!r} for example. Leave one "
                    "out."
                )
    networks = dict.fromkeys(n for part in parts for n in part.networks)
    for name in networks:
        network = getattr(stable_diffusion, name)
        if not any(id(v) in owners for v in network.trainable_variables):
            # No gradients are computed for weights that do not learn.
            network.trainable = False
    return tuple(networks)


def check_dataset(parts: list[Any], dataset: Any) -> None:
    """Refuses a dataset that the parts cannot learn from.

    Args:
        parts: List of `Part`.
        dataset: A `tf.data.Dataset` of batches.

    Raises:
        ValueError: If there is nothing to learn for one, or the dataset asks
            for predictions of a base that the parts change.
    """
    for part in parts:
        part.check_dataset(dataset)
    if "base_target" in dataset.element_spec:
        check_base(parts)


def check_base(parts: list[Any]) -> None:
    """Raises `ValueError` if parts change the networks' own weights."""
    changing = [p.name for p in parts if not getattr(p, "keeps_base", False)]
    if changing:
        raise ValueError(
            "`prior_preservation=base` compares with what the frozen base "
            f"under an adapter predicts, and {changing} change the base "
            "itself. Train a LoRA (`lora_rank`), or use class images."
        )


def prepare(parts: list[Any], step: Any, training: bool) -> None:
    """Prepares all parts for a step, see `Part.prepare`."""
    for part in parts:
        part.prepare(step, training)


def files(parts: list[Any]) -> dict[str, Callable[[Path], None]]:
    """Returns what an export holds of all parts, as `Part.files`."""
    return {name: write for p in parts for name, write in p.files().items()}


def card(
    stable_diffusion: Any, parts: list[Any], steps: int, given: ModelCard | None
) -> ModelCard:
    """Returns the model card of an export, with what the trainer knows.

    Args:
        stable_diffusion: A `keras_sdft.StableDiffusion`.
        parts: List of `Part`s.
        steps: Integer, optimizer steps that were trained.
        given: `ModelCard` with what it does not know, or `None`.
    """
    given, sd = given or ModelCard(), stable_diffusion
    names, networks = list(files(parts)), sorted(sd.trained_parts)
    kind: Any = "model"
    if names and not networks:
        kind = "lora" if lora_files.FILE in names else "embedding"
    base = given.base_model or hub_name(sd.base, sd.origin)
    details = {
        "trained from": base or Path(sd.origin or sd.base).name,
        "what was trained": ", ".join(p.name for p in parts).replace("_", " "),
        "optimizer steps": f"{steps:,}",
        "resolution": f"{sd.img_width} x {sd.img_height}",
        "predicts": sd.spec.prediction_type,
        "sampling steps": sd.spec.num_steps,
        "guidance scale": sd.spec.guidance_scale,
        **given.details,
    }
    return dataclasses.replace(
        given, kind=kind, base_model=base, details=details
    )


# === The command's options ===


@dataclasses.dataclass(frozen=True, kw_only=True)
class TextEncoderOptions:
    """The text encoder: whether it learns too.

    Args:
        train_text_encoder: Train the text encoder as well.
        text_encoder_learning_rate: Step size of the text encoder. Defaults
            to learning_rate.
        text_encoder_stop_step: Optimizer steps after which the text encoder
            stays as it is. Null for never.

    Raises:
        ValueError: If an option is out of its range or has no effect.
    """

    train_text_encoder: bool = False
    text_encoder_learning_rate: float | None = None
    text_encoder_stop_step: int | None = None

    def __post_init__(self) -> None:
        checks.boolean("train_text_encoder", self.train_text_encoder)
        rate, stop = (
            self.text_encoder_learning_rate,
            self.text_encoder_stop_step,
        )
        if rate is not None:
            checks.number("text_encoder_learning_rate", rate, above=0)
        if stop is not None:
            checks.integer("text_encoder_stop_step", stop, 1)
        names = ["text_encoder_learning_rate", "text_encoder_stop_step"]
        checks.effective(self, names, "train_text_encoder", True)

    def apply(
        self, parts: list[Any], make_optimizer: Callable[[float], Any]
    ) -> list[Any]:
        """Returns the parts with what these options add.

        Args:
            parts: List of `Part`.
            make_optimizer: Function of a learning rate, that makes an
                optimizer with the run's schedule.
        """
        if not self.train_text_encoder:
            return parts
        rate = self.text_encoder_learning_rate
        own = None if rate is None else make_optimizer(rate)
        stop_step = self.text_encoder_stop_step
        return [*parts, TextEncoder(optimizer=own, stop_step=stop_step)]


__all__ = [
    "PART_OPTIONS",
    "DiffusionModel",
    "Group",
    "Part",
    "TextEncoder",
    "TextEncoderOptions",
    "attach",
    "check_base",
    "files",
    "get",
]

# In the order in which they are applied.
PART_OPTIONS: tuple[type[Any], ...] = (
    TextEncoderOptions,
    LoRAOptions,
    TextualInversionOptions,
)
