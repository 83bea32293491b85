"""The networks, and the KerasCV object that holds them.

This room knows weights and shapes. It must not know losses, optimizers,
datasets or other tools' file formats.
"""

from keras_sdft.models.diffusion_model import DiffusionModel
from keras_sdft.models.exported import describe
from keras_sdft.models.exported import resolve
from keras_sdft.models.presets import PRESETS
from keras_sdft.models.spec import AutoencoderSpec
from keras_sdft.models.spec import DiffusionModelSpec
from keras_sdft.models.spec import StableDiffusionSpec
from keras_sdft.models.spec import TextEncoderSpec
from keras_sdft.models.stable_diffusion import StableDiffusion
from keras_sdft.models.tokenizer import Tokenizer

__all__ = [
    "PRESETS",
    "AutoencoderSpec",
    "DiffusionModel",
    "DiffusionModelSpec",
    "StableDiffusion",
    "StableDiffusionSpec",
    "TextEncoderSpec",
    "Tokenizer",
    "describe",
    "resolve",
]
