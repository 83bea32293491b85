"""TensorFlow's fast kernels for CPUs, which it leaves off on many of them.

Must not know the packages, and import TensorFlow only if somebody did already.
"""

import os
import sys
import warnings

VARIABLE = "TF_ENABLE_ONEDNN_OPTS"


def switch_on() -> None:
    """Switches oneDNN on, unless the user has set the variable.

    TensorFlow reads the variable once, when it is imported; if that has
    happened and left oneDNN off on a machine without a GPU, a warning says
    so.
    """
    if VARIABLE in os.environ:
        return
    os.environ[VARIABLE] = "1"
    tensorflow = sys.modules.get("tensorflow")
    # While it is being imported it has no `config` yet, and no use for one.
    if tensorflow is None or not hasattr(tensorflow, "config"):
        return
    if is_on() or tensorflow.config.list_physical_devices("GPU"):
        return
    warnings.warn(
        "TensorFlow was imported before keras_sdft (`import keras` does so "
        "too), with oneDNN's kernels off: a training step on this CPU will "
        "take about one and a half times as long. Import keras_sdft before "
        f"keras and tensorflow, or set {VARIABLE}=1 in the environment "
        "(or 0, to keep them off without this warning).",
        stacklevel=3,
    )


def is_on() -> bool:
    """Returns whether TensorFlow, which was imported, uses oneDNN."""
    # Light as it is, it is not needed at all before TensorFlow is there.
    from keras_sdft import keras_internals

    return keras_internals.onednn_is_on()
