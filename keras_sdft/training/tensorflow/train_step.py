"""One optimizer step: tape, gradients, update.

Must not know how a loss is computed, or what learns.
"""

from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from typing import Any

import keras
import tensorflow as tf
from keras import ops

from keras_sdft import distribution
from keras_sdft.encoding import latent_shape
from keras_sdft.keras_internals import StepFunctionHook
from keras_sdft.keras_internals import takes_sums
from keras_sdft.models.kernels import gate
from keras_sdft.training import parts
from keras_sdft.training import workers
from keras_sdft.training.denoising import loss_of
from keras_sdft.training.gradients import NOT_FINITE
from keras_sdft.training.gradients import not_finite_error
from keras_sdft.training.optimizer_groups import find_groups
from keras_sdft.training.optimizer_groups import learning
from keras_sdft.training.optimizer_groups import learning_rate_of
from keras_sdft.training.tensorflow import operations
from keras_sdft.training.tensorflow import replicas
from keras_sdft.training.tensorflow.accumulation import accumulate
from keras_sdft.training.tensorflow.step_function import step_function


class TrainStep(StepFunctionHook):
    """The training step of `Trainer` in TensorFlow, a base of it."""

    def train_step(self: Any, data: dict[str, Any]) -> dict[str, Any]:
        """Takes one optimizer step on one batch."""
        key = replicas.key_of_replica(self.step)
        parts.prepare(self.parts, key, training=True)
        shape = latent_shape(self.stable_diffusion, data)

        def draw(shape: Any) -> dict[str, Any]:
            return self.noise_sampler(shape, self.step)

        variables = learning(self.optimizer, self.trainable_variables)
        micro_step = partial(
            loss_and_gradients,
            self.denoising,
            variables,
            scale=self.optimizer.scale_loss,
            sums=self.loss_metrics.sums,
        )
        blocks = gate.inlined_blocks if self.uses_xla else nullcontext
        if self.uses_xla:
            # Draws, sums over replicas and the update are no part of it.
            micro_step = tf.function(
                micro_step, jit_compile=True, autograph=False
            )
        with blocks():
            local = accumulate(
                micro_step,
                {**data, **replicas.rows_of(draw, data, shape)},
                self.gradient_accumulation_steps,
            )
        loss, gradients, sums = replicas.sum_over_replicas(local)
        # Data of unknown length ends inside the graph, and that is no step.
        with tf.control_dependencies([loss]):
            took = _apply(self.optimizer, gradients, variables)
            if self.weight_average is not None:
                _if(took, lambda: self.weight_average.update(self.step))
            self.step.assign_add(took)
            return self.loss_metrics.update(loss, None, sums)

    def prepare_step(self: Any) -> None:
        """Makes what the step needs; TensorFlow's needs nothing."""

    def current_learning_rate(self: Any) -> Any:
        """Returns the learning rate of the next step, a scalar tensor."""
        return learning_rate_of(self.optimizer)

    # === Several devices ===

    def devices_scope(self: Any) -> Any:
        return self.distribute_strategy.scope()

    def check_devices(self: Any) -> None:
        strategy = replicas.strategy_of(self)
        replicas.check_strategy(strategy)
        for name in self.networks:
            network = getattr(self.stable_diffusion, name)
            replicas.check_variables(strategy, network.weights)
        replicas.check_variables(strategy, self.trainable_variables)

    def distributed(self: Any, dataset: Any, micro_batches: int = 1) -> Any:
        with self.devices_scope():
            index, count = distribution.worker()
            distribution.together(
                lambda: workers.check_rows(dataset, index, count)
            )
        strategy = replicas.strategy_of(self)
        return replicas.distributed(dataset, strategy, micro_batches)

    def is_distributed(self, dataset: Any) -> bool:
        return isinstance(dataset, tf.distribute.DistributedDataset)

    @property
    def writes_files(self: Any) -> bool:
        with self.devices_scope():
            return distribution.is_chief()

    def check_workers(self: Any, dataset: Any) -> None:
        gpus = len(tf.config.list_logical_devices("GPU"))
        workers.check_alike(self, dataset, gpus)

    mean_over_devices = staticmethod(replicas.mean_over_replicas)

    def compile(
        self: Any, optimizer: Any, jit_compile: bool | str, **kwargs: Any
    ) -> None:
        strategy = replicas.strategy_of(self)
        replicas.check_compile(strategy, optimizer, kwargs)
        self.uses_xla = _uses_xla(jit_compile, kwargs.get("run_eagerly"))
        # Keras would compile the whole step.
        super().compile(  # type: ignore[misc]
            optimizer=optimizer, jit_compile=False, **kwargs
        )
        if strategy is not None:
            for one in replicas.optimizers_in(self.optimizer):
                takes_sums(one)
            # Workers make variables together: none may be the first to
            # look at the optimizer's.
            self.optimizer.build(self.trainable_variables)

    def fit(self: Any, *args: Any, **kwargs: Any) -> Any:
        """Trains, and words errors that come from inside of a step."""

        def when() -> str:
            return f"after step {self.progress.position.step:,}"

        try:
            with self.devices_scope(), distribution.naming_lost_workers(when):
                return super().fit(*args, **kwargs)  # type: ignore[misc]
        except tf.errors.InvalidArgumentError as error:
            if NOT_FINITE not in str(error):
                raise
            raise not_finite_error() from error

    def make_step_function(self: Any, step: Callable[[Any], Any]) -> Any:
        """Returns what `fit` and `evaluate` call for each batch."""
        groups = find_groups(self.optimizer)
        if step != self.train_step:
            return step_function(self, step)
        # Eager steps know which groups run, and a graph of several decides it
        # in each.
        decided = self.run_eagerly or self.steps_per_execution > 1
        if groups is None or not groups.stops or decided:
            return step_function(self, step, trains=True)
        return _by_running_groups(self, step, groups)


