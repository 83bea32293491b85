"""AdamW with the field's defaults, for every backend.

Must not know models or losses.
"""

from typing import Any

import keras
from keras import ops

from keras_sdft.keras_internals import OptimizerHooks
from keras_sdft.keras_internals import moments


class BaseAdamW(OptimizerHooks, keras.optimizers.AdamW):
    """AdamW with global gradient clipping.

    Differs from `keras.optimizers.AdamW` in its defaults (learning rate
    1e-5, decay 1e-2, gradients clipped to a *global* norm of 1) and in
    where epsilon is added (to the bias-corrected root, as PyTorch and the
    paper do). In TensorFlow one fused kernel updates each variable.

    Args:
        learning_rate: Float or a `keras.optimizers.schedules` object.
        weight_decay: Float >= 0, decoupled decay.
        beta_1: Float in [0, 1), decay of the first moment.
        beta_2: Float in [0, 1), decay of the second moment.
        epsilon: Float > 0.
        global_clipnorm: Float, the largest global norm of all gradients
            together; `None` does not clip.
        **kwargs: As for `keras.optimizers.AdamW`.

    References:
        Loshchilov & Hutter, Decoupled Weight Decay Regularization, 2019,
        algorithm 2.
    """

    def __init__(
        self,
        learning_rate: Any = 1e-5,
        weight_decay: float = 1e-2,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-8,
        global_clipnorm: float | None = 1.0,
        name: str = "adamw",
        **kwargs: Any,
    ):
        super().__init__(
            learning_rate=learning_rate,
            weight_decay=weight_decay,
            beta_1=beta_1,
            beta_2=beta_2,
            epsilon=epsilon,
            global_clipnorm=global_clipnorm,
            name=name,
            **kwargs,
        )
        if self.amsgrad:
            raise ValueError(
                "`amsgrad` has no fused update. Use "
                "`keras.optimizers.AdamW(amsgrad=True, ...)` instead."
            )

    def update_step(
        self, gradient: Any, variable: Any, learning_rate: Any
    ) -> None:
        """Updates one variable, by the paper's formulas as they are."""
        first, second = moments(self, variable)
        gradient = ops.cast(gradient, variable.dtype)
        step = ops.cast(self.iterations + 1, "float32")
        powers = [ops.power(b, step) for b in (self.beta_1, self.beta_2)]
        rate = ops.cast(learning_rate, "float32") / (1.0 - powers[0])
        root = ops.sqrt(1.0 - powers[1])
        # Both corrections in scalars, not in passes over the variable.
        rate, epsilon = rate * root, self.epsilon * root
        mean = first + (gradient - first) * (1.0 - self.beta_1)
        square = second + (ops.square(gradient) - second) * (1.0 - self.beta_2)
        first.assign(mean)
        second.assign(square)
        rate, epsilon = (
            ops.cast(scalar, variable.dtype) for scalar in (rate, epsilon)
        )
        variable.assign_sub(rate * mean / (ops.sqrt(square) + epsilon))
