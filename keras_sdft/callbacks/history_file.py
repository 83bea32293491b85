"""The history of a run as a CSV file, one row per epoch.

Knows columns and rows; not where the numbers come from.
"""

from __future__ import annotations

import os

import keras

from keras_sdft.callbacks.steps import StepCallback


class HistoryFile(StepCallback, keras.callbacks.CSVLogger):
    """`keras.callbacks.CSVLogger` with only the columns that have values.

    Keras adds an empty `val_` twin for every column when the first epoch had
    no validation, and no count of steps. Here the columns are `epoch`
    (from 1), `step` (optimizer steps so far), `loss`, then the rest as it
    was logged in the first epoch, in alphabetical order.

    Args:
        path: Path of the CSV file. An existing file is replaced.
    """

    def __init__(self, path: str | os.PathLike) -> None:
        keras.callbacks.CSVLogger.__init__(self, os.fspath(path))

    def on_epoch_end(self, epoch, logs=None) -> None:
        logs = dict(logs or {})
        logs["step"] = self.step
        if self.keys is None:
            first = [k for k in ("step", "loss") if k in logs]
            self.keys = first + sorted(set(logs) - set(first))
        super().on_epoch_end(epoch + 1, logs)
