"""The directory of a run: what is in it, who writes it, what may be replaced.

A run is a training from its first check to its last export. Must not know
flags, nor how anything is trained.
"""

from keras_sdft.runs.directory import RunDirectory
from keras_sdft.runs.directory import check_separate
from keras_sdft.runs.record import RunRecord
from keras_sdft.runs.record import read_record

__all__ = ["RunDirectory", "RunRecord", "check_separate", "read_record"]
