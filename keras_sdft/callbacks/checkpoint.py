"""Checkpoints while training goes on, written beside the next steps.

Knows when one is due and where it goes; what is in it is decided by
`keras_sdft.training`.
"""

import os
import threading
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from keras_sdft import checks
from keras_sdft.callbacks.interruption import Interruption
from keras_sdft.callbacks.steps import StepCallback
from keras_sdft.callbacks.steps import warn_on_disk_error
from keras_sdft.disk import size_text
from keras_sdft.files import remove_abandoned
from keras_sdft.host_memory import free_on_host
from keras_sdft.training import checkpoint_files as disk
from keras_sdft.training.checkpoint import Interrupted
from keras_sdft.training.checkpoint import Snapshot
from keras_sdft.training.checkpoint import snapshot

# What a machine that is taken away gives, less a step and an export.
_NOTICE_SECONDS = 20.0
# Of the memory that is free, what a copy of the state may take.
_SHARE_OF_MEMORY = 0.8


class Checkpoint(StepCallback):
    """Writes checkpoints that `Trainer.restore_checkpoint` goes on from.

    Training stops for as long as copying the state takes; a thread writes
    the copy while the next steps run. One copy is written at a time: while
    it is, the next one waits. The last step has one as well, so that a longer
    training goes on from there; validation and previews go on beside it. Where
    a copy does not fit in memory, training stops for the whole write. A
    checkpoint that cannot be written, on a full disk for example, leaves the
    ones before it, warns, and training goes on. Of several workers the first
    one writes, and a signal to any of them ends all after the same step.

    Put it last in the list of callbacks, so that it keeps the state that
    they have after a step.

    Args:
        directory: Path of the directory for `step_00000100` and so on.
        every_steps: Integer >= 1, steps between two checkpoints, or `None`.
        every_minutes: Float > 0, minutes between two, or `None`. With
            neither, they are written by `save` and when interrupted, and
            none at the end.
        keep_last: Integer >= 1, how many of the newest stay. Defaults to
            `2`.
        keep_best: String, the name of a value of each epoch whose lowest
            marks the best weights, which are exported: `"val_loss"`. `None`
            exports none.
        best_directory: Path of that export. Defaults to `best` in
            `directory`.
        interruption: `Interruption`, after whose first signal the step in
            progress is finished, a checkpoint written, and
            `keras_sdft.training.Interrupted` raised.
        about: Dict of what JSON can hold, kept in each checkpoint.

    Attributes:
        best: Dict of `value`, `epoch` and `step` of the best weights, or
            `None`. A checkpoint has those of the moment it was written; set
            before `fit`, better ones of the end of an earlier `fit` stay.

    Raises:
        ValueError: If an argument is out of its range.
    """

    def __init__(
        self,
        directory: str | os.PathLike,
        every_steps: int | None = None,
        every_minutes: float | None = None,
        keep_last: int = 2,
        keep_best: str | None = None,
        best_directory: str | os.PathLike | None = None,
        interruption: Interruption | None = None,
        about: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        if every_steps is not None:
            checks.integer("every_steps", every_steps, 1)
        if every_minutes is not None:
            checks.number("every_minutes", every_minutes, above=0)
        self.directory = Path(directory)
        self.every_steps = every_steps
        self.every_minutes = every_minutes
        self.keep_last = checks.integer("keep_last", keep_last, 1)
        self.keep_best = keep_best
        self.best_directory = Path(best_directory or self.directory / "best")
        self.interruption = interruption
        self.about = about
        self.best: dict[str, Any] | None = None
        self._writer = _Writer()
        self._is_due = False
        # The step of the last one, and its position once it is written.
        self._begun = 0
        self._written: tuple[int, ...] | None = None
        self._since = time.monotonic()
        self._told: set[str] = set()

    def on_train_begin(self, logs=None) -> None:
        super().on_train_begin(logs)
        progress = self._trainer.progress
        progress.interruption = self.interruption
        if self._trainer.writes_files:
            remove_abandoned(self.directory)
        self._is_due, self._since = False, time.monotonic()
        self._begun, self._written = self.step, None
        there = disk.path_of(self.directory, self.step).is_dir()
        if progress.is_restored and there:
            self._written = tuple(progress.position)

    def on_train_batch_begin(self, batch, logs=None) -> None:
        super().on_train_batch_begin(batch, logs)
        self._raise_if_interrupted()
        # Not after the step before: it may be the last one of its epoch,
        # whose end would then be missing.
        if self._is_due:
            self.save()

    def on_step_end(self, before, logs) -> None:
        minutes = (time.monotonic() - self._since) / 60
        late = self.every_minutes is not None and minutes >= self.every_minutes
        if late or self.passed(before, self.every_steps):
            self._is_due = True
        self._tell_of_last()
        if self._trainer.stop_training:
            # Before the end of the epoch, which a longer training does not
            # have here: it may be cut short.
            self._save_last()

    def on_test_batch_end(self, batch, logs=None) -> None:
        self._raise_if_interrupted()

    def on_epoch_end(self, epoch, logs=None) -> None:
        self._export_best(epoch, logs or {})
        if self.model.stop_training:
            # All is trained, and saved: what is left is the end of `fit`.
            return
        self._raise_if_interrupted()
        if self._is_due:
            self.save()

    def on_train_end(self, logs=None) -> None:
        if self._begun != self.step:
            self._save_last()
        self._writer.wait()
        self._tell_of_last()
        if self.keep_best and self.best is None:
            warnings.warn(
                f"`keep_best` found no {self.keep_best!r} in the values of an "
                f"epoch: {sorted(logs or {})}. No best weights were exported.",
                stacklevel=2,
            )

    def get_state(self) -> dict[str, Any]:
        """Returns what a checkpoint keeps of it."""
        return {"best": self.best}

    def set_state(self, state: dict[str, Any]) -> None:
        """Goes on from a checkpoint."""
        found = [one for one in (state["best"], self.best) if one is not None]
        self.best = min(found, key=lambda one: one["value"], default=None)

    def _save_last(self) -> None:
        """Writes the checkpoint of the last step, where others are written."""
        if self.every_steps is not None or self.every_minutes is not None:
            self._writer.wait()
            self.save()

    def save(self, wait: bool = False) -> None:
        """Writes a checkpoint of the training as it is now.

        Args:
            wait: Boolean, whether to return only when it is written. Else
                nothing is done while the last one is still being written.
        """
        if wait:
            self._writer.wait()
        elif self._writer.is_busy:
            return
        if not self.model.writes_files:
            return
        self._tell_of_last()
        self._is_due, self._since = False, time.monotonic()
        position = tuple(self.model.progress.position)
        if wait and position == self._written:
            # A validation since then has changed the metrics.
            return
        self._begun = position[0]
        found = snapshot(self.model, self.about)
        path = disk.path_of(self.directory, self._begun)

        def write(state: Snapshot) -> None:
            state.write(path)
            self._written = position
            disk.remove_all_but(self.directory, self.keep_last)

        if not wait and self._fits(found.num_bytes):
            copy = found.copied()
            self._writer.start(lambda: write(copy), found.num_bytes)
        else:
            self._writer.start(lambda: write(found), found.num_bytes)
            self._writer.wait()
            self._tell_of_last()

    def _fits(self, num_bytes: int) -> bool:
        free = free_on_host()
        fits = free is None or num_bytes <= _SHARE_OF_MEMORY * free
        if not fits:
            self._tell(
                "memory",
                f"Memory has no room for a copy of {size_text(num_bytes)}, so "
                "training stops while a checkpoint is written.",
            )
        return fits

    def _tell_of_last(self) -> None:
        """Warns of what went wrong with the last write, once it has ended."""
        if self._writer.is_busy:
            return
        error, self._writer.error = self._writer.error, None
        with warn_on_disk_error("A checkpoint"):
            if error is not None:
                raise error
        if self._writer.seconds > _NOTICE_SECONDS:
            self._tell(
                "seconds",
                f"A checkpoint of {size_text(self._writer.num_bytes)} took "
                f"{self._writer.seconds:.0f} s to write: longer than machines "
                "have that are taken away after a notice of 30 s. Such a "
                "machine goes on from the last one that was whole.",
            )

    def _tell(self, key: str, text: str) -> None:
        if key not in self._told:
            self._told.add(key)
            warnings.warn(text, stacklevel=2)

    def _raise_if_interrupted(self) -> None:
        number = self._trainer.progress.signal
        if self.interruption is not None and number is not None:
            raise Interrupted(number, lambda: self.save(wait=True))

    def _export_best(self, epoch: int, logs: dict[str, Any]) -> None:
        if self.keep_best is None or self.keep_best not in logs:
            return
        value = float(logs[self.keep_best])
        if self.best is not None and not value < self.best["value"]:
            return
        with warn_on_disk_error("The best weights"):
            self.model.export(self.best_directory, overwrite=True)
            self.best = {"value": value, "epoch": epoch + 1, "step": self.step}


class _Writer:
    """Runs one write at a time in a thread.

    Attributes:
        error: What the last write ended with, or `None`.
        seconds: Float, how long the last one took.
        num_bytes: Integer, how much it was.
    """

    def __init__(self) -> None:
        self.error: Exception | None = None
        self.seconds = 0.0
        self.num_bytes = 0
        self._thread: threading.Thread | None = None

    @property
    def is_busy(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    def start(self, write: Callable[[], None], num_bytes: int) -> None:
        def run() -> None:
            begin = time.monotonic()
            try:
                write()
            except Exception as error:
                self.error = error
            self.seconds = time.monotonic() - begin

        self.num_bytes = num_bytes
        # Python waits for it when the program ends.
        self._thread = threading.Thread(target=run, name="checkpoint")
        self._thread.start()

    def wait(self) -> None:
        if self._thread is not None:
            self._thread.join()
            self._thread = None
