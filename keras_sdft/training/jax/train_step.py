"""One optimizer step: gradients of a pure function, update.

Must not know how a loss is computed, or what learns.
"""

from collections.abc import Callable
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import jax
import keras
from keras import ops

from keras_sdft import distribution
from keras_sdft import keras_internals
from keras_sdft.devices import leave_to_jax
from keras_sdft.encoding import latent_shape
from keras_sdft.models.adapted import variables_read
from keras_sdft.training import parts
from keras_sdft.training import workers
from keras_sdft.training.denoising import loss_of
from keras_sdft.training.gradients import not_finite_error
from keras_sdft.training.jax import operations
from keras_sdft.training.jax import rows
from keras_sdft.training.jax.accumulation import accumulate
from keras_sdft.training.jax.compiled import CompiledStep
from keras_sdft.training.jax.compiled import values_in
from keras_sdft.training.jax.whole_arrays import WholeArrays
from keras_sdft.training.optimizer_groups import find_groups
from keras_sdft.training.optimizer_groups import learning
from keras_sdft.training.optimizer_groups import learning_rate_of

_FAILED = "failed"
_LEARNING_RATE = "learning_rate"

leave_to_jax()


class TrainStep:
    """The training step of `Trainer` in JAX, a base of it.

    `train_step` and `test_step` read and assign variables, as in
    TensorFlow; a `CompiledStep` makes a pure function of them.
    """

    def __setattr__(self, name: str, value: Any) -> None:
        if not keras_internals.set_without_tracking(self, name, value):
            super().__setattr__(name, value)

    def prepare_step(self: Any) -> None:
        """Makes what the step needs beside the trainer's own variables."""
        self.failed = self.add_weight(
            (),
            dtype="int32",
            initializer="zeros",
            trainable=False,
            name=_FAILED,
        )
        self._last_failed: Any = None
        self._last_learning_rate: Any = None
        # Not so after a step that JAX did not finish: the state before it is
        # used up, and there is none after it.
        self._has_state = True
        self.arrays = None
        if distribution.worker()[1] > 1:
            self.arrays = WholeArrays(keras.distribution.distribution())

    def compile(
        self: Any, optimizer: Any, jit_compile: bool | str, **kwargs: Any
    ) -> None:
        """Compiles as Keras does; XLA compiles what is not eager."""
        if self.arrays is not None and kwargs.get("run_eagerly"):
            raise ValueError(
                "`run_eagerly=True` is for one process. Leave it out."
            )
        kwargs["jit_compile"] = not kwargs.get("run_eagerly", False)
        super().compile(optimizer=optimizer, **kwargs)  # type: ignore[misc]

    def train_step(self: Any, data: dict[str, Any]) -> dict[str, Any]:
        """Takes one optimizer step on one batch."""
        told, data = rows.without_signal(data)
        parts.prepare(self.parts, self.step, training=True)
        shape = latent_shape(self.stable_diffusion, data)
        variables = learning(self.optimizer, self.trainable_variables)
        micro_step = partial(
            loss_and_gradients,
            self.denoising,
            variables,
            scale=self.optimizer.scale_loss,
            sums=self.loss_metrics.sums,
        )
        loss, gradients, sums = accumulate(
            micro_step,
            {**data, **self.noise_sampler(shape, self.step)},
            self.gradient_accumulation_steps,
        )
        took = self._apply(gradients, variables)
        if self.weight_average is not None:
            with _changes_if(took, self.weight_average.weights):
                self.weight_average.update(self.step)
        self.step.assign_add(ops.cast(took, "int32"))
        logs = self.loss_metrics.update(loss, None, sums)
        rate = ops.convert_to_tensor(learning_rate_of(self.optimizer))
        told = {**told, _FAILED: self.failed.value, _LEARNING_RATE: rate}
        return {**logs, **told}

    def test_step(self: Any, data: dict[str, Any]) -> dict[str, Any]:
        """Computes the validation loss of one batch."""
        told, data = rows.without_signal(data)
        return {**super().test_step(data), **told}  # type: ignore[misc]

    def _apply(self: Any, gradients: list[Any], variables: list[Any]) -> Any:
        """Updates the variables; returns whether the step was taken."""
        optimizer, every = self.optimizer, self.trainable_variables
        by_variable = {
            id(v): g for v, g in zip(variables, gradients, strict=True)
        }
        before = optimizer.iterations.value
        weights, values = optimizer.stateless_apply(
            [v.value for v in optimizer.variables],
            [by_variable.get(id(v)) for v in every],
            [v.value for v in every],
        )
        changed = [*every, *optimizer.variables]
        if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
            # It skips gradients that its scale made infinite.
            _assign(changed, [*weights, *values])
            return optimizer.iterations.value > before
        # An error cannot be raised in a compiled step: nothing changes from
        # here on, and `_check_finite` raises it.
        finite = ops.isfinite(operations.global_norm(gradients))
        took = ops.logical_and(finite, self.failed.value == 0)
        self.failed.assign(1 - ops.cast(took, "int32"))
        with _changes_if(took, changed):
            _assign(changed, [*weights, *values])
        return took

    # === Several devices ===

    def check_devices(self: Any) -> None:
        """Raises `ValueError` where processes would train apart."""
        shared = keras.distribution.distribution()
        if shared is None or jax.process_count() == 1:
            return
        devices = shared.device_mesh.backend_mesh.devices.flat
        if set(devices) != set(jax.local_devices()):
            raise ValueError(
                "Several processes train with a distribution of "
                "`keras_sdft.distribution.use()` alone. Received: "
                f"{type(shared).__name__} of {shared.device_mesh}."
            )

    def distributed(self: Any, dataset: Any, micro_batches: int = 1) -> Any:
        """Returns this process' rows, which Keras gives to its devices."""
        index, count = distribution.worker()
        if count > 1:
            distribution.together(
                lambda: workers.check_rows(dataset, index, count)
            )
        rows.check_divides(dataset, micro_batches)
        return rows.of_worker(dataset, index, count)

    def is_distributed(self, dataset: Any) -> bool:
        return getattr(dataset, "is_of_worker", False)

    @property
    def writes_files(self) -> bool:
        return distribution.is_chief()

    def check_workers(self: Any, dataset: Any) -> None:
        workers.check_alike(self, dataset, jax.local_device_count())

    def fit(self: Any, *args: Any, **kwargs: Any) -> Any:
        """Trains, and words errors that come from inside of a step."""

        def when() -> str:
            return f"after step {self.progress.position.step:,}"

        self._has_state = True
        with distribution.naming_lost_workers(when):
            return super().fit(*args, **kwargs)  # type: ignore[misc]

    def current_learning_rate(self: Any) -> Any:
        """Returns the learning rate of the next step, a scalar tensor."""
        if keras_internals.has_its_state(self):
            return learning_rate_of(self.optimizer)
        return self._last_learning_rate

    # === What a step reads and changes ===

    @property
    def non_trainable_variables(self: Any) -> list[Any]:
        """The variables that a step changes, beside those that learn."""
        average = self.weight_average
        kept = [] if average is None else average.weights
        return [self.step, self.validated, self.failed, *kept]

    def _frozen_variables(self: Any) -> list[Any]:
        """Returns all that the networks read, encoders included."""
        networks = self.stable_diffusion.built_parts.values()
        found = [v for network in networks for v in variables_read(network)]
        return list({id(variable): variable for variable in found}.values())

    def make_train_function(self: Any, force: bool = False) -> None:
        """Makes what `fit` calls for each batch."""
        if not force and self._is_current(self.train_function):
            return
        step = self._compiled(self.train_step, self.optimizer.variables)
        groups = find_groups(self.optimizer)

        def function(state: Any, iterator: Any) -> Any:
            if self._last_failed is not None and int(self._last_failed):
                self.jax_state_sync()
            most = self.progress.next_batches(step.steps)
            if groups is None or not groups.stops:
                logs, state = step(state, iterator, most)
                self.progress.batches = step.ran
            else:
                self.progress.batches, logs, state = _by_running_groups(
                    step, groups, state, iterator, most
                )
            # Looked at after the next step has begun: not waited for.
            self._last_failed = logs.pop(_FAILED)
            self._last_learning_rate = logs.pop(_LEARNING_RATE)
            return logs, state

        self.train_function = self._telling(function, step)

    def make_test_function(self: Any, force: bool = False) -> None:
        """Makes what `evaluate` calls for each batch."""
        if force or not self._is_current(self.test_function):
            step = self._compiled(self.test_step)
            self.test_function = self._telling(step, step)

    def _telling(self: Any, function: Any, step: CompiledStep) -> Any:
        """Returns a function whose steps tell processes of each's signal."""

        def telling(state: Any, iterator: Any) -> Any:
            if self.arrays is None:
                return function(state, iterator)
            batches = rows.with_signal(iterator, self.progress.received or 0)
            try:
                logs, state = function(state, batches)
                # All wait for the step here, to end after the same one.
                told = int(logs.pop(rows.SIGNAL))
            except jax.errors.JaxRuntimeError:
                self._has_state = False
                raise
            if told and self.progress.told is None:
                self.progress.told = told
            return logs, state

        telling.frozen = step.frozen  # type: ignore[attr-defined]
        return telling

    def _is_current(self: Any, function: Any) -> bool:
        """Returns whether a function reads all networks, if it is there."""
        if function is None:
            return False
        known = {id(v) for v in [*self.trainable_variables, *function.frozen]}
        return known >= {id(v) for v in self._frozen_variables()}

    def _compiled(self: Any, step: Any, *optimizer: list[Any]) -> CompiledStep:
        state = [
            self.trainable_variables,
            self.non_trainable_variables,
            *optimizer,
            self.metrics_variables,
        ]
        return CompiledStep(
            step,
            state,
            self._frozen_variables(),
            keras.distribution.distribution(),
            eager=self.run_eagerly,
            steps=self.steps_per_execution,
            arrays=self.arrays,
        )

    def jax_state_sync(self: Any) -> None:
        """Puts a step's results into the variables; raises if they failed."""
        if not self._has_state:
            return
        if self.arrays is not None:
            keras_internals.map_state(self, self.arrays.own)
        super().jax_state_sync()  # type: ignore[misc]
        if self.failed.value is not None and int(self.failed):
            self.failed.assign(0)
            self._last_failed = None
            raise not_finite_error()


