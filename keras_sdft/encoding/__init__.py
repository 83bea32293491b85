"""Encoding: images -> moments, captions -> context, in the step or once."""

from keras_sdft.encoding.cache import Cache
from keras_sdft.encoding.encoders import build_encoders
from keras_sdft.encoding.encoders import encode_captions
from keras_sdft.encoding.encoders import encode_images
from keras_sdft.encoding.encoders import latent_shape
from keras_sdft.encoding.encoders import sample_latents

__all__ = [
    "Cache",
    "build_encoders",
    "encode_captions",
    "encode_images",
    "latent_shape",
    "sample_latents",
]
