"""The networks, and the KerasCV object that holds them.

This package knows weights and shapes. It must not know losses, optimizers,
datasets or other tools' file formats.
"""

import importlib as _importlib
from typing import TYPE_CHECKING as _TYPE_CHECKING
from typing import Any as _Any

from keras_sdft.models.model_card import ModelCard
from keras_sdft.models.options import ModelOptions
from keras_sdft.models.options import PredictionOptions
from keras_sdft.models.presets import PRESETS
from keras_sdft.models.rare_tokens import check_token
from keras_sdft.models.rare_tokens import rare_tokens
from keras_sdft.models.sources import describe
from keras_sdft.models.sources import resolve
from keras_sdft.models.spec import AutoencoderSpec
from keras_sdft.models.spec import DiffusionModelSpec
from keras_sdft.models.spec import StableDiffusionSpec
from keras_sdft.models.spec import TextEncoderSpec

if _TYPE_CHECKING:
    from keras_sdft.models.generation import NonFiniteImage
    from keras_sdft.models.stable_diffusion import StableDiffusion
    from keras_sdft.models.tokenizer import Tokenizer
    from keras_sdft.models.unet.model import DiffusionModel

__all__ = [
    "PRESETS",
    "AutoencoderSpec",
    "DiffusionModel",
    "DiffusionModelSpec",
    "ModelOptions",
    "ModelCard",
    "NonFiniteImage",
    "PredictionOptions",
    "StableDiffusion",
    "StableDiffusionSpec",
    "TextEncoderSpec",
    "Tokenizer",
    "check_token",
    "describe",
    "rare_tokens",
    "resolve",
]

# The networks import Keras, and keras_cv TensorFlow: whoever only looks at a
# file waits for neither.
_HOMES = {
    "DiffusionModel": "unet.model",
    "NonFiniteImage": "generation",
    "StableDiffusion": "stable_diffusion",
    "Tokenizer": "tokenizer",
}


def __getattr__(name: str) -> _Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    home = f"{__name__}.{_HOMES[name]}"
    return getattr(_importlib.import_module(home), name)
