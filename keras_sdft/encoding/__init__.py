"""Encoding: images -> moments, captions -> context, in the step or once."""

from keras_sdft.encoding.batch import build_encoders
from keras_sdft.encoding.batch import encode_captions
from keras_sdft.encoding.batch import encode_images
from keras_sdft.encoding.batch import latent_shape
from keras_sdft.encoding.batch import sample_latents
from keras_sdft.encoding.cache import Cache
from keras_sdft.encoding.cache import CacheNeeds
from keras_sdft.encoding.folder import StoredCache
from keras_sdft.encoding.folder import find_caches
from keras_sdft.encoding.folder import prune

__all__ = [
    "Cache",
    "CacheNeeds",
    "StoredCache",
    "build_encoders",
    "encode_captions",
    "encode_images",
    "find_caches",
    "latent_shape",
    "prune",
    "sample_latents",
]
