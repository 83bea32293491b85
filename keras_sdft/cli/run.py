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
from keras_sdft import runs
from keras_sdft import training
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
    del values["resume"]
    return values


def run_training(
    options: Options,
    run: Any,
    saved: dict[str, Any],
    data: Data,
    trainer: Any,
    callbacks: list[Any],
    labels: RunLabels,
    found: Any = None,
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
        found: Path and content of the checkpoint to go on from, or `None`.

    Raises:
        keras_sdft.training.Interrupted: If a signal ended it.
        OSError: If the disk has no room for it.
        ValueError: If the loss became NaN or infinite.
    """
    if found is not None:
        path, content = found
        runs.check_data(content["about"]["data"], runs.data_state(data.report))
        trainer.restore_checkpoint(path)
    room = runs.check_room(
        run,
        trainer,
        options.keep_checkpoints,
        options.keep_best is not None,
        _num_previews(options, data),
    )
    run.write_config(
        saved,
        f"Again: keras-sdft {run.record.command} --config THIS_FILE "
        "--output_dir ANOTHER",
    )
    run.begin()
    print(_opening(options, trainer, data, labels), flush=True)
    print(f"  {_plan(options)}; {room}", flush=True)
    for earlier in run.earlier:
        print(f"  the earlier run stays in {earlier} until this one is done")
    if found is not None:
        print(f"  goes on after step {content['position'][0]:,}", flush=True)
    keeper = next(c for c in callbacks if hasattr(c, "interruption"))
    with keeper.interruption:
        try:
            fit(options, trainer, data, callbacks)
        except training.Interrupted:
            _export_interrupted(run, trainer)
            raise
        finally:
            _report_unreadable(run, data)
        trainer.export(os.fspath(run.weights), overwrite=True)
    history = next(c for c in callbacks if hasattr(c, "rows"))
    values = {k: v for k, v in history.rows[-1].items() if "loss" in k}
    run.finish(step=data.steps, **values, best=keeper.best)
    print(_closing(options, run, history, keeper, labels), flush=True)


def _export_interrupted(run: Any, trainer: Any) -> None:
    step = int(trainer.step)
    try:
        trainer.export(os.fspath(run.weights), overwrite=True)
        where = f"weights   {run.weights}"
    except (OSError, ValueError) as error:
        where = f"weights   not exported: {error}"
    run.update(state="interrupted", step=step)
    lines = [
        f"Interrupted after step {step:,}, with a checkpoint.",
        f"  {where}",
        "Go on with:",
        f"  {runs.command_to_resume(run)}",
    ]
    print("\n".join(lines), flush=True)


def _num_previews(options: Options, data: Data) -> int:
    prompts = options.preview_prompts or []
    return (3 + data.steps // options.preview_every_steps) * len(prompts)


def _plan(options: Options) -> str:
    """Returns when checkpoints are written."""
    if options.checkpoint_every_steps:
        return f"checkpoints every {options.checkpoint_every_steps:,} steps"
    if options.checkpoint_every_minutes:
        return f"checkpoints every {options.checkpoint_every_minutes:g} minutes"
    return "a checkpoint only when interrupted"


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
        f"; an epoch is {_steps(data.steps_per_epoch)}" if data.is_pass else ""
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
    options: Options, run: Any, history: Any, keeper: Any, labels: RunLabels
) -> str:
    prompt = (options.preview_prompts or [labels.prompt])[0]
    command = ["keras-sdft", "generate", "--model", str(run.path)]
    command += ["--prompt", prompt, "--output", "out.png"]
    names = ("loss", "instance_loss", "prior_loss", "val_loss")
    lines = [f"Done: {history.summary(names)}", f"  weights   {run.weights}"]
    if keeper.best is not None:
        best = keeper.best
        lines.append(
            f"  best      {run.best} ({options.keep_best} "
            f"{best['value']:.4f} in epoch {best['epoch']})"
        )
    lines += [
        f"  history   {run.history}",
        f"  logs      tensorboard --logdir {shlex.quote(str(run.logs))}",
    ]
    if options.preview_prompts:
        lines.append(f"  previews  {run.before_and_after}")
    if run.checkpoints.is_dir():
        lines.append(
            f"  go on     {runs.command_to_resume(run)} --max_train_steps N "
            f"(else {run.checkpoints} may be removed)"
        )
    return "\n".join([*lines, "Try it:", f"  {shlex.join(command)}"])
