"""AdamW in JAX, whose compiler fuses the plain update."""

import keras

from keras_sdft.training.adamw import BaseAdamW


@keras.saving.register_keras_serializable(package="keras_sdft")
class AdamW(BaseAdamW):
    __doc__ = BaseAdamW.__doc__
