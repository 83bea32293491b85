"""Batch -> loss -> gradients -> weights.

This room orders the others' work. It must not know files of images or the
file formats of other tools.
"""

from keras_sdft.training.optimizers import AdamW
from keras_sdft.training.trainer import Trainer
from keras_sdft.training.weight_average import WeightAverage

__all__ = ["AdamW", "Trainer", "WeightAverage"]
