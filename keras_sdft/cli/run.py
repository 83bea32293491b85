"""A run from its directory to its last line, whatever is trained.

Everything is checked and made before; here things are written.
"""

from __future__ import annotations

import dataclasses
import os
import shlex
from collections.abc import Iterable
from typing import TYPE_CHECKING
from typing import Any

import keras_sdft
from keras_sdft.cli.model import ModelOptions
from keras_sdft.cli.training import fit
from keras_sdft.cli.training import parts_of

if TYPE_CHECKING:
    from keras_sdft.cli.command import Options
    from keras_sdft.cli.training_data import Data


@dataclasses.dataclass(frozen=True)
class RunLabels:
    """What differs between kinds of training in what is said of a run."""

    data: str
    # What to try the result with.
    prompt: str


def load_for_training(options: Options) -> Any:
    """Loads the model that is to be trained.

    A model that declares what it predicts is loaded as that, and may be
    trained towards `prediction_type`; for one that does not, it says both.
    """
    declared = keras_sdft.models.describe(options.model)["spec"]
    is_missing = declared["prediction_type"] is None
    sd = options.of(ModelOptions).load(
        options.resolution,
        options.resolution,
        options.prediction_type if is_missing else None,
        options.remat,
    )
    for part in parts_of(options):
        part.add_tokens(sd)
    return sd


def inputs_of(options: Options, names: Iterable[str]) -> dict[str, str | None]:
    """Returns what is read, by flag: the model, and `names` of the data."""
    flags = ("model", "vae", *names, "weights_directory")
    inputs = {name: getattr(options, name) for name in flags}
    # A preset's name is no path, whatever lies there.
    if options.model in keras_sdft.models.PRESETS:
        del inputs["model"]
    return inputs


def resolved(options: Options, inputs: dict[str, str | None]) -> dict[str, Any]:
    """Returns the values of flags as they are saved with the run.

    Paths are absolute, so the file works from any folder; `overwrite` is
    false, because a saved permission to replace a run would be used by the
    next one.
    """
    values: dict[str, Any] = {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in vars(options).items()
    }
    for name, path in inputs.items():
        if path is not None and os.path.exists(path):
            values[name] = os.path.abspath(path)
    values["output_dir"] = os.path.abspath(values["output_dir"])
    values["overwrite"] = False
    return values


def run_training(
    options: Options,
    run: Any,
    saved: dict[str, Any],
    data: Data,
    trainer: Any,
    callbacks: list[Any],
    labels: RunLabels,
) -> None:
    """Trains, exports, and says where things are.

    Args:
        options: The options of any kind of training.
        run: `keras_sdft.runs.RunDirectory`.
        saved: Dict of `resolved`.
        data: `Data`.
        trainer: A compiled `keras_sdft.Trainer`.
        callbacks: List of `make_callbacks`.
        labels: `RunLabels`.

    Raises:
        ValueError: If the loss became NaN or infinite.
    """
    run.write_config(
        saved,
        f"Again: keras-sdft {run.record.command} --config THIS_FILE "
        "--output_dir ANOTHER",
    )
    run.begin()
    print(_opening(options, trainer, data, labels), flush=True)
    try:
        history = fit(options, trainer, data, callbacks)
    finally:
        _report_unreadable(run, data)
    trainer.export(os.fspath(run.weights), overwrite=True)
    last = {k: v[-1] for k, v in history.history.items() if "loss" in k}
    run.finish(step=data.steps, **last)
    print(_closing(options, run, history, labels), flush=True)


def _opening(
    options: Options, trainer: Any, data: Data, labels: RunLabels
) -> str:
    sd = trainer.stable_diffusion
    weights = sd.diffusion_model.count_params()
    micro = options.gradient_accumulation_steps
    batch = f"{data.images_per_step // micro} images"
    if micro > 1:
        batch = f"{micro} x {batch}"
    epoch = (
        "" if data.endless else f"; an epoch is {_steps(data.steps_per_epoch)}"
    )
    lines = [
        f"Training {options.model} ({weights:,} weights) on {labels.data}",
        f"  {_steps(data.steps)} of {batch} at {sd.img_width} x "
        f"{sd.img_height}, on {_device()}{epoch}",
        f"  {options.optimizer}, learning rate {options.learning_rate:g}, "
        f"{options.lr_scheduler}",
    ]
    names = [part.name.replace("_", " ") for part in parts_of(options)]
    if len(names) > 1:
        lines.append(f"  what learns: {', '.join(names)}")
    lines += [f"  {line}" for line in data.report.summary().splitlines()]
    return "\n".join(lines)


def _steps(count: int) -> str:
    return f"{count:,} step{'s' if count != 1 else ''}"


def _device() -> str:
    import tensorflow as tf

    count = len(tf.config.list_logical_devices("GPU"))
    return f"{count} GPU" if count else "the CPU"


def _report_unreadable(run: Any, data: Data) -> None:
    if len(data.report):
        data.report.write(os.fspath(run.skipped))
        print(f"Unreadable images, left out (see {run.skipped}):")
        print(data.report.table(20))


def _closing(
    options: Options, run: Any, history: Any, labels: RunLabels
) -> str:
    prompt = (options.preview_prompts or [labels.prompt])[0]
    command = ["keras-sdft", "generate", "--model", str(run.path)]
    command += ["--prompt", prompt, "--output", "out.png"]
    lines = [
        f"Done: {_losses(history)}",
        f"  weights   {run.weights}",
        f"  history   {run.history}",
        f"  logs      tensorboard --logdir {shlex.quote(str(run.logs))}",
    ]
    if options.preview_prompts:
        lines.append(f"  previews  {run.before_and_after}")
    return "\n".join([*lines, "Try it:", f"  {shlex.join(command)}"])


def _losses(history: Any) -> str:
    """Returns the losses of the first and of the last epoch."""
    losses = history.history
    last = len(history.epoch)
    names = [n for n in ("loss", "instance_loss", "prior_loss") if n in losses]
    texts = [f"{name} {losses[name][-1]:.4f}" for name in names]
    if last > 1:
        texts = [
            f"{name} {losses[name][0]:.4f} in epoch 1, "
            f"{losses[name][-1]:.4f} in epoch {last}"
            for name in names
        ]
    if "val_loss" in losses:
        values = losses["val_loss"]
        texts.append(f"val_loss {values[-1]:.4f} at the end")
        if len(values) > 1:
            texts[-1] += f" ({values[0]:.4f} when it was first computed)"
    return "; ".join(texts)