def _uses_xla(jit_compile: bool | str, run_eagerly: bool | None) -> bool:
    """Returns whether XLA compiles the loss and its gradients."""
    if jit_compile == "auto":
        return gate.compiles_by_xla() and not run_eagerly
    if jit_compile and run_eagerly:
        raise ValueError(
            "XLA cannot compile steps that are run eagerly. Received: "
            "jit_compile=True, run_eagerly=True. Leave one of them out."
        )
    return bool(jit_compile)


def _by_running_groups(model: Any, step: Any, groups: Any) -> Any:
    """Returns a step that computes no gradients of what has stopped."""
    functions: dict[Any, Any] = {}

    def function(iterator: Any) -> Any:
        groups.running = running = groups.running_now()
        try:
            if running not in functions:
                functions[running] = step_function(model, step, True)
            return functions[running](iterator)
        finally:
            groups.running = None

    return function


def _apply(optimizer: Any, gradients: list[Any], variables: list[Any]) -> Any:
    """Updates the variables; returns 1, or 0 where the step was skipped."""
    if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        # It skips gradients that its scale made infinite.
        before = tf.identity(optimizer.iterations.value)
        optimizer.apply(gradients, variables)
        return tf.cast(optimizer.iterations.value - before, tf.int32)
    if getattr(optimizer, "checks_gradients", False):
        optimizer.apply(gradients, variables)
        return 1
    with tf.control_dependencies([operations.global_norm(gradients)]):
        optimizer.apply(gradients, variables)
    return 1


def _if(condition: Any, function: Callable[[], None]) -> None:
    if isinstance(condition, int):
        function()
    else:
        ops.cond(condition > 0, function, lambda: None)


def loss_and_gradients(
    denoising: Any,
    variables: list[Any],
    batch: dict[str, Any],
    scale: Callable[[Any], Any] = lambda loss: loss,
    sums: Callable[[Any, Any], list[Any]] = lambda losses, batch: [],
) -> tuple[Any, list[Any], list[Any]]:
    """Computes the loss of a batch, or of a part of one, and its gradients.

    Args:
        denoising: A `Denoising`.
        variables: List of `keras.Variable`.
        batch: Dict of tensors, as for `Denoising.losses`, with each
            example's `example_weight` and `share` of the whole batch.
        scale: Function of the loss, whose gradients are computed.
        sums: Function of the losses `(B,)` and the batch, for metrics.

    Returns:
        Tuple of the loss, the list of gradients and what `sums` returns.
        All of them add up over the parts of a batch.
    """
    batch = denoising.encode_frozen(batch)
    with tf.GradientTape() as tape:
        losses = denoising.losses(batch)
        loss = loss_of(losses, batch)
        scaled = scale(loss)
    gradients = tape.gradient(
        scaled,
        # TensorFlow's own: it makes no zeros for a variable of Keras, which
        # one in a layer that clip skip leaves out needs.
        [variable.value for variable in variables],
        unconnected_gradients=tf.UnconnectedGradients.ZERO,
    )
    # An embedding's gradient comes as the rows that were looked up.
    gradients = [tf.convert_to_tensor(gradient) for gradient in gradients]
    return loss, gradients, sums(losses, batch)
