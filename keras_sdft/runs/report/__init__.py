"""The report of a run: a page that shows how it went.

`facts` notes what no other file of a run has, `scalars` and `images` read
what its callbacks wrote, `page` shows it. Must not know flags.
"""

import os
from typing import Any

from keras_sdft.runs.report.facts import changed_settings
from keras_sdft.runs.report.facts import data_facts
from keras_sdft.runs.report.facts import note_facts
from keras_sdft.runs.report.page import warn_on_error
from keras_sdft.runs.report.page import write_comparison
from keras_sdft.runs.report.page import write_report

__all__ = [
    "changed_settings",
    "data_facts",
    "note_facts",
    "report_callback",
    "warn_on_error",
    "write_comparison",
    "write_report",
]


def report_callback(directory: str | os.PathLike) -> Any:
    """Returns a Keras callback that keeps a run's report up to date.

    Put it behind `TensorBoard` and `Previews`, whose files it reads.

    Args:
        directory: Path of the run's directory.
    """
    # Keras takes seconds to import, and a run's directory needs none.
    from keras_sdft.runs.report.callback import ReportPage

    return ReportPage(directory)
