"""The directory of a run, who writes it, and what a run needs beside it.

A run is a training from its first check to its last export. Must not know
flags, nor how anything is trained.
"""

from keras_sdft.runs.cache_folder import CACHE_FOLDER
from keras_sdft.runs.cache_folder import cache_folders
from keras_sdft.runs.cache_folder import find_caches
from keras_sdft.runs.cache_folder import prune_caches
from keras_sdft.runs.caching import CacheOptions
from keras_sdft.runs.caching import RunCaches
from keras_sdft.runs.cards import model_card
from keras_sdft.runs.class_images import ClassImageOptions
from keras_sdft.runs.class_images import generate_class_images
from keras_sdft.runs.directory import RunDirectory
from keras_sdft.runs.directory import check_separate
from keras_sdft.runs.fitting import RunData
from keras_sdft.runs.fitting import fit
from keras_sdft.runs.fitting import make_callbacks
from keras_sdft.runs.memory import check_memory
from keras_sdft.runs.options import PreviewOptions
from keras_sdft.runs.options import RunOptions
from keras_sdft.runs.options import ValidationOptions
from keras_sdft.runs.record import RunRecord
from keras_sdft.runs.record import config_of
from keras_sdft.runs.record import read_record
from keras_sdft.runs.report import changed_settings
from keras_sdft.runs.report import data_facts
from keras_sdft.runs.report import note_facts
from keras_sdft.runs.report import report_callback
from keras_sdft.runs.report import write_comparison
from keras_sdft.runs.report import write_report
from keras_sdft.runs.resume import check_data
from keras_sdft.runs.resume import command_to_resume
from keras_sdft.runs.resume import data_state
from keras_sdft.runs.resume import describe
from keras_sdft.runs.resume import find_checkpoint
from keras_sdft.runs.sharing import push
from keras_sdft.runs.sharing import shared_files
from keras_sdft.runs.space import check_space
from keras_sdft.runs.words import unknown_words

__all__ = [
    "CACHE_FOLDER",
    "CacheOptions",
    "ClassImageOptions",
    "PreviewOptions",
    "RunCaches",
    "RunData",
    "RunDirectory",
    "RunOptions",
    "RunRecord",
    "ValidationOptions",
    "cache_folders",
    "changed_settings",
    "check_data",
    "check_memory",
    "check_separate",
    "check_space",
    "command_to_resume",
    "config_of",
    "data_facts",
    "data_state",
    "describe",
    "find_caches",
    "find_checkpoint",
    "fit",
    "generate_class_images",
    "make_callbacks",
    "model_card",
    "note_facts",
    "prune_caches",
    "push",
    "read_record",
    "report_callback",
    "shared_files",
    "unknown_words",
    "write_comparison",
    "write_report",
]
