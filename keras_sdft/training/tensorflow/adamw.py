"""AdamW by fused kernels of TensorFlow: fewer operations, sooner start.

Must not know models or losses.
"""

from typing import Any

import keras
import tensorflow as tf

from keras_sdft.keras_internals import decays
from keras_sdft.keras_internals import moments
from keras_sdft.training.adamw import BaseAdamW
from keras_sdft.training.tensorflow import operations
from keras_sdft.training.tensorflow import shared_update


@keras.saving.register_keras_serializable(package="keras_sdft")
class AdamW(BaseAdamW):
    __doc__ = BaseAdamW.__doc__

    @property
    def checks_gradients(self) -> bool:
        """Whether an update fails before it writes a weight that is NaN."""
        return bool(self.global_clipnorm)

    def build(self, variables: Any) -> None:
        """Makes the moments."""
        with shared_update.nameless_variables():
            super().build(variables)

    def apply_gradients_at_once(self, gradients: Any, variables: Any) -> bool:
        if not self._updates_by_function():
            return False
        scalars = self._scalars(self.learning_rate)
        scalars.update(clip=self._clip_scale(gradients), lost=self._lost())
        constants = {"beta1": self.beta_1, "beta2": self.beta_2}
        if scalars["clip"] is None:
            constants["clip"] = 1.0
        for name in constants:
            del scalars[name]
        update = shared_update.SharedUpdate(scalars, constants)
        for gradient, variable in zip(gradients, variables, strict=True):
            first, second = moments(self, variable)
            update(
                variable.value,
                first.value,
                second.value,
                tf.convert_to_tensor(gradient),
                bool(self.weight_decay) and decays(self, variable),
            )
        return True

    def _updates_by_function(self) -> bool:
        """Whether nothing stands between the gradients and the update."""
        return not (
            tf.executing_eagerly()
            or (tf.distribute.has_strategy() and not self.has_sums)
            or self.gradient_accumulation_steps
            or self.use_ema
            or self.clipnorm
            or self.clipvalue
        )

    def decay_weights(self, variables: Any) -> bool:
        if tf.distribute.has_strategy():
            return False
        lost = self._lost()
        for variable in variables:
            if decays(self, variable):
                part = variable.value * tf.cast(lost, variable.dtype)
                variable.value.assign_sub(part)
        return True

    def _lost(self) -> Any:
        """Returns the part of a weight that decay takes.

        As it is: 1 less 1e-7 would be 1 less 1.2e-7 in float32.
        """
        return tf.cast(self.learning_rate, tf.float32) * self.weight_decay

    def clip_gradients(self, gradients: Any) -> Any:
        if not self.global_clipnorm:
            return None
        scale = self._clip_scale(gradients)
        return [g * tf.cast(scale, g.dtype) for g in gradients]

    def _clip_scale(self, gradients: Any) -> Any:
        if not self.global_clipnorm:
            return None
        norm = operations.global_norm(gradients)
        return self.global_clipnorm / tf.maximum(norm, self.global_clipnorm)

    def update_variables(
        self, gradients: Any, variables: Any, learning_rate: Any
    ) -> bool:
        if tf.distribute.has_strategy():
            return False
        # Scalars are made once here, not once per variable.
        scalars = self._scalars(learning_rate)
        for gradient, variable in zip(gradients, variables, strict=True):
            self._fused_update(gradient, variable.value, scalars)
        return True

    def update_step(
        self, gradient: Any, variable: Any, learning_rate: Any
    ) -> None:
        """Updates one variable (the path of distribution strategies)."""
        self._fused_update(gradient, variable, self._scalars(learning_rate))

    def _scalars(self, learning_rate: Any) -> dict[str, Any]:
        step = tf.cast(self.iterations + 1, tf.float32)
        beta_2_power = tf.pow(tf.constant(self.beta_2, tf.float32), step)
        return {
            "beta1_power": tf.pow(tf.constant(self.beta_1, tf.float32), step),
            "beta2_power": beta_2_power,
            "lr": tf.cast(learning_rate, tf.float32),
            "beta1": tf.constant(self.beta_1, tf.float32),
            "beta2": tf.constant(self.beta_2, tf.float32),
            # The kernel adds epsilon to the uncorrected root.
            "epsilon": self.epsilon * tf.sqrt(1.0 - beta_2_power),
        }

    def _fused_update(
        self, gradient: Any, variable: Any, scalars: dict[str, Any]
    ) -> None:
        first, second = moments(self, variable)
        shared_update.apply_adam(
            variable.handle,
            first.value.handle,
            second.value.handle,
            tf.cast(tf.convert_to_tensor(gradient), variable.dtype),
            scalars,
        )
