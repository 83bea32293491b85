"""Going on with a run: its own flags, its data from the next batch on.

What may change, and where a run goes on, is decided by `keras_sdft.runs`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

import yaml

from keras_sdft import runs
from keras_sdft.cli.command import Options
from keras_sdft.cli.parser import UsageError

# One of them is given; the run has the other one.
_LENGTHS = ("--max_train_steps", "--num_train_epochs")


def with_saved_flags(arguments: Sequence[str]) -> list[str]:
    """Returns the arguments with those of the run that `--resume` names.

    Args:
        arguments: Strings, without program and command.

    Raises:
        UsageError: If it names no run.
    """
    directory = _value(arguments, "--resume")
    if directory is None:
        return list(arguments)
    config = os.path.join(directory, "config.yaml")
    if runs.read_record(directory) is None or not os.path.isfile(config):
        raise UsageError(
            f"`--resume` must name the directory of a run. Received: "
            f"{directory!r}, which has no run.json and config.yaml. Expected "
            "what `--output_dir` was."
        )
    added = ["--config", config, "--output_dir", directory]
    for given, other in (_LENGTHS, _LENGTHS[::-1]):
        if _value(arguments, given) is not None:
            added += [other, "null"]
    return [*added, *arguments]


def _value(arguments: Sequence[str], flag: str) -> str | None:
    for index, word in enumerate(arguments):
        name, equals, value = word.partition("=")
        if name == flag:
            return value if equals else arguments[index + 1 : index + 2][0]
    return None


def open_run(
    command: str,
    options: Options,
    inputs: Mapping[str, str | None],
    made: Mapping[str, str | None],
) -> runs.RunDirectory:
    """Returns the directory of a new run, or of the one that goes on."""
    if options.resume is None:
        return runs.RunDirectory(
            options.output_dir, command, inputs, options.overwrite, made
        )
    run = runs.RunDirectory.resume(options.resume)
    if run.record.command != command:
        begun = runs.command_to_resume(run)
        run.close()
        raise ValueError(
            f"The run {options.resume!r} was begun by `{run.record.command}`: "
            f"`{begun}`."
        )
    return run


def find_checkpoint(
    options: Options, run: runs.RunDirectory, saved: Mapping[str, Any]
) -> Any:
    """Returns path and content of the checkpoint to go on from, or `None`.

    Args:
        options: The options of any kind of training.
        run: `RunDirectory`.
        saved: Dict of the values that will be saved with the run.
    """
    if options.resume is None:
        return None
    before = yaml.safe_load(run.config.read_text(encoding="utf-8"))
    runs.check_flags(before, saved)
    return runs.find_checkpoint(run)


def start_of(found: Any, data: Any = None) -> tuple[int, int]:
    """Returns epoch and batch that the data begins with.

    Args:
        found: What `find_checkpoint` returned.
        data: `Data` of the run, to begin at the end of an epoch where all
            of its steps are done.
    """
    if found is None:
        return (0, 0)
    step, epoch, batch = found[1]["position"]
    if data is not None and step >= data.steps:
        return (epoch, data.steps_per_epoch)
    return (epoch, batch)


def check_steps(found: Any, steps: int) -> None:
    """Refuses a length that the run is already beyond."""
    done = 0 if found is None else found[1]["position"][0]
    if done > steps:
        raise ValueError(
            f"The run is at step {done:,} already, beyond the {steps:,} that "
            "it was to have. Give a larger `--max_train_steps`."
        )
