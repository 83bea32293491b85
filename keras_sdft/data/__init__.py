"""Data: files -> batches. Knows strings and pixels, no model, no network."""

from keras_sdft.data.examples import Example
from keras_sdft.data.examples import Examples
from keras_sdft.data.pipeline import load
from keras_sdft.data.sources import read_examples
from keras_sdft.data.unreadable import Unreadable

__all__ = ["Example", "Examples", "Unreadable", "load", "read_examples"]
