"""Scalars for TensorBoard, against the optimizer step.

Knows event files; not what the numbers mean.
"""

import contextlib
import copy
import os
from collections.abc import Callable
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from keras_sdft import checks
from keras_sdft.callbacks.steps import StepCallback
from keras_sdft.callbacks.steps import warn_on_disk_error
from keras_sdft.files import atomic_path

_TRAINING = {
    "loss": "loss/train",
    "instance_loss": "loss/instance",
    "prior_loss": "loss/prior",
}
_VALIDATION = "loss/validation"


class TensorBoard(StepCallback):
    """Writes the logs of steps and of validations for TensorBoard.

    All tags count optimizer steps, also over epochs and in a run that is
    resumed, which goes on without a gap:

    - `loss/train`, and with prior preservation `loss/instance` and
      `loss/prior`: means over the steps since the last point, where Keras
      logs the mean of the epoch so far;
    - `loss/validation`, of every validation;
    - `learning_rate`, `images_per_second` and whatever else is logged, as
      it is; of a validation under `validation/`.

    `keras.callbacks.TensorBoard(update_freq=N)` also drops what it logs of
    a validation unless the step is a multiple of N, and counts steps from 1
    in every `fit`.

    Args:
        directory: Path of the log directory.
        every_steps: Integer >= 1, steps between two points; the last step
            has one as well. Defaults to `1`.

    Raises:
        ValueError: If `every_steps` is not an integer of 1 or more.
    """

    chief_only = True

    def __init__(
        self, directory: str | os.PathLike, every_steps: int = 1
    ) -> None:
        super().__init__()
        self.directory = Path(directory)
        self.every_steps = checks.integer("every_steps", every_steps, 1)
        self._means = _RecentMeans()
        self._others: dict[str, Any] = {}
        # The step of the last validation.
        self._validated = -1
        self._writer: Any = None

    def on_train_begin(self, logs=None) -> None:
        super().on_train_begin(logs)
        self._close()

    def on_epoch_begin(self, epoch, logs=None) -> None:
        # Not 0 where a resumed run goes on within an epoch.
        self._means.begin(self._trainer.progress.position.batch)

    def on_step_end(self, before, logs) -> None:
        logs = dict(logs or {})
        losses = {name: logs.pop(name) for name in _TRAINING if name in logs}
        self._means.add(self.step - before, losses)
        self._others = logs
        if self.passed(before, self.every_steps):
            self._write_step()

    def on_epoch_end(self, epoch, logs=None) -> None:
        self.flush()

    def on_test_end(self, logs=None) -> None:
        self._write(
            {
                _VALIDATION if name == "loss" else f"validation/{name}": v
                for name, v in (logs or {}).items()
            }
        )
        self._validated = self.step

    def on_train_end(self, logs=None) -> None:
        if self._means.count:
            self._write_step()
        self._close()

    def get_state(self) -> dict[str, Any]:
        """Returns what a checkpoint keeps of it; all is on the disk then."""
        self.flush()
        return {
            "step": self.step,
            "validated": self._validated,
            "means": copy.deepcopy(vars(self._means)),
        }

    def set_state(self, state: dict[str, Any]) -> None:
        """Goes on from a checkpoint; what was logged later is removed."""
        vars(self._means).update(state["means"])
        self._validated = state["validated"]
        cut_events(self.directory, state["step"], self._validated)

    def flush(self) -> None:
        """Writes what is still in memory."""
        with self._warning():
            if self._writer is not None:
                self._writer.flush()

    @contextlib.contextmanager
    def _warning(self) -> Iterator[None]:
        """Context manager that warns, and begins another file, if one fails."""
        with warn_on_disk_error("A point for TensorBoard"):
            try:
                yield
            except Exception:
                self._writer = None
                raise

    def _write_step(self) -> None:
        means = self._means.take()
        found = {_TRAINING[name]: value for name, value in means.items()}
        self._write({**found, **self._others})

    def _write(self, values: dict[str, Any]) -> None:
        if not values:
            return
        with self._warning():
            self._log(values)

    def _log(self, values: dict[str, Any]) -> None:
        from tensorflow import summary

        if self._writer is None:
            directory = os.fspath(self.directory)
            self._writer = summary.create_file_writer(directory)
        with self._writer.as_default(), summary.record_if(True):
            for tag, value in values.items():
                summary.scalar(tag, value, step=self.step)

    def _close(self) -> None:
        with self._warning():
            if self._writer is not None:
                self._writer.close()
        self._writer = None


