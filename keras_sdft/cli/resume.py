"""Going on with a run: its own flags, before those that are given anew."""

from __future__ import annotations

import os
from collections.abc import Sequence

from keras_sdft import runs
from keras_sdft.cli.parser import UsageError

# One of them is given; the run has the other one.
_LENGTHS = ("--max_train_steps", "--num_train_epochs")


def with_saved_flags(arguments: Sequence[str]) -> list[str]:
    """Returns the arguments with those of the run that `--resume` names."""
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
