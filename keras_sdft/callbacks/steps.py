"""Counting optimizer steps through a whole `fit`, across epochs.

Keras numbers batches inside an epoch; fine-tuning is measured in optimizer
steps. Knows nothing of images, weights or files.
"""

import contextlib
import warnings
from collections.abc import Iterator
from typing import Any

import keras

from keras_sdft import checks


class StepCallback(keras.callbacks.Callback):
    """Counts optimizer steps in `self.step`, over epochs.

    It is the count of `trainer.progress`, which starts where the trainer is
    (0 for a fresh one, else the optimizer's count or that of a checkpoint) and
    grows by the batches that were trained, so it needs no read from the
    device. Subclasses override `on_step_end` and call `super()` in the other
    hooks. For a `keras_sdft.Trainer`.

    Attributes:
        chief_only: Boolean, whether it writes or prints: of several workers
            the first one alone has it.
    """

    chief_only = False
    step = 0
    # Not `model`: where that is asked for between two steps, Keras waits for
    # the step in JAX, and puts all of the state into the variables.
    _trainer: Any = None

    def set_model(self, model) -> None:
        super().set_model(model)
        self._trainer = model

    def on_train_begin(self, logs=None) -> None:
        super().on_train_begin(logs)
        self.step = self._trainer.progress.position.step

    def on_train_batch_end(self, batch, logs=None) -> None:
        super().on_train_batch_end(batch, logs)
        before, self.step = self.step, self._trainer.progress.position.step
        self.on_step_end(before, logs)

    def on_step_end(self, before: int, logs: dict | None) -> None:
        """Called after training; the steps `before + 1 .. self.step` ran.

        Args:
            before: Int, the count before this call.
            logs: Dict of the step's logs, shared by all callbacks.
        """

    def passed(self, before: int, every: int | None) -> bool:
        """Says whether a multiple of `every` lies in the last steps."""
        return every is not None and self.step // every > before // every


class StopAtStep(StepCallback):
    """Ends `fit` after exactly `step` optimizer steps.

    Epochs are passes over the data; this is what makes a number of steps
    exact when it is no multiple of an epoch. The last epoch is then shorter,
    and its validation and callbacks run as always. With
    `steps_per_execution`, the last call has as many batches as are left.

    Args:
        step: Int >= 1, the optimizer step after which training ends.

    Raises:
        ValueError: If `step` is not an integer of 1 or more.
    """

    def __init__(self, step: int) -> None:
        super().__init__()
        self.last_step = checks.integer("step", step, 1)

    def on_train_begin(self, logs=None) -> None:
        super().on_train_begin(logs)
        self._trainer.progress.stop_at(self.last_step)

    def on_step_end(self, before, logs) -> None:
        if self.step >= self.last_step:
            self._trainer.stop_training = True

    def on_epoch_end(self, epoch, logs=None) -> None:
        # A run may go on where nothing but the end of its epoch is left.
        self.on_step_end(self.step, logs)


@contextlib.contextmanager
def warn_on_disk_error(what: str) -> Iterator[None]:
    """Context manager that turns a disk's errors into a warning.

    Hours of training are worth more than a file that can be written later.

    Args:
        what: String that begins the warning: `"The preview of step 10"`.
    """
    try:
        yield
    except Exception as error:
        from tensorflow import errors

        text = str(error)
        # TensorFlow's writers raise their own, with more on other lines.
        kinds = (errors.ResourceExhaustedError, errors.UnknownError)
        if isinstance(error, kinds):
            text = text.splitlines()[0].rpartition("; ")[2]
        elif not isinstance(error, OSError):
            raise
        warnings.warn(
            f"{what} was not written, and training goes on: {text}.",
            stacklevel=3,
        )
