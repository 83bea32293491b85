"""Scalars for TensorBoard, under the names that Keras gives them.

Knows event files; not what the numbers mean.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from keras_sdft import checks
from keras_sdft.callbacks.steps import StepCallback
from keras_sdft.files import atomic_path

_EPOCH = "epoch_"


class TensorBoard(StepCallback):
    """Writes the logs of steps, epochs and validations for TensorBoard.

    `keras.callbacks.TensorBoard(update_freq=N)` also drops what it logs of
    an epoch and of a validation unless the step is a multiple of N, and
    counts steps from 1 in every `fit`. Here epochs and validations are
    always written, and a run that is resumed goes on without a gap. The
    names are Keras' own: `batch_loss`, `epoch_loss`,
    `evaluation_loss_vs_iterations`.

    Args:
        directory: Path of the log directory; `train` and `validation` are
            made in it.
        every_steps: Integer >= 1, steps between two logged ones. Defaults
            to `1`.

    Raises:
        ValueError: If `every_steps` is not an integer of 1 or more.
    """

    def __init__(
        self, directory: str | os.PathLike, every_steps: int = 1
    ) -> None:
        super().__init__()
        self.directory = Path(directory)
        self.every_steps = checks.integer("every_steps", every_steps, 1)
        self._epochs = 0
        self._writers: dict[str, Any] = {}

    def on_train_begin(self, logs=None) -> None:
        super().on_train_begin(logs)
        self._close()

    def on_step_end(self, before, logs) -> None:
        if self.passed(before, self.every_steps):
            self._write("train", "batch_{}", logs or {}, self.step)

    def on_epoch_end(self, epoch, logs=None) -> None:
        logs = logs or {}
        own = {k: v for k, v in logs.items() if not k.startswith("val_")}
        theirs = {k[4:]: v for k, v in logs.items() if k.startswith("val_")}
        self._write("train", _EPOCH + "{}", own, epoch)
        self._write("validation", _EPOCH + "{}", theirs, epoch)
        self._epochs = epoch + 1
        self.flush()

    def on_test_end(self, logs=None) -> None:
        name = "evaluation_{}_vs_iterations"
        self._write("validation", name, logs or {}, self.step)

    def on_train_end(self, logs=None) -> None:
        self._close()

    def get_state(self) -> dict[str, Any]:
        """Returns what a checkpoint keeps of it; all is on the disk then."""
        self.flush()
        return {"step": self.step, "epochs": self._epochs}

    def set_state(self, state: dict[str, Any]) -> None:
        """Goes on from a checkpoint; what was logged later is removed."""
        self._epochs = state["epochs"]
        for name in ("train", "validation"):
            cut_events(self.directory / name, state["step"], self._epochs)

    def flush(self) -> None:
        """Writes what is still in memory."""
        for writer in self._writers.values():
            writer.flush()

    def _write(self, kind: str, name: str, logs: Any, step: int) -> None:
        if not logs:
            return
        from tensorflow import summary

        if kind not in self._writers:
            directory = os.fspath(self.directory / kind)
            self._writers[kind] = summary.create_file_writer(directory)
        with self._writers[kind].as_default(), summary.record_if(True):
            for key, value in logs.items():
                summary.scalar(name.format(key), value, step=step)

    def _close(self) -> None:
        for writer in self._writers.values():
            writer.close()
        self._writers = {}


def cut_events(
    directory: str | os.PathLike, step: int, epochs: int | None = None
) -> None:
    """Removes what was logged after a step from the event files.

    Args:
        directory: Directory of event files; it need not exist.
        step: Integer, the last step that stays.
        epochs: Integer, epochs that had ended by then. What is logged under
            the number of an epoch stays if that epoch had ended.
    """

    def stays(event: Any) -> bool:
        tags = [value.tag for value in event.summary.value]
        if epochs is not None and any(tag.startswith(_EPOCH) for tag in tags):
            return event.step < epochs
        return event.step <= step

    for path in sorted(Path(directory).glob("events.out.tfevents.*")):
        _filter_events(path, stays)


def _filter_events(path: Path, stays: Callable[[Any], bool]) -> None:
    import tensorflow as tf

    kept, removed = [], False
    try:
        for record in tf.data.TFRecordDataset(os.fspath(path)):
            data = record.numpy()
            if stays(tf.compat.v1.Event.FromString(data)):
                kept.append(data)
            else:
                removed = True
    except tf.errors.DataLossError:
        # The process was killed while it wrote the last record.
        removed = True
    if removed:
        with (
            atomic_path(path) as staged,
            tf.io.TFRecordWriter(os.fspath(staged)) as writer,
        ):
            for data in kept:
                writer.write(data)
