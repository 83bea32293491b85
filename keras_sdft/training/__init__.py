"""Batch -> loss -> gradients -> weights.

This room orders the others' work. It must not know files of images or the
file formats of other tools.
"""

import importlib as _importlib
from typing import TYPE_CHECKING as _TYPE_CHECKING
from typing import Any as _Any

from keras_sdft.training.weight_average import WeightAverage

if _TYPE_CHECKING:
    from keras_sdft.training import optimizers
    from keras_sdft.training import schedules
    from keras_sdft.training.memory import MemoryEstimate
    from keras_sdft.training.optimizers import AdamW
    from keras_sdft.training.schedule_free import ScheduleFreeAdamW
    from keras_sdft.training.trainer import Trainer

__all__ = [
    "AdamW",
    "MemoryEstimate",
    "ScheduleFreeAdamW",
    "Trainer",
    "WeightAverage",
    "optimizers",
    "schedules",
]

# These import TensorFlow; the objective alone runs on any Keras backend.
_NEED_TENSORFLOW = {
    "AdamW": "optimizers",
    "MemoryEstimate": "memory",
    "ScheduleFreeAdamW": "schedule_free",
    "Trainer": "trainer",
}


def __getattr__(name: str) -> _Any:
    if name in ("optimizers", "schedules"):
        return _importlib.import_module(f"{__name__}.{name}")
    if name not in _NEED_TENSORFLOW:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    home = f"{__name__}.{_NEED_TENSORFLOW[name]}"
    return getattr(_importlib.import_module(home), name)
