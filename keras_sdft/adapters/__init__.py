"""Adapters: what is learned beside frozen networks.

Knows networks' layers; not losses, optimizers or files.
"""

from keras_sdft.adapters.lora import AttachedLoRA
from keras_sdft.adapters.lora import LoRA
from keras_sdft.adapters.lora import attach_weights
from keras_sdft.adapters.targets import TARGETS
from keras_sdft.formats.lora_files import LowRankWeights

__all__ = [
    "TARGETS",
    "AttachedLoRA",
    "LoRA",
    "LowRankWeights",
    "attach_weights",
]
