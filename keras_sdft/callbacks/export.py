"""Writing the fine-tuned weights while training goes on.

Knows that a trainer can `export`, and nothing of what is in the files.
"""

from __future__ import annotations

import os

from keras_sdft.callbacks.steps import StepCallback
from keras_sdft.callbacks.steps import check_count


class Export(StepCallback):
    """Exports the trainer's weights every so many optimizer steps.

    Each export replaces the one before it, so a long run that is cut off
    still leaves weights to generate from. It holds no optimizer state:
    training cannot be resumed from it.

    Args:
        directory: Path of the directory that `Trainer.export` writes.
        every_steps: Int >= 1, optimizer steps between two exports.

    Raises:
        ValueError: If `every_steps` is not an integer of 1 or more.
    """

    def __init__(self, directory: str | os.PathLike, every_steps: int) -> None:
        super().__init__()
        if every_steps is None:
            raise ValueError("`every_steps` must be given. Received: None.")
        self.directory = os.fspath(directory)
        self.every_steps = check_count("every_steps", every_steps)

    def on_step_end(self, before, logs) -> None:
        if self.passed(before, self.every_steps):
            self.model.export(self.directory, overwrite=True)
