"""Two optimizers as one: the text encoder learns at its own rate.

Must not know models or losses: variables belong to the second optimizer or
to the first.
"""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf
from keras import ops

from keras_sdft.training import optimizers
from keras_sdft.training.tensorflow.schedule_free import (
    schedule_free_optimizers,
)


class TwoOptimizers(keras.optimizers.Optimizer):
    """Applies one optimizer to some variables and another to the rest.

    Gradients are clipped together, to `first.global_clipnorm`, as one
    global norm; what clipping the second optimizer has of its own comes
    after. The first optimizer's iterations and learning rate are this
    one's.

    Args:
        first: A Keras optimizer.
        second: A Keras optimizer, another object.
        second_variables: List of the variables that `second` is for.
        stop_step: Integer >= 1, after how many steps the second optimizer
            stops: its variables and its state then stay as they are.
            `None` for never.

    Raises:
        ValueError: If the two are one object, or scale the loss.
    """

    def __init__(
        self,
        first: Any,
        second: Any,
        second_variables: list[Any],
        stop_step: int | None = None,
        name: str = "two_optimizers",
    ):
        if first is second:
            raise ValueError(
                "`text_encoder_optimizer` must be another object than "
                "`optimizer`: an optimizer keeps the state of its own "
                "variables."
            )
        for optimizer in (first, second):
            scales = isinstance(optimizer, keras.optimizers.LossScaleOptimizer)
            if scales or optimizer.loss_scale_factor:
                raise ValueError(
                    "With text-encoder training the optimizers must not scale "
                    "the loss; `mixed_float16` does so by itself. Received: "
                    f"{optimizer}."
                )
        super().__init__(learning_rate=0.0, name=name)
        self.first = first
        self.second = second
        self.stop_step = stop_step
        self._of_second = {id(variable) for variable in second_variables}

    @property
    def optimizers(self) -> tuple[Any, Any]:
        """The first and the second optimizer."""
        return self.first, self.second

    def build(self, variables: list[Any]) -> None:
        """Builds both, each for its own variables."""
        if self.built:
            return
        super().build(variables)
        for optimizer, own in zip(
            self.optimizers, self._parted(variables, variables), strict=True
        ):
            optimizer.build(own)

    @property
    def variables(self) -> list[Any]:
        return [
            *self._variables,
            *self.first.variables,
            *self.second.variables,
        ]

    @property
    def iterations(self) -> Any:
        return self.first.iterations

    @property
    def learning_rate(self) -> Any:
        return self.first.learning_rate

    @learning_rate.setter
    def learning_rate(self, learning_rate: Any) -> None:
        self.first.learning_rate = learning_rate

    def apply(self, grads: list[Any], trainable_variables: Any = None) -> None:
        """Updates the variables of both."""
        if trainable_variables is None:
            trainable_variables = self._trainable_variables
        self.build(list(trainable_variables))
        grads, second_grads = self._parted(trainable_variables, grads)
        variables, second_variables = self._parted(
            trainable_variables, trainable_variables
        )
        running: Any = None
        if self.stop_step is not None:
            running = self.first.iterations < self.stop_step
            # What no longer learns takes no part in the global norm.
            kept = ops.cast(running, "float32")
            second_grads = [gradient * kept for gradient in second_grads]
        scale = self._clip_scale([*grads, *second_grads])
        self.first.apply(_scaled(grads, scale), variables)
        second_grads = _scaled(second_grads, scale)
        if running is None:
            self.second.apply(second_grads, second_variables)
            return

        def apply_second() -> None:
            self.second.apply(second_grads, second_variables)

        ops.cond(running, apply_second, lambda: None)

    def finalize_variable_values(self, var_list: list[Any]) -> None:
        for optimizer, own in zip(
            self.optimizers, self._parted(var_list, var_list), strict=True
        ):
            optimizer.finalize_variable_values(own)

    def get_config(self) -> dict[str, Any]:
        raise NotImplementedError(
            "Two optimizers are not serialized as one: `Trainer.compile` "
            "makes them from their own configurations."
        )

    def _parted(
        self, variables: list[Any], values: list[Any]
    ) -> tuple[list[Any], list[Any]]:
        """The values of the first optimizer's variables, then the rest."""
        parts: tuple[list[Any], list[Any]] = ([], [])
        for variable, value in zip(variables, values, strict=True):
            parts[id(variable) in self._of_second].append(value)
        return parts

    def _clip_scale(self, grads: list[Any]) -> Any:
        limit = self.first.global_clipnorm
        if not limit:
            return None
        # Both optimizers may clip to the same limit again: within it, they
        # change nothing.
        squares = tf.add_n([tf.nn.l2_loss(gradient) for gradient in grads])
        return limit / tf.maximum(tf.sqrt(2.0 * squares), limit)


def _scaled(grads: list[Any], scale: Any) -> list[Any]:
    if scale is None:
        return grads
    return [gradient * scale for gradient in grads]


def choose_optimizer(
    optimizer: Any,
    text_encoder_optimizer: Any,
    text_encoder: Any,
    stop_step: int | None,
    averaged: bool = False,
) -> Any:
    """One optimizer for all that learns.

    Args:
        optimizer: As for `Trainer.compile`.
        text_encoder_optimizer: Likewise.
        text_encoder: The network, or `None` if it does not learn.
        stop_step: As for `TwoOptimizers`.
        averaged: Boolean, whether a moving average of the weights is kept.

    Returns:
        A `keras.optimizers.Optimizer`.

    Raises:
        ValueError: If there is an optimizer for nothing, or two averages.
    """
    optimizer = optimizers.get(optimizer)
    if text_encoder is None and text_encoder_optimizer is not None:
        raise ValueError(
            "`text_encoder_optimizer` has nothing to train. Pass "
            "`Trainer(..., train_text_encoder=True)`."
        )
    if text_encoder is not None:
        second = (
            # The same configuration, without the state.
            type(optimizer).from_config(optimizer.get_config())
            if text_encoder_optimizer is None
            else optimizers.get(text_encoder_optimizer)
        )
        optimizer = TwoOptimizers(
            optimizer, second, text_encoder.trainable_variables, stop_step
        )
    if averaged and schedule_free_optimizers(optimizer):
        raise ValueError(
            "`ema_decay` cannot be used with a schedule-free optimizer, which "
            "keeps an average of the weights by itself."
        )
    return optimizer
