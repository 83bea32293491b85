"""Adapters: what is learned beside frozen networks, and how it is saved.

Knows networks' layers and files; not losses, optimizers or data.
"""

import importlib as _importlib
from typing import TYPE_CHECKING as _TYPE_CHECKING
from typing import Any as _Any

from keras_sdft.adapters.options import CAPTION_TEMPLATES
from keras_sdft.adapters.options import AdapterFileOptions
from keras_sdft.adapters.options import LoRAOptions
from keras_sdft.adapters.options import TextualInversionOptions
from keras_sdft.adapters.part import Group
from keras_sdft.adapters.part import Part

if _TYPE_CHECKING:
    from keras_sdft.adapters.loaded import LoadedAdapters
    from keras_sdft.adapters.lora import AttachedLoRA
    from keras_sdft.adapters.lora import LoRA
    from keras_sdft.adapters.lora import attach_weights
    from keras_sdft.adapters.textual_inversion import TextualInversion

__all__ = [
    "CAPTION_TEMPLATES",
    "AdapterFileOptions",
    "AttachedLoRA",
    "Group",
    "LoRA",
    "LoRAOptions",
    "LoadedAdapters",
    "Part",
    "TextualInversion",
    "TextualInversionOptions",
    "attach_weights",
]

# Imported when first asked for: the options need no Keras.
_HOMES = {
    "AttachedLoRA": "lora",
    "LoRA": "lora",
    "LoadedAdapters": "loaded",
    "TextualInversion": "textual_inversion",
    "attach_weights": "lora",
}


def __getattr__(name: str) -> _Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    home = _importlib.import_module(f"{__name__}.{_HOMES[name]}")
    return getattr(home, name)
