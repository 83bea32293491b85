"""The history of a run as a CSV file, one row per epoch.

Knows columns and rows; not where the numbers come from.
"""

import csv
import os
from collections.abc import Sequence
from typing import Any

from keras_sdft.callbacks.steps import StepCallback
from keras_sdft.callbacks.steps import warn_on_disk_error
from keras_sdft.files import atomic_file

_FIRST = ("epoch", "step", "loss")


class HistoryFile(StepCallback):
    """Writes the logs of every epoch into a CSV file.

    The columns are `epoch` (from 1), `step` (optimizer steps so far),
    `loss`, then the others in alphabetical order. A value that is not
    logged in every epoch, as the validation loss, leaves its field empty
    where it is missing. The file is whole at any moment.

    Args:
        path: Path of the CSV file. An existing file is replaced at the end
            of the first epoch.

    Attributes:
        rows: List of dicts of numbers, one for each epoch.
    """

    chief_only = True

    def __init__(self, path: str | os.PathLike) -> None:
        super().__init__()
        self.path = os.fspath(path)
        self.rows: list[dict[str, Any]] = []
        self._restored = False

    def on_train_begin(self, logs=None) -> None:
        super().on_train_begin(logs)
        if not self._restored:
            self.rows = []
        self._restored = False

    def on_epoch_end(self, epoch, logs=None) -> None:
        values = {name: float(value) for name, value in (logs or {}).items()}
        self.rows.append({"epoch": epoch + 1, "step": self.step, **values})
        self._write()

    def get_state(self) -> dict[str, Any]:
        """Returns what a checkpoint keeps of it."""
        return {"rows": list(self.rows)}

    def set_state(self, state: dict[str, Any]) -> None:
        """Goes on from the rows of a checkpoint; later ones are removed."""
        self.rows, self._restored = list(state["rows"]), True
        if self.rows:
            self._write()

    def summary(self, names: Sequence[str]) -> str:
        """Returns the first and the last value of each name, with epochs.

        Args:
            names: Strings; those that were never logged are left out.
        """
        parts = []
        for name in names:
            rows = [row for row in self.rows if name in row]
            if not rows:
                continue
            text = f"{name} {rows[0][name]:.4f} in epoch {rows[0]['epoch']}"
            if len(rows) > 1:
                last = rows[-1]
                text += f", {last[name]:.4f} in epoch {last['epoch']}"
            parts.append(text)
        return "; ".join(parts)

    def _write(self) -> None:
        names = {name for row in self.rows for name in row}
        columns = [name for name in _FIRST if name in names]
        columns += sorted(names - set(columns))
        with (
            warn_on_disk_error("The history"),
            atomic_file(self.path, "w", encoding="utf-8", newline="") as file,
        ):
            writer = csv.DictWriter(file, columns, lineterminator="\n")
            writer.writeheader()
            writer.writerows(self.rows)
