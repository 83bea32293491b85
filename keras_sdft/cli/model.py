"""The model that a command line names, and the values of its flags.

Imports TensorFlow when a model is asked for, not before.
"""

from __future__ import annotations

from typing import Any
from typing import Literal

PredictionType = Literal["epsilon", "v_prediction"]
MixedPrecision = Literal["no", "bf16", "fp16"]

# The field's words on the left, Keras' dtype policies on the right.
_POLICIES = {"no": None, "bf16": "mixed_bfloat16", "fp16": "mixed_float16"}


def load_model(
    name_or_path: str,
    height: int | None = None,
    width: int | None = None,
    mixed_precision: str = "no",
    weights_directory: str | None = None,
    prediction_type: PredictionType | None = None,
    remat: bool = False,
    clip_skip: int | None = None,
) -> Any:
    """Loads a `keras_sdft.StableDiffusion` for a command.

    Args:
        name_or_path: A preset, a run, an exported directory or a weight
            file.
        height: Int, pixels, or `None` for the model's own.
        width: Int, pixels, or `None` for the model's own.
        mixed_precision: `"no"`, `"bf16"` or `"fp16"`.
        weights_directory: Directory with local copies of a preset's
            published files, or `None`.
        prediction_type: What the model predicts, for files that do not
            say; may not contradict those that do.
        remat: Whether training computes activations again to save memory.
        clip_skip: Which of the text encoder's layers, counted from the
            last, gives the context, or `None` for the model's own.

    Returns:
        A `keras_sdft.StableDiffusion`.

    Raises:
        ValueError: If the name, path or size is not understood.
        FileNotFoundError: If published weights cannot be had.
    """
    import keras_sdft

    return keras_sdft.StableDiffusion.from_preset(
        name_or_path,
        height=height,
        width=width,
        dtype=_POLICIES[mixed_precision],
        remat=remat,
        weights_directory=weights_directory,
        prediction_type=prediction_type,
        clip_skip=clip_skip,
    )
