"""One optimizer step on any Keras backend.

The only file of this folder that tells the backends apart. Must not know
what is trained: the loss is a function of a batch.
"""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import ops


@keras.saving.register_keras_serializable(package="pretrain_tiny")
class FlatThenCosine(keras.optimizers.schedules.LearningRateSchedule):
    """A linear warm-up, a flat part, and a fall along a cosine.

    Args:
        peak: Float, the learning rate of the flat part.
        num_steps: Integer, steps in all.
        warmup_steps: Integer, steps of the warm-up.
        flat: Float in [0, 1), share of the steps before the fall.
        floor: Float, the last rate as a share of `peak`.
    """

    def __init__(
        self,
        peak: float,
        num_steps: int,
        warmup_steps: int = 100,
        flat: float = 0.5,
        floor: float = 0.04,
    ):
        super().__init__()
        self.peak = peak
        self.num_steps = num_steps
        self.warmup_steps = warmup_steps
        self.flat = flat
        self.floor = floor

    def __call__(self, step: Any) -> Any:
        step = ops.cast(step, "float32")
        rise = ops.minimum(1.0, (step + 1.0) / max(self.warmup_steps, 1))
        start = self.flat * self.num_steps
        length = max(self.num_steps - start, 1.0)
        progress = ops.clip((step - start) / length, 0.0, 1.0)
        fall = 0.5 * (1.0 + ops.cos(np.pi * progress))
        return self.peak * rise * (self.floor + (1.0 - self.floor) * fall)

    def get_config(self) -> dict:
        names = ("peak", "num_steps", "warmup_steps", "flat", "floor")
        return {name: getattr(self, name) for name in names}


def make_optimizer(learning_rate: Any, weight_decay: float = 1e-2) -> Any:
    """AdamW (0.9, 0.99), gradients clipped to a global norm of 1.

    Under TensorFlow it is the library's own, whose graph is much smaller.
    """
    if keras.backend.backend() == "tensorflow":
        from keras_sdft.training import AdamW
    else:
        AdamW = keras.optimizers.AdamW
    return AdamW(
        learning_rate=learning_rate,
        weight_decay=weight_decay,
        beta_1=0.9,
        beta_2=0.99,
        epsilon=1e-8,
        global_clipnorm=1.0,
    )


def make_step(
    loss_function: Callable[[dict], tuple[Any, dict]],
    variables: list,
    optimizer: Any,
    average: Any,
    jit_compile: bool = False,
) -> Any:
    """Makes the function that trains on one batch.

    Args:
        loss_function: Function of a batch (dict of tensors) that returns a
            scalar loss and a dict of tensors to report.
        variables: List of `keras.Variable` to train.
        optimizer: A Keras optimizer, built here.
        average: A `WeightAverage` of the same variables.
        jit_compile: Boolean, whether TensorFlow compiles with XLA (JAX
            always does).

    Returns:
        A callable of a batch (dict of NumPy arrays, with the optimizer
        step as int32 scalar `"step"`) that returns the loss and the report
        as tensors of the backend. Its `sync()` makes the variables hold
        what was trained; call it before they are read.
    """
    optimizer.build(variables)
    backend = keras.backend.backend()
    steps = {"tensorflow": _TensorFlow, "jax": _JAX, "torch": _Torch}
    if backend not in steps:
        raise ValueError(
            f"Training needs one of the backends {sorted(steps)}. "
            f"Received: KERAS_BACKEND={backend}."
        )
    return steps[backend](
        loss_function, variables, optimizer, average, jit_compile
    )


class _Step:
    def __init__(
        self, loss_function, variables, optimizer, average, jit_compile
    ):
        self.loss_function = loss_function
        self.variables = variables
        self.optimizer = optimizer
        self.average = average
        self.jit_compile = jit_compile
        self._prepare()

    def sync(self) -> None:
        """Makes the variables hold what was trained."""

    def _update(self, gradients: list, step: Any) -> None:
        self.optimizer.apply(gradients, self.variables)
        self.average.update(step)


class _TensorFlow(_Step):
    def _prepare(self):
        import tensorflow as tf

        def step(batch):
            with tf.GradientTape() as tape:
                loss, report = self.loss_function(batch)
            values = [variable.value for variable in self.variables]
            gradients = tape.gradient(
                loss,
                values,
                unconnected_gradients=tf.UnconnectedGradients.ZERO,
            )
            self._update(gradients, batch["step"])
            return loss, report

        self._step = tf.function(step, jit_compile=self.jit_compile)

    def __call__(self, batch):
        return self._step(
            {key: ops.convert_to_tensor(value) for key, value in batch.items()}
        )


class _Torch(_Step):
    def _prepare(self):
        import torch

        # TF32 where the device has it: the networks are far from needing
        # more.
        torch.set_float32_matmul_precision("high")
        self._torch = torch

    def __call__(self, batch):
        torch = self._torch
        batch = {k: ops.convert_to_tensor(v) for k, v in batch.items()}
        values = [variable.value for variable in self.variables]
        for value in values:
            value.grad = None
        loss, report = self.loss_function(batch)
        loss.backward()
        with torch.no_grad():
            gradients = [
                torch.zeros_like(v) if v.grad is None else v.grad
                for v in values
            ]
            self._update(gradients, batch["step"])
        report = {key: value.detach() for key, value in report.items()}
        return loss.detach(), report


class _JAX(_Step):
    def _prepare(self):
        import jax

        self._state = (
            list(self.variables)
            + list(self.optimizer.variables)
            + list(self.average.variables)
        )
        self._values = None
        count = len(self.variables)

        def step(values, batch):
            def compute(trained):
                pairs = zip(self.variables, trained, strict=True)
                with keras.StatelessScope(state_mapping=list(pairs)):
                    return self.loss_function(batch)

            differentiate = jax.value_and_grad(compute, has_aux=True)
            (loss, report), gradients = differentiate(values[:count])
            pairs = list(zip(self._state, values, strict=True))
            with keras.StatelessScope(state_mapping=pairs) as scope:
                self._update(gradients, batch["step"])
            values = [scope.get_current_value(v) for v in self._state]
            return values, loss, report

        self._step = jax.jit(step, donate_argnums=0)

    def __call__(self, batch):
        if self._values is None:
            # Copies: what is donated must not be what the variables hold.
            self._values = [ops.copy(v.value) for v in self._state]
        self._values, loss, report = self._step(self._values, dict(batch))
        return loss, report

    def sync(self):
        if self._values is None:
            return
        for variable, value in zip(self._state, self._values, strict=True):
            variable.assign(value)
        self._values = None
