"""Encoding: images -> moments, captions -> context, in the step or once."""

from keras_sdft.encoding.batch import build_encoders
from keras_sdft.encoding.batch import encode_captions
from keras_sdft.encoding.batch import encode_images
from keras_sdft.encoding.batch import latent_shape
from keras_sdft.encoding.batch import sample_latents
from keras_sdft.encoding.cache import Cache

__all__ = [
    "Cache",
    "build_encoders",
    "encode_captions",
    "encode_images",
    "latent_shape",
    "sample_latents",
]
