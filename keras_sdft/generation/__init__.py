"""Images from prompts, as files: what to generate, in which batches, where to.

Must not know flags, nor how an image is generated.
"""

from keras_sdft.generation.images import generate
from keras_sdft.generation.options import GenerateOptions

__all__ = ["GenerateOptions", "generate"]