def _by_running_groups(
    step: CompiledStep, groups: Any, state: Any, iterator: Any, most: int
) -> tuple[int, Any, Any]:
    """Runs a step that computes no gradients of what has stopped.

    Returns:
        Tuple of how many batches there were, at most `most`, the last one's
        logs, and the new state.
    """
    ran, logs, place = 0, None, _place(groups.iterations, step.state[2])
    while ran < most:
        begin = int(state[2][place])
        groups.running = groups.running_at(begin)
        alike = groups.steps_alike(begin, most - ran)
        try:
            logs, state = step(state, iterator, alike, groups.running)
        except StopIteration:
            if not ran:
                raise
            break
        finally:
            groups.running = None
        ran += step.ran
    return ran, logs, state


def _place(variable: Any, variables: list[Any]) -> int:
    return [id(one) for one in variables].index(id(variable))


def _assign(variables: list[Any], values: list[Any]) -> None:
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)


@contextmanager
def _changes_if(condition: Any, variables: list[Any]) -> Iterator[None]:
    """Context manager whose assignments hold only if a condition does."""
    before = [variable.value for variable in variables]
    yield
    for variable, value in zip(variables, before, strict=True):
        variable.assign(ops.where(condition, variable.value, value))


def loss_and_gradients(
    denoising: Any,
    variables: list[Any],
    batch: dict[str, Any],
    scale: Callable[[Any], Any] = lambda loss: loss,
    sums: Callable[[Any, Any], list[Any]] = lambda losses, batch: [],
) -> tuple[Any, list[Any], list[Any]]:
    """Computes the loss of a batch, or of a part of one, and its gradients.

    To be called in a `keras.StatelessScope`. Arguments and results are those
    of `training.tensorflow.train_step.loss_and_gradients`.
    """
    batch = denoising.encode_frozen(batch)

    def scaled_loss(values: list[Any]) -> tuple[Any, Any]:
        with values_in(variables, values):
            losses = denoising.losses(batch)
            loss = loss_of(losses, batch)
            return scale(loss), (loss, sums(losses, batch))

    values = [variable.value for variable in variables]
    differentiate = jax.value_and_grad(scaled_loss, has_aux=True)
    (_, (loss, found)), gradients = differentiate(values)
    return loss, gradients, found
