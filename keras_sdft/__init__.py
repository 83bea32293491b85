"""Fine-tune Stable Diffusion in Keras and TensorFlow.

`Trainer` is where to begin; `StableDiffusion.from_preset` gives it a model
and `keras_sdft.data.load` its images and captions.
"""

import importlib as _importlib
from typing import TYPE_CHECKING as _TYPE_CHECKING
from typing import Any as _Any

from keras_sdft import collector as _collector
from keras_sdft import onednn as _onednn
from keras_sdft.version import __version__

if _TYPE_CHECKING:
    from keras_sdft import adapters
    from keras_sdft import callbacks
    from keras_sdft import data
    from keras_sdft import devices
    from keras_sdft import diffusion
    from keras_sdft import distribution
    from keras_sdft import encoding
    from keras_sdft import formats
    from keras_sdft import generation
    from keras_sdft import models
    from keras_sdft import runs
    from keras_sdft import training
    from keras_sdft.models import StableDiffusion
    from keras_sdft.training import Trainer

_onednn.switch_on()

__all__ = [
    "StableDiffusion",
    "Trainer",
    "__version__",
    "adapters",
    "callbacks",
    "data",
    "devices",
    "diffusion",
    "distribution",
    "encoding",
    "formats",
    "generation",
    "models",
    "runs",
    "training",
]

_HOMES = {"StableDiffusion": "models", "Trainer": "training"}


def __getattr__(name: str) -> _Any:
    # Names are imported when first asked for: TensorFlow takes seconds to
    # import, and `keras-sdft --help` does not need it.
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    with _collector.paused():
        if name in _HOMES:
            home = _importlib.import_module(f"{__name__}.{_HOMES[name]}")
            return getattr(home, name)
        return _importlib.import_module(f"{__name__}.{name}")


def __dir__() -> list[str]:
    return sorted(__all__)
