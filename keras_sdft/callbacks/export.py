"""Writing the fine-tuned weights while training goes on.

Knows that a trainer can `export`, and nothing of what is in the files.
"""

import os

from keras_sdft import checks
from keras_sdft.callbacks.steps import StepCallback
from keras_sdft.callbacks.steps import warn_on_disk_error


class Export(StepCallback):
    """Exports the trainer's weights every so many optimizer steps.

    Each export replaces the one before it, so a long run that is cut off
    still leaves weights to generate from. It holds no optimizer state:
    training cannot be resumed from it. An export that fails, on a full disk
    for example, leaves the one before it, warns, and training goes on.

    Args:
        directory: Path of the directory that `Trainer.export` writes.
        every_steps: Int >= 1, optimizer steps between two exports.

    Raises:
        ValueError: If `every_steps` is not an integer of 1 or more.
    """

    chief_only = True

    def __init__(self, directory: str | os.PathLike, every_steps: int) -> None:
        super().__init__()
        self.directory = os.fspath(directory)
        self.every_steps = checks.integer("every_steps", every_steps, 1)

    def on_step_end(self, before, logs) -> None:
        if self.passed(before, self.every_steps):
            with warn_on_disk_error(f"The export of step {self.step}"):
                self.model.export(self.directory, overwrite=True)
