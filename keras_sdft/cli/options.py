"""The flags that commands share: each dataclass is a group of the help."""

from __future__ import annotations

import dataclasses
from typing import Any
from typing import Literal

import keras_sdft
from keras_sdft import checks
from keras_sdft import data
from keras_sdft import training

PredictionType = Literal["epsilon", "v_prediction"]

# The field's words on the left, Keras' dtype policies on the right.
_POLICIES = {"no": None, "bf16": "mixed_bfloat16", "fp16": "mixed_float16"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """The model: which one, and with which numbers it computes.

    Args:
        model: A preset, a run, an exported directory, a weight file, or a
            model of diffusers' or of the original layout.
        vae: Another autoencoder, a folder or file of one alone or of a
            whole model.
        clip_skip: Which of the text encoder's layers gives the context,
            counted from the last. Defaults to what the model declares,
            usually 1.
        mixed_precision: Numbers to compute with; weights stay float32.
        weights_directory: Directory with local copies of a preset's
            published files.
    """

    model: str
    vae: str | None = None
    clip_skip: int | None = None
    mixed_precision: Literal["no", "bf16", "fp16"] = "no"
    weights_directory: str | None = None

    def __post_init__(self) -> None:
        if self.clip_skip is not None:
            checks.integer("clip_skip", self.clip_skip, 1)

    def load(self, **given: Any) -> Any:
        """Loads the `keras_sdft.StableDiffusion`.

        Args:
            **given: Further arguments of its `from_preset`.
        """
        return keras_sdft.StableDiffusion.from_preset(
            self.model,
            dtype=_POLICIES[self.mixed_precision],
            weights_directory=self.weights_directory,
            vae=self.vae,
            clip_skip=self.clip_skip,
            **given,
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class PredictionOptions:
    """What the model predicts.

    Args:
        prediction_type: What the model predicts, for files that do not say.
    """

    prediction_type: PredictionType | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunOptions:
    """The run: where to, for how long, and how it is computed.

    Args:
        output_dir: Directory of the run, to be made.
        resolution: Height and width in pixels, a multiple of 64. Defaults
            to the model's own.
        batch_size: Images that are computed at once.
        gradient_accumulation_steps: Batches in one optimizer step.
        max_train_steps: Optimizer steps. Give this or num_train_epochs.
        num_train_epochs: Passes over the data.
        remat: Compute activations again in the backward pass instead of
            keeping them, which takes longer and needs far less memory.
        check_memory: Refuse to begin where training needs more memory than
            there is.
        jit_compile: Compile the training step with XLA.
        ema_decay: Keep an average of the weights with this decay and export
            it, for example 0.9999.
        seed: Seed of everything that is random.
        save_every_steps: Optimizer steps between two exports of the
            weights; each replaces the last. Null for the end only.
        log_every_steps: Optimizer steps between two TensorBoard points.
        overwrite: Replace an earlier run in output_dir.
    """

    output_dir: str
    resolution: int | None = None
    batch_size: int = 1
    gradient_accumulation_steps: int = 1
    max_train_steps: int | None = None
    num_train_epochs: int | None = None
    remat: bool = False
    check_memory: bool = True
    jit_compile: bool = False
    ema_decay: float | None = None
    seed: int = 0
    save_every_steps: int | None = None
    log_every_steps: int = 10
    overwrite: bool = False

    def __post_init__(self) -> None:
        checks.exclusive(
            max_train_steps=self.max_train_steps,
            num_train_epochs=self.num_train_epochs,
        )
        if self.resolution is not None:
            checks.multiple_of("resolution", self.resolution, 64, " pixels")
        check_counts(
            self,
            "batch_size",
            "gradient_accumulation_steps",
            "max_train_steps",
            "num_train_epochs",
            "save_every_steps",
            "log_every_steps",
        )
        if self.ema_decay is not None:
            checks.number("ema_decay", self.ema_decay, above=0, below=1)
        checks.integer("seed", self.seed, 0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataOptions:
    """The data: captioned images to train on, and to validate with.

    Args:
        data: A folder of images and captions, a CSV or JSONL file, or
            tfds:NAME or tfds:NAME:SPLIT.
        validation_data: Where validation examples are, as for data.
    """

    data: str
    validation_data: str | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class ValidationOptions:
    """The validation: how often it is done.

    Args:
        validation_every_epochs: Epochs between two validations.
    """

    validation_every_epochs: int = 1

    def __post_init__(self) -> None:
        check_counts(self, "validation_every_epochs")


@dataclasses.dataclass(frozen=True, kw_only=True)
class PreviewOptions:
    """The previews: images that are generated while training goes on.

    Args:
        preview_prompts: Prompts of images to generate before, during and
            after training.
        preview_every_steps: Optimizer steps between two previews.
        preview_num_steps: Sampling steps of a preview.
        preview_guidance_scale: Guidance of a preview.
    """

    preview_prompts: list[str] | None = None
    preview_every_steps: int = 500
    preview_num_steps: int = 25
    preview_guidance_scale: float = 7.5

    def __post_init__(self) -> None:
        check_counts(self, "preview_every_steps")
        checks.integer("preview_num_steps", self.preview_num_steps, 1, 1000)
        scale = self.preview_guidance_scale
        checks.number("preview_guidance_scale", scale, 0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class CacheOptions:
    """The cache: images and captions encoded once, not in every step.

    Args:
        cache: Directory of the cache, as encode makes it. Defaults to one
            beside output_dir, where it fits on the disk and the run is long
            enough for it to pay.
        no_cache: Encode in every step.
        cache_dtype: Numbers on the disk. Defaults to float16, or to what
            the cache has.
    """

    cache: str | None = None
    no_cache: bool = False
    cache_dtype: Literal["float16", "float32"] | None = None

    def __post_init__(self) -> None:
        for name in ("cache", "cache_dtype"):
            value = getattr(self, name)
            if self.no_cache and value is not None:
                raise ValueError(
                    f"`{name}` has no effect with `no_cache`. Received: "
                    f"{name}={value!r}. Leave out the one or the other."
                )


@dataclasses.dataclass(frozen=True, kw_only=True)
class ResumeOptions:
    """Going on with a run that was interrupted.

    Args:
        resume: Directory of the run. It goes on with its own flags; those of
            its length, previews, logs and checkpoints may be given anew.
    """

    resume: str | None = None


def check_counts(options: Any, *names: str) -> None:
    """Checks that fields are integers of at least 1, or not given."""
    for name in names:
        if getattr(options, name) is not None:
            checks.integer(name, getattr(options, name), 1)


# What every kind of training has.
TRAINING = (
    ModelOptions,
    RunOptions,
    data.ImageOptions,
    data.EpochOptions,
    training.Objective,
    training.Noise,
    training.OptimizerOptions,
    *training.PART_OPTIONS,
    PreviewOptions,
    training.CheckpointOptions,
    ResumeOptions,
)
# Of these, the flags that are used most.
COMMON = (
    "resolution",
    "batch_size",
    "max_train_steps",
    "learning_rate",
    "lora_rank",
    "preview_prompts",
    "mixed_precision",
    "resume",
    "overwrite",
)
