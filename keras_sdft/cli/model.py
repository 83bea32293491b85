"""The model that a command line names, with the flags that choose it."""

from __future__ import annotations

import dataclasses
from typing import Any
from typing import Literal

import keras_sdft
from keras_sdft import checks

PredictionType = Literal["epsilon", "v_prediction"]

# The field's words on the left, Keras' dtype policies on the right.
_POLICIES = {"no": None, "bf16": "mixed_bfloat16", "fp16": "mixed_float16"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """The model: which one, and with which numbers it computes.

    Args:
        model: A preset, a run, an exported directory, a weight file, or a
            model of diffusers' or of the original layout.
        vae: Another autoencoder, a folder or file of one alone or of a
            whole model.
        clip_skip: Which of the text encoder's layers gives the context,
            counted from the last. Defaults to what the model declares,
            usually 1.
        mixed_precision: Numbers to compute with; weights stay float32.
        weights_directory: Directory with local copies of a preset's
            published files.
    """

    model: str
    vae: str | None = None
    clip_skip: int | None = None
    mixed_precision: Literal["no", "bf16", "fp16"] = "no"
    weights_directory: str | None = None

    def __post_init__(self) -> None:
        if self.clip_skip is not None:
            checks.integer("clip_skip", self.clip_skip, 1)

    def load(
        self,
        height: int | None = None,
        width: int | None = None,
        prediction_type: PredictionType | None = None,
        remat: bool = False,
    ) -> Any:
        """Loads the `keras_sdft.StableDiffusion`.

        Args:
            height: Integer, pixels, or `None` for the model's own.
            width: Likewise.
            prediction_type: What the model predicts, for files that do not
                say; may not contradict those that do.
            remat: Whether training computes activations again to save
                memory.
        """
        return keras_sdft.StableDiffusion.from_preset(
            self.model,
            height=height,
            width=width,
            dtype=_POLICIES[self.mixed_precision],
            remat=remat,
            weights_directory=self.weights_directory,
            prediction_type=prediction_type,
            vae=self.vae,
            clip_skip=self.clip_skip,
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class PredictionOptions:
    """What the model predicts.

    Args:
        prediction_type: What the model predicts, for files that do not say.
    """

    prediction_type: PredictionType | None = None
