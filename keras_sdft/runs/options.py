"""The options of a run, as the command's flags have them."""

import dataclasses
from typing import Any

from keras_sdft import checks
from keras_sdft.runs.directory import RunDirectory


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
        jit_compile: Compile the loss and its gradients with XLA. Defaults
            to true on GPUs, where each size of images is compiled once.
        ema_decay: Keep an average of the weights with this decay and export
            it, for example 0.9999.
        seed: Seed of everything that is random.
        save_every_steps: Optimizer steps between two exports of the
            weights; each replaces the last. Null for the end only.
        log_every_steps: Optimizer steps between two TensorBoard points.
        license: License of the weights in their model card, as the Hub
            spells it. Defaults to unknown.
        overwrite: Replace an earlier run in output_dir.
        resume: Directory of a run that was interrupted, or is to be longer.
            It goes on with its own flags; those of its length, previews,
            logs and checkpoints may be given anew.
    """

    output_dir: str
    resolution: int | None = None
    batch_size: int = 1
    gradient_accumulation_steps: int = 1
    max_train_steps: int | None = None
    num_train_epochs: int | None = None
    remat: bool = False
    check_memory: bool = True
    jit_compile: bool | None = None
    ema_decay: float | None = None
    seed: int = 0
    save_every_steps: int | None = None
    log_every_steps: int = 10
    license: str | None = None
    overwrite: bool = False
    resume: str | None = None

    def __post_init__(self) -> None:
        checks.exclusive(
            max_train_steps=self.max_train_steps,
            num_train_epochs=self.num_train_epochs,
        )
        if self.resolution is not None:
            checks.multiple_of("resolution", self.resolution, 64, " pixels")
        checks.counts(
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

    @property
    def images_per_step(self) -> int:
        """Images in one optimizer step."""
        return self.batch_size * self.gradient_accumulation_steps

    def steps(self, per_pass: int) -> int:
        """Returns the optimizer steps of the run.

        Args:
            per_pass: Integer, those of one pass over the data.
        """
        if self.max_train_steps is not None:
            return self.max_train_steps
        return int(self.num_train_epochs) * per_pass


@dataclasses.dataclass(frozen=True, kw_only=True)
class ValidationOptions:
    """The validation: how often it is done.

    Args:
        validation_every_epochs: Epochs between two validations.
    """

    validation_every_epochs: int = 1

    def __post_init__(self) -> None:
        checks.counts(self, "validation_every_epochs")


@dataclasses.dataclass(frozen=True, kw_only=True)
class PreviewOptions:
    """The previews: images that are generated while training goes on.

    Args:
        preview_prompts: Prompts of images to generate before, during and
            after training.
        preview_every_steps: Optimizer steps between two previews.
        preview_num_steps: Sampling steps of a preview. Defaults to the
            model's own, 25 at most.
        preview_guidance_scale: Guidance of a preview. Defaults to the
            model's own.
    """

    preview_prompts: list[str] | None = None
    preview_every_steps: int = 500
    preview_num_steps: int | None = None
    preview_guidance_scale: float | None = None

    def __post_init__(self) -> None:
        checks.counts(self, "preview_every_steps")
        steps, scale = self.preview_num_steps, self.preview_guidance_scale
        checks.optional(checks.integer, "preview_num_steps", steps, 1, 1000)
        checks.optional(checks.number, "preview_guidance_scale", scale, 0)

    def make(self, run: RunDirectory, seed: int) -> list[Any]:
        """Returns the `keras_sdft.callbacks.Previews` of a run, if any."""
        from keras_sdft import callbacks

        if not self.preview_prompts:
            return []
        previews = callbacks.Previews(
            self.preview_prompts,
            run.previews,
            every_steps=self.preview_every_steps,
            num_steps=self.preview_num_steps,
            guidance_scale=self.preview_guidance_scale,
            seed=seed,
            tensorboard_directory=run.logs / "previews",
        )
        return [previews]

    def count(self, steps: int) -> int:
        """Returns how many images a run of so many steps has of them."""
        times = 3 + steps // self.preview_every_steps
        return times * len(self.preview_prompts or ())
