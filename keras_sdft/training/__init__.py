"""Batch -> loss -> gradients -> weights.

Orders the work of the other packages. Must not know files of images or the
file formats of other tools.
"""

import importlib as _importlib
from typing import TYPE_CHECKING as _TYPE_CHECKING
from typing import Any as _Any

if _TYPE_CHECKING:
    from keras_sdft.training import optimizers
    from keras_sdft.training import schedules
    from keras_sdft.training.checkpoint import Interrupted
    from keras_sdft.training.checkpoint import Position
    from keras_sdft.training.checkpoint_options import CheckpointOptions
    from keras_sdft.training.memory import MemoryEstimate
    from keras_sdft.training.noise import Noise
    from keras_sdft.training.objective import Objective
    from keras_sdft.training.optimizers import OptimizerOptions
    from keras_sdft.training.parts import PART_OPTIONS
    from keras_sdft.training.parts import DiffusionModel
    from keras_sdft.training.parts import Group
    from keras_sdft.training.parts import Part
    from keras_sdft.training.parts import TextEncoder
    from keras_sdft.training.parts import TextEncoderOptions
    from keras_sdft.training.parts import check_base
    from keras_sdft.training.schedule_free import ScheduleFreeAdamW
    from keras_sdft.training.tensorflow.adamw import AdamW
    from keras_sdft.training.trainer import Trainer
    from keras_sdft.training.weight_average import WeightAverage

# Names are imported when first asked for: the options need neither Keras
# nor TensorFlow, which take seconds to import.
_HOMES = {
    "AdamW": "backend",
    "CheckpointOptions": "checkpoint_options",
    "DiffusionModel": "parts",
    "Group": "parts",
    "Interrupted": "checkpoint",
    "MemoryEstimate": "memory",
    "Noise": "noise",
    "Objective": "objective",
    "OptimizerOptions": "optimizers",
    "PART_OPTIONS": "parts",
    "Part": "parts",
    "Position": "checkpoint",
    "ScheduleFreeAdamW": "schedule_free",
    "TextEncoder": "parts",
    "TextEncoderOptions": "parts",
    "Trainer": "trainer",
    "WeightAverage": "weight_average",
    "check_base": "parts",
}
__all__ = [
    "PART_OPTIONS",
    "AdamW",
    "CheckpointOptions",
    "DiffusionModel",
    "Group",
    "Interrupted",
    "MemoryEstimate",
    "Noise",
    "Objective",
    "OptimizerOptions",
    "Part",
    "Position",
    "ScheduleFreeAdamW",
    "TextEncoder",
    "TextEncoderOptions",
    "Trainer",
    "WeightAverage",
    "check_base",
    "optimizers",
    "schedules",
]


def __getattr__(name: str) -> _Any:
    if name in ("optimizers", "schedules"):
        return _importlib.import_module(f"{__name__}.{name}")
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if name == "AdamW":
        backend = _importlib.import_module(f"{__name__}.backend")
        return backend.module("adamw").AdamW
    home = _importlib.import_module(f"{__name__}.{_HOMES[name]}")
    return getattr(home, name)