class _RecentMeans:
    """Means over the last steps, from running means over an epoch.

    Attributes:
        batches: Integer, batches of the epoch so far.
        totals: Dict of sums over them.
        count: Integer, steps since the last `take`.
        sums: Dict of sums over these.
    """

    def __init__(self) -> None:
        self.batches, self.count = 0, 0
        self.totals: dict[str, float] = {}
        self.sums: dict[str, float] = {}

    def begin(self, batches: int) -> None:
        """Begins an epoch, or goes on with one."""
        if batches == 0:
            self.batches, self.totals = 0, {}

    def add(self, steps: int, means: dict[str, Any]) -> None:
        """Takes in the epoch's means after some steps more."""
        self.batches += steps
        self.count += steps
        for name, mean in means.items():
            total = float(mean) * self.batches
            new = total - self.totals.get(name, 0.0)
            self.sums[name] = self.sums.get(name, 0.0) + new
            self.totals[name] = total

    def take(self) -> dict[str, float]:
        """Returns the means since the last call."""
        count, sums = self.count, self.sums
        self.count, self.sums = 0, {}
        return {name: total / count for name, total in sums.items()}


def read_events(path: str | os.PathLike) -> Iterator[Any]:
    """Yields the events of a file, up to where it is cut off.

    Args:
        path: Path of an event file.
    """
    from tensorboard.compat.proto.event_pb2 import Event

    for data in _records(path):
        yield Event.FromString(data)


def _records(path: str | os.PathLike) -> Iterator[bytes]:
    """Yields the whole records of a file: TensorFlow's reader prints lines."""
    data, start = Path(path).read_bytes(), 0
    while start + 12 <= len(data):
        # Eight bytes of length, four of its checksum, the record, four more.
        end = start + 12 + int.from_bytes(data[start : start + 8], "little")
        if end + 4 > len(data):
            # It is being written, or the process was killed.
            return
        yield data[start + 12 : end]
        start = end + 4


def event_files(directory: str | os.PathLike) -> list[Path]:
    """Returns the event files in a directory, the oldest first."""
    return sorted(Path(directory).glob("events.out.tfevents.*"))


def cut_events(
    directory: str | os.PathLike, step: int, validated: int | None = None
) -> None:
    """Removes what was logged after a step from the event files.

    Args:
        directory: Directory of event files; it need not exist.
        step: Integer, the last step that stays.
        validated: Integer, the step of the last validation that stays, which
            may still be to come at `step`. Defaults to `step`.
    """
    last = step if validated is None else validated

    def stays(event: Any) -> bool:
        of_validation = any(
            value.tag == _VALIDATION or value.tag.startswith("validation/")
            for value in event.summary.value
        )
        return event.step <= (last if of_validation else step)

    for path in event_files(directory):
        _filter_events(path, stays)


def _filter_events(path: Path, stays: Callable[[Any], bool]) -> None:
    import tensorflow as tf
    from tensorboard.compat.proto.event_pb2 import Event

    size, kept, removed = 0, [], False
    for data in _records(path):
        # With eight bytes of length and two checksums of four.
        size += len(data) + 16
        if stays(Event.FromString(data)):
            kept.append(data)
        else:
            removed = True
    # Half a record stands at its end.
    removed = removed or size != path.stat().st_size
    if removed:
        with (
            atomic_path(path) as staged,
            tf.io.TFRecordWriter(os.fspath(staged)) as writer,
        ):
            for data in kept:
                writer.write(data)
