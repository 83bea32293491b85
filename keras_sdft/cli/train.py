"""`keras-sdft train`: a folder of captioned images in, a run directory out.

Puts the package's public names together in the order of the road; the work
is theirs. Everything is checked before the run directory is made.
"""

from __future__ import annotations

import dataclasses
import math
import os
import shlex
from typing import Any
from typing import Literal

from keras_sdft.cli.model import MixedPrecision
from keras_sdft.cli.model import load_model
from keras_sdft.cli.run_directory import RunDirectory
from keras_sdft.cli.training_parts import Data
from keras_sdft.cli.training_parts import fit
from keras_sdft.cli.training_parts import load_data
from keras_sdft.cli.training_parts import make_callbacks
from keras_sdft.cli.training_parts import make_trainer


@dataclasses.dataclass(frozen=True)
class TrainOptions:
    """What to train, on what, for how long, and where to.

    Args:
        model: A preset, a run, an exported directory or a weight file.
        data: A folder of images and captions, a CSV or JSONL file, or
            tfds:NAME or tfds:NAME:SPLIT.
        output_dir: Directory of the run, to be made.
        resolution: Height and width in pixels, a multiple of 64. Defaults
            to the model's own.
        batch_size: Images that are computed at once.
        gradient_accumulation_steps: Batches in one optimizer step.
        max_train_steps: Optimizer steps. Give this or num_train_epochs.
        num_train_epochs: Passes over the data.
        learning_rate: Step size of AdamW.
        weight_decay: Decoupled weight decay of AdamW.
        adam_beta1: Decay of the first moment.
        adam_beta2: Decay of the second moment.
        adam_epsilon: Added to the denominator.
        max_grad_norm: Ceiling on the norm of all gradients together; null
            for none.
        mixed_precision: Numbers to compute with; weights stay float32.
        jit_compile: Compile the training step with XLA.
        ema_decay: Keep an average of the weights with this decay and export
            it, for example 0.9999.
        weighting: Weight of each timestep in the loss.
        offset_noise: Strength of noise that is constant over the image.
        prediction_type: What the model predicts. Defaults to the model's
            own.
        seed: Seed of everything that is random.
        image_column: Column or feature of the image. Found if not given.
        caption_column: Column or feature of the caption.
        split: Sub-folder train, validation or test of a folder, or a split
            of a TFDS dataset.
        caption_template: Text with {caption} in it.
        caption_dropout: Share of captions replaced by the empty one, which
            guidance needs to know.
        crop: Where the square is cut from the resized image.
        horizontal_flip: Mirror half of the images.
        max_unreadable: Share of unreadable images above which training is
            refused.
        validation_data: Where validation examples are, as for data.
        validation_every_epochs: Epochs between two validations.
        preview_prompts: Texts to draw before, during and after training.
        preview_every_steps: Optimizer steps between two previews.
        preview_num_steps: Sampling steps of a preview.
        preview_guidance_scale: Guidance of a preview.
        save_every_steps: Optimizer steps between two exports of the
            weights; each replaces the last. Null for the end only.
        log_every_steps: Optimizer steps between two TensorBoard points.
        weights_directory: Directory with local copies of a preset's
            published files.
        overwrite: Replace an earlier run in output_dir.
    """

    model: str
    data: str
    output_dir: str
    resolution: int | None = None
    batch_size: int = 1
    gradient_accumulation_steps: int = 1
    max_train_steps: int | None = None
    num_train_epochs: int | None = None
    learning_rate: float = 1e-5
    weight_decay: float = 1e-2
    adam_beta1: float = 0.9
    adam_beta2: float = 0.999
    adam_epsilon: float = 1e-8
    max_grad_norm: float | None = 1.0
    mixed_precision: MixedPrecision = "no"
    jit_compile: bool = False
    ema_decay: float | None = None
    weighting: Literal["constant", "min_snr"] = "constant"
    offset_noise: float = 0.0
    prediction_type: Literal["epsilon", "v_prediction"] | None = None
    seed: int = 0
    image_column: str | None = None
    caption_column: str = "text"
    split: str | None = None
    caption_template: str | None = None
    caption_dropout: float = 0.0
    crop: Literal["center", "random"] = "center"
    horizontal_flip: bool = False
    max_unreadable: float = 0.1
    validation_data: str | None = None
    validation_every_epochs: int = 1
    preview_prompts: list[str] | None = None
    preview_every_steps: int = 500
    preview_num_steps: int = 25
    preview_guidance_scale: float = 7.5
    save_every_steps: int | None = None
    log_every_steps: int = 10
    weights_directory: str | None = None
    overwrite: bool = False


def train(options: TrainOptions) -> None:
    """Fine-tunes a model on captioned images.

    Args:
        options: `TrainOptions`.

    Raises:
        ValueError: If an option is out of its range, or the loss is no
            longer a number.
        OSError: If a file is missing or may not be replaced.
    """
    check(options)
    run = RunDirectory(options.output_dir)
    run.check(_inputs(options), options.overwrite)
    sd = load_model(
        options.model,
        options.resolution,
        options.resolution,
        options.mixed_precision,
        options.weights_directory,
        options.seed,
    )
    data = load_data(options, sd)
    trainer = make_trainer(options, sd)
    callbacks = make_callbacks(options, run, data)
    run.create()
    run.write_config(resolved(options), _CONFIG_COMMENT)
    print(_opening(options, sd, data), flush=True)
    try:
        history = fit(options, trainer, data, callbacks)
    finally:
        _report_unreadable(run, data)
    trainer.export(os.fspath(run.weights), overwrite=True)
    print(_closing(options, run, history), flush=True)


