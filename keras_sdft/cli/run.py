"""A run of any kind of training, from its flags to its last line.

Everything is checked before the run directory is made, and everything is
made before the first step.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shlex
from collections.abc import Iterator
from typing import Any

from keras_sdft import runs
from keras_sdft import training
from keras_sdft.cli.command import Command
from keras_sdft.cli.command import Options
from keras_sdft.cli.source import Source
from keras_sdft.cli.training import check_training
from keras_sdft.cli.training import inputs_of
from keras_sdft.cli.training import load_for_training
from keras_sdft.cli.training import make_trainer
from keras_sdft.cli.training import parts_of
from keras_sdft.cli.training import remedies
from keras_sdft.cli.training import resolve_defaults


def run(command: Command, kind: type[Source], options: Options) -> None:
    """Trains, exports, and says where things are.

    Args:
        command: The command, whose flags are saved with the run.
        kind: Class of what is trained on.
        options: The options of any kind of training.

    Raises:
        keras_sdft.training.Interrupted: If a signal ended it.
        OSError: If a file is missing or may not be replaced, or the disk has
            no room.
        ValueError: If an option is wrong, or the loss became NaN or infinite.
    """
    inputs = inputs_of(options, kind.inputs)
    made = {kind.made: getattr(options, kind.made)}
    with each_warning_once():
        kind.check(options, check_training(options))
        _check_best(options, getattr(options, kind.inputs[-1]))
        if options.resume is not None:
            directory = runs.RunDirectory.resume(options.resume, command.name)
        else:
            directory = runs.RunDirectory(
                options.output_dir,
                command.name,
                inputs,
                options.overwrite,
                made,
            )
        with directory:
            options = resolve_defaults(options)
            saved = resolved(options, inputs, kind.made)
            flags = command.flags.by_name
            saved = {n: value for n, value in saved.items() if n in flags}
            _run(command, options, kind, directory, saved)


def _run(
    command: Command,
    options: Options,
    kind: type[Source],
    run: runs.RunDirectory,
    saved: dict[str, Any],
) -> None:
    checkpoint, content = None, dict[str, Any](position=(0, 0, 0))
    if options.resume is not None:
        checkpoint, content = runs.find_checkpoint(run, saved)
    done, epoch, batch = content["position"]
    sd = load_for_training(options)
    source = kind(options, sd)
    data = source.load((epoch, batch))
    if done > data.steps:
        raise ValueError(
            f"The run is at step {done:,} already, beyond the {data.steps:,} "
            "that it was to have. Give a larger `--max_train_steps`."
        )
    if done == data.steps and batch != data.steps_per_epoch:
        # All is trained, and the end of the epoch is still to come.
        batch = data.steps_per_epoch
        data = source.load((epoch, batch))
    trainer = make_trainer(options, sd, data.steps)
    runs.check_memory(trainer, data, remedies(options), options.check_memory)
    data = source.prepare(data, (epoch, batch))
    previews = options.of(runs.PreviewOptions)
    checkpoints = options.of(training.CheckpointOptions)
    callbacks = runs.make_callbacks(
        run, data, options.of(runs.RunOptions), previews, checkpoints
    )
    if checkpoint is not None:
        runs.check_data(content["about"]["data"], runs.data_state(data.report))
        trainer.restore_checkpoint(checkpoint)
    room = runs.check_room(
        run, trainer, checkpoints, previews.count(data.steps)
    )
    again = f"Again: keras-sdft {command.name} --config THIS_FILE"
    run.write_config(saved, f"{again} --output_dir ANOTHER")
    changed = runs.changed_settings(saved, command.defaults_by_flag)
    prompt = (options.preview_prompts or [source.prompt])[0]
    runs.note_facts(run.path, settings=changed, prompt=prompt)
    print(_opening(options, kind, trainer, data), flush=True)
    print(f"  {_plan(options)}; {room}", flush=True)
    for earlier in run.earlier:
        print(f"  the earlier run stays in {earlier} until this one is done")
    if checkpoint is not None:
        print(f"  goes on after step {done:,}", flush=True)
    runs.fit(run, trainer, data, callbacks)
    print(_closing(options, run, callbacks, prompt), flush=True)


# === The flags ===


def resolved(
    options: Options, inputs: dict[str, str | None], *made: str
) -> dict[str, Any]:
    """Returns the values of flags as they are saved with the run.

    Paths are absolute, so the file works from any folder; `overwrite` is
    false, because a saved permission to replace a run would be used by the
    next one.
    """
    values = options.plain()
    there = [n for n, path in inputs.items() if path and os.path.exists(path)]
    for name in (*there, *made, "output_dir"):
        if values[name] is not None:
            values[name] = os.path.abspath(values[name])
    values["overwrite"] = False
    del values["resume"]
    return values


def _check_best(options: Options, validation: str | None) -> None:
    best = options.keep_best
    if best is not None and best.startswith("val_") and validation is None:
        raise ValueError(
            f"`keep_best` is {best!r}, and the run validates on nothing. Give "
            "validation data, or leave `keep_best` out."
        )


@contextlib.contextmanager
def each_warning_once() -> Iterator[None]:
    """Context manager in which the library logs each message once.

    runs.RunData is read more than once where it is completed on the way.
    """
    seen: set[str] = set()

    def is_new(record: logging.LogRecord) -> bool:
        message = record.getMessage()
        known = message in seen
        seen.add(message)
        return not known

    # A filter of a logger does not see what its children log.
    names = [n for n in logging.root.manager.loggerDict if "keras_sdft" in n]
    for name in names:
        logging.getLogger(name).addFilter(is_new)
    try:
        yield
    finally:
        for name in names:
            logging.getLogger(name).removeFilter(is_new)


# === What is told ===


def _plan(options: Options) -> str:
    """Returns when checkpoints are written."""
    if options.checkpoint_every_steps:
        return f"checkpoints every {options.checkpoint_every_steps:,} steps"
    if options.checkpoint_every_minutes:
        return f"checkpoints every {options.checkpoint_every_minutes:g} minutes"
    return "a checkpoint only when interrupted"


def _opening(
    options: Options, kind: type[Source], trainer: Any, data: runs.RunData
) -> str:
    import tensorflow as tf

    sd, micro = trainer.stable_diffusion, options.gradient_accumulation_steps
    weights = sd.diffusion_model.count_params()
    batch = f"{data.images_per_step // micro} images"
    if micro > 1:
        batch = f"{micro} x {batch}"
    gpus = len(tf.config.list_logical_devices("GPU"))
    device = f"{gpus} GPU" if gpus else "the CPU"
    epoch = f"; an epoch is {_steps(data.steps_per_epoch)}"
    lines = [
        f"Training {options.model} ({weights:,} weights) on "
        f"{getattr(options, kind.inputs[0])}",
        f"  {_steps(data.steps)} of {batch} at {sd.img_width} x "
        f"{sd.img_height}, on {device}{epoch if data.is_pass else ''}",
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


def _closing(
    options: Options, run: Any, callbacks: dict[str, Any], prompt: str
) -> str:
    names = ("loss", "instance_loss", "prior_loss", "val_loss")
    losses = callbacks["HistoryFile"].summary(names)
    lines = [f"Done: {losses}", f"  weights   {run.weights}"]
    best = callbacks["Checkpoint"].best
    if best is not None:
        lines.append(
            f"  best      {run.best} ({options.keep_best} "
            f"{best['value']:.4f} in epoch {best['epoch']})"
        )
    lines += [
        f"  report    {run.report}",
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
    command = ["keras-sdft", "generate", "--model", str(run.path)]
    command += ["--prompt", prompt, "--output", "out.png"]
    return "\n".join([*lines, "Try it:", f"  {shlex.join(command)}"])
