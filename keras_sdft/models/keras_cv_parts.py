"""The only file that imports KerasCV's private blocks.

keras-cv 0.9.0 is the last release and is pinned; what we need of its insides
is imported here and nowhere else. SD 1.x and 2.x get KerasCV's own encoder
and decoder classes; narrower models are those of `small_encoders`.
"""

from typing import Any

from keras_cv.models import StableDiffusion as KerasCVStableDiffusion
from keras_cv.models.stable_diffusion import Decoder
from keras_cv.models.stable_diffusion import (
    DiffusionModel as KerasCVDiffusionModel,
)
from keras_cv.models.stable_diffusion import ImageEncoder
from keras_cv.models.stable_diffusion import TextEncoder
from keras_cv.models.stable_diffusion import TextEncoderV2
from keras_cv.src.models.stable_diffusion.constants import _ALPHAS_CUMPROD
from keras_cv.src.models.stable_diffusion.stable_diffusion import (
    StableDiffusionBase,
)

from keras_sdft.models import small_encoders
from keras_sdft.models.dtypes import dtype_policy_scope
from keras_sdft.models.small_encoders import moments_model
from keras_sdft.models.spec import AutoencoderSpec
from keras_sdft.models.spec import TextEncoderSpec

__all__ = [
    "KerasCVDiffusionModel",
    "KerasCVStableDiffusion",
    "StableDiffusionBase",
    "build_decoder",
    "build_image_encoder",
    "build_text_encoder",
    "moments_model",
    "sampler_alphas_cumprod",
]

_SD1_TEXT = TextEncoderSpec()
_SD2_TEXT = TextEncoderSpec(
    width=1024, depth=23, num_heads=16, activation="gelu"
)
_FULL_AUTOENCODER = AutoencoderSpec()


def sampler_alphas_cumprod() -> list[float]:
    """Returns the table that KerasCV samples with, to check ours against."""
    return list(_ALPHAS_CUMPROD)


def build_text_encoder(spec: TextEncoderSpec, dtype: Any = None) -> Any:
    """Builds what `small_encoders.build_text_encoder` does.

    Of SD 1.x and 2.x it is KerasCV's class, whose positions are `(1, 77)`.
    """
    with dtype_policy_scope(dtype):
        if spec == _SD1_TEXT:
            return TextEncoder(spec.max_length, download_weights=False)
        if spec == _SD2_TEXT:
            return TextEncoderV2(spec.max_length, download_weights=False)
        return small_encoders.build_text_encoder(spec)


def build_image_encoder(spec: AutoencoderSpec, dtype: Any = None) -> Any:
    """Builds what `small_encoders.build_image_encoder` does.

    Of SD 1.x and 2.x it is KerasCV's class.
    """
    with dtype_policy_scope(dtype):
        if spec == _FULL_AUTOENCODER:
            return ImageEncoder(download_weights=False)
        return small_encoders.build_image_encoder(spec)


def build_decoder(
    spec: AutoencoderSpec, height: int, width: int, dtype: Any = None
) -> Any:
    """Builds what `small_encoders.build_decoder` does.

    Of SD 1.x and 2.x it is KerasCV's class.
    """
    with dtype_policy_scope(dtype):
        if spec == _FULL_AUTOENCODER:
            return Decoder(height, width, download_weights=False)
        return small_encoders.build_decoder(spec, height, width)