_CONFIG_COMMENT = (
    "Again: keras-sdft train --config THIS_FILE --output_dir ANOTHER"
)


def check(options: TrainOptions) -> None:
    """Checks what needs no model and no data.

    Args:
        options: `TrainOptions`.

    Raises:
        ValueError: If an option is out of its range.
        FileNotFoundError: If data is the path of nothing.
    """
    given = (options.max_train_steps, options.num_train_epochs)
    if (given[0] is None) == (given[1] is None):
        raise ValueError(
            "Give exactly one of `max_train_steps` and `num_train_epochs`. "
            f"Received: max_train_steps={given[0]}, "
            f"num_train_epochs={given[1]}."
        )
    for name in _COUNTS:
        value = getattr(options, name)
        if value is not None and value < 1:
            raise ValueError(f"`{name}` must be >= 1. Received: {value}.")
    for name in _POSITIVE:
        value = getattr(options, name)
        if value is not None and not 0 < value < math.inf:
            raise ValueError(f"`{name}` must be > 0. Received: {value}.")
    for name in ("adam_beta1", "adam_beta2"):
        value = getattr(options, name)
        if not 0 <= value < 1:
            raise ValueError(f"`{name}` must be in [0, 1). Received: {value}.")
    resolution = options.resolution
    if resolution is not None and (resolution < 64 or resolution % 64):
        near = max(64, round(resolution / 64) * 64)
        raise ValueError(
            "`resolution` must be a multiple of 64 pixels. Received: "
            f"{resolution}. Nearest valid: {near}."
        )


_COUNTS = (
    "batch_size",
    "gradient_accumulation_steps",
    "max_train_steps",
    "num_train_epochs",
    "validation_every_epochs",
    "preview_every_steps",
    "save_every_steps",
    "log_every_steps",
)
_POSITIVE = ("learning_rate", "adam_epsilon", "max_grad_norm")


def resolved(options: TrainOptions) -> dict[str, Any]:
    """Returns the options as they are saved with the run.

    Paths are absolute, so the file works from any folder; `overwrite` is
    false, because a saved permission to replace a run would be used by the
    next one.

    Args:
        options: `TrainOptions`.

    Returns:
        Dict of plain values, by flag.
    """
    values = dataclasses.asdict(options)
    for name, path in _inputs(options).items():
        if path is not None and os.path.exists(path):
            values[name] = os.path.abspath(path)
    values["output_dir"] = os.path.abspath(values["output_dir"])
    values["overwrite"] = False
    return values


def _inputs(options: TrainOptions) -> dict[str, str | None]:
    """What is read, by flag; a preset's name is no path."""
    from keras_sdft import models

    names = ("model", "data", "validation_data", "weights_directory")
    inputs = {name: getattr(options, name) for name in names}
    if options.model in models.PRESETS:
        del inputs["model"]
    return inputs


def _opening(options: TrainOptions, sd: Any, data: Data) -> str:
    weights = sd.diffusion_model.count_params()
    micro = options.gradient_accumulation_steps
    batch = f"{options.batch_size} images"
    if micro > 1:
        batch = f"{micro} x {batch}"
    lines = [
        f"Training {options.model} ({weights:,} weights) on {options.data}",
        f"  {data.steps:,} steps of {batch} at {sd.img_width} x "
        f"{sd.img_height}, on {_device()}; an epoch is "
        f"{data.steps_per_epoch:,} steps",
    ]
    if len(data.report):
        lines.append(f"  {len(data.report)} unreadable images left out")
    return "\n".join(lines)


def _device() -> str:
    import tensorflow as tf

    count = len(tf.config.list_logical_devices("GPU"))
    return f"{count} GPU" if count else "the CPU"


def _report_unreadable(run: RunDirectory, data: Data) -> None:
    if len(data.report):
        data.report.write(os.fspath(run.skipped))
        print(f"Unreadable images, left out (see {run.skipped}):")
        print(data.report.table(20))


def _closing(options: TrainOptions, run: RunDirectory, history: Any) -> str:
    losses = history.history["loss"]
    prompt = (options.preview_prompts or ["YOUR PROMPT"])[0]
    command = [
        "keras-sdft",
        "generate",
        "--model",
        str(run.path),
        "--prompt",
        prompt,
        "--output",
        "out.png",
    ]
    lines = [
        f"Done: loss {losses[0]:.4f} in the first epoch, {losses[-1]:.4f} in "
        "the last",
        f"  weights   {run.weights}",
        f"  history   {run.history}",
        f"  logs      tensorboard --logdir {shlex.quote(str(run.logs))}",
    ]
    if options.preview_prompts:
        lines.append(f"  previews  {run.previews}")
    return "\n".join([*lines, "Try it:", f"  {shlex.join(command)}"])
