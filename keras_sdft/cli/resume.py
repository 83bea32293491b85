"""Going on with a run: its own flags, before those that are given anew."""

from __future__ import annotations

import os
from typing import Any

from keras_sdft import runs
from keras_sdft.cli.parser import UsageError

# One of them is given; the run has the other one.
_LENGTHS = ("max_train_steps", "num_train_epochs")


def add_saved_flags(given: dict[str, Any], paths: list[str]) -> None:
    """Adds the flags of the run that `resume` names, and their file."""
    directory = given.get("resume")
    if directory is None:
        return
    config = os.path.join(directory, "config.yaml")
    if runs.read_record(directory) is None or not os.path.isfile(config):
        raise UsageError(
            f"`--resume` must name the directory of a run. Received: "
            f"{directory!r}, which has no run.json and config.yaml. Expected "
            "what `--output_dir` was."
        )
    paths.insert(0, config)
    given.setdefault("output_dir", directory)
    for one, other in (_LENGTHS, _LENGTHS[::-1]):
        if one in given:
            given.setdefault(other, "null")
