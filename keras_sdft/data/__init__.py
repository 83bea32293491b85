"""Data: files -> batches. Knows strings and pixels, no model, no network."""

from keras_sdft.data.dreambooth import load_dreambooth
from keras_sdft.data.examples import Example
from keras_sdft.data.examples import Examples
from keras_sdft.data.options import BatchOptions
from keras_sdft.data.options import DreamboothLoadOptions
from keras_sdft.data.options import EpochOptions
from keras_sdft.data.options import ImageOptions
from keras_sdft.data.options import LoadOptions
from keras_sdft.data.options import SourceOptions
from keras_sdft.data.options import SubjectOptions
from keras_sdft.data.options import TagOptions
from keras_sdft.data.pipeline import load
from keras_sdft.data.prompts import check_dreambooth_prompts
from keras_sdft.data.prompts import fill_prompt
from keras_sdft.data.report import Report
from keras_sdft.data.shutdown import cause_of
from keras_sdft.data.sources.dreambooth import check_dreambooth_folders
from keras_sdft.data.sources.reading import read_examples
from keras_sdft.data.sources.reading import validation_split

__all__ = [
    "BatchOptions",
    "DreamboothLoadOptions",
    "EpochOptions",
    "Example",
    "Examples",
    "ImageOptions",
    "LoadOptions",
    "Report",
    "SourceOptions",
    "SubjectOptions",
    "TagOptions",
    "cause_of",
    "check_dreambooth_folders",
    "check_dreambooth_prompts",
    "fill_prompt",
    "load",
    "load_dreambooth",
    "read_examples",
    "validation_split",
]
