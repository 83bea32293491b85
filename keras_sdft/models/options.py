"""Which model to load, as the command's flags have it.

Must import neither Keras nor TensorFlow: the help of the command reads it.
"""

import dataclasses
from typing import Any
from typing import Literal

from keras_sdft import checks
from keras_sdft import hub

# The field's words on the left, Keras' dtype policies on the right.
_POLICIES = {"no": None, "bf16": "mixed_bfloat16", "fp16": "mixed_float16"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """The model: which one, and with which numbers it computes.

    Args:
        model: A preset, a run, an exported directory, a weight file, a
            model of diffusers' or of the original layout, or
            hf://owner/name[@revision] on the Hub.
        vae: Another autoencoder, a folder or file of one alone or of a
            whole model, or hf://owner/name.
        clip_skip: Which of the text encoder's layers gives the context,
            counted from the last. Defaults to what the model declares,
            usually 1.
        mixed_precision: Numbers to compute with; weights stay float32.
        weights_directory: Directory with local copies of a preset's
            published files.
    """

    model: str = dataclasses.field(metadata=hub.pinning("model"))
    vae: str | None = dataclasses.field(
        default=None, metadata=hub.pinning("vae")
    )
    clip_skip: int | None = None
    mixed_precision: Literal["no", "bf16", "fp16"] = "no"
    weights_directory: str | None = None

    def __post_init__(self) -> None:
        if self.clip_skip is not None:
            checks.integer("clip_skip", self.clip_skip, 1)

    def load(self, **given: Any) -> Any:
        """Loads the `StableDiffusion`.

        Args:
            **given: Further arguments of `StableDiffusion.from_preset`.
        """
        from keras_sdft.models.stable_diffusion import StableDiffusion

        return StableDiffusion.from_preset(
            self.model,
            dtype=_POLICIES[self.mixed_precision],
            weights_directory=self.weights_directory,
            vae=self.vae,
            clip_skip=self.clip_skip,
            **given,
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class PredictionOptions:
    """What the model predicts.

    Args:
        prediction_type: What the model predicts, for files that do not say.
    """

    prediction_type: Literal["epsilon", "v_prediction"] | None = None
