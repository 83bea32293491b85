"""The report of a run while it goes on."""

import os
import time
from pathlib import Path
from typing import Any

from keras_sdft.callbacks.steps import StepCallback
from keras_sdft.runs.report.facts import machine_facts
from keras_sdft.runs.report.facts import note_facts
from keras_sdft.runs.report.facts import peak_memory
from keras_sdft.runs.report.facts import read_facts
from keras_sdft.runs.report.page import warn_on_error
from keras_sdft.runs.report.page import write_report

_SECONDS = 60.0
# Of the time of training, what pages may take.
_SHARE = 0.02


class ReportPage(StepCallback):
    """Writes `index.html` of a run again once a minute.

    Less often where a page takes long to write: at most 2% of the time. The
    last page is written by `RunDirectory`, when the run has ended. A page
    that cannot be written is told in a warning, and training goes on.

    Put it behind `TensorBoard` and `Previews`, whose files it reads.

    Args:
        directory: Path of the run's directory.
    """

    chief_only = True

    def __init__(self, directory: str | os.PathLike) -> None:
        super().__init__()
        self.directory = Path(directory)
        self._began = self._earlier = 0.0
        self._due = 0.0

    def on_train_begin(self, logs=None) -> None:
        super().on_train_begin(logs)
        self._began = time.monotonic()
        self._earlier = read_facts(self.directory).get("seconds", 0.0)
        self._write(machine=machine_facts())

    def on_step_end(self, before, logs) -> None:
        if time.monotonic() >= self._due:
            self._write()

    def on_train_end(self, logs=None) -> None:
        self._write()

    def _write(self, **facts: Any) -> None:
        start = time.monotonic()
        seconds = self._earlier + start - self._began
        with warn_on_error(self.directory):
            note_facts(
                self.directory, seconds=seconds, memory=peak_memory(), **facts
            )
            write_report(self.directory)
        now = time.monotonic()
        self._due = now + max(_SECONDS, (now - start) / _SHARE)
