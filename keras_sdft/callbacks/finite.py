"""Stops a training whose loss is no number any more."""

import math

import keras
from keras import ops


class StopOnNaN(keras.callbacks.Callback):
    """Raises an error as soon as the loss is NaN or infinite.

    `keras.callbacks.TerminateOnNaN` names the batch; this names what to do.
    Put it first in the list, so that no other callback uses broken weights.
    """

    def on_train_batch_end(self, batch, logs=None) -> None:
        loss = (logs or {}).get("loss")
        if loss is None or math.isfinite(float(loss)):
            return
        rate = float(ops.convert_to_numpy(self.model.optimizer.learning_rate))
        raise ValueError(
            "The loss became NaN or infinite, so training stopped and no "
            "weights were written at its end. Try a lower `learning_rate` "
            f"(it was {rate:.7g}), or float32 if `mixed_precision` is set."
        )
