"""The only file that touches private parts of Keras and TensorFlow.

Each function says what it relies on and in which versions it was seen, and
what happens where it is missing. KerasCV's private parts are in
`models/keras_cv_parts.py`. Imports nothing of this library.
"""

import collections
import contextlib
import weakref
from collections.abc import Iterator
from typing import Any


def flatten_layers(layer: Any) -> list[Any]:
    """Returns a layer and all layers inside it, in the order of making.

    Relies on `Layer._flatten_layers` (Keras 3.0 to 3.15); `layers` lists
    those of a model alone, not those that a layer holds.
    """
    return list(layer._flatten_layers())


def replace_kernel(layer: Any, kernel: Any) -> None:
    """Puts another variable in the place of a built layer's kernel.

    Its place among the layer's weights, by which files find it, stays.
    Relies on `Dense._kernel`, `BaseConv._kernel` and the lists of variables
    that `Layer` tracks (Keras 3.4 to 3.15).

    Args:
        layer: A built dense or convolutional layer.
        kernel: A `keras.Variable` of the same shape that does not learn.
    """
    tracked = layer._trainable_variables
    place = [id(v) for v in tracked].index(id(layer._kernel))
    locked = layer._tracker.locked
    kernel._path = layer._kernel.path
    layer._untrack_variable(layer._kernel)
    layer._tracker.unlock()
    # Keras' flag alone, by which it is tracked; TensorFlow's stays.
    kernel.trainable = True
    layer._kernel = kernel
    tracked.insert(place, tracked.pop())
    if locked:
        layer._tracker.lock()
    kernel.trainable = False


def without_autocast() -> Any:
    """Returns a context manager in which variables have their own dtype.

    Relies on `AutocastScope` (Keras 3.0 to 3.15): in a layer of mixed
    precision, reading a variable casts it.
    """
    from keras.src.backend.common.variables import AutocastScope

    return AutocastScope(None)


def onednn_is_on() -> bool:
    """Returns whether TensorFlow uses oneDNN's kernels.

    Relies on a wrapper without a public name (TensorFlow 2.16 to 2.21).
    """
    from tensorflow.python.util import _pywrap_util_port

    return bool(_pywrap_util_port.IsMklEnabled())


def read_tfrecord(path: str, offset: int) -> bytes:
    """Returns the record of a TFRecord file that begins at `offset`.

    Its checksums are compared. Relies on a reader without a public name
    (TensorFlow 2.16 to 2.21); `tf.data` reads files from their beginning only.
    """
    from tensorflow.python.lib.io import _pywrap_record_io

    return _pywrap_record_io.RandomRecordReader(path).read(offset)[0]


@contextlib.contextmanager
def repeated_names() -> Iterator[None]:
    """Context manager in which layers are named as in a new process.

    TensorFlow keeps a compiled kernel of 35 kB for each name that a variable
    had (`EagerContext`'s kernel cache, 2.16 to 2.21), for ever: 15 MB for
    each U-Net, if Keras numbers its layers on from those of the last one.
    Names that are given later are new to both.

    Relies on the counters that `keras.utils.clear_session` sets back (Keras
    3.0 to 3.15). Where there are none, layers are numbered on.
    """
    from keras.src.backend.common import global_state

    key = "object_name_uids"
    before = global_state.get_global_attribute(key) or {}
    inside: Any = collections.defaultdict(int)
    global_state.set_global_attribute(key, inside)
    try:
        yield
    finally:
        for name, count in before.items():
            inside[name] = max(inside[name], count)


# === A model's step ===


def has_its_state(model: Any) -> bool:
    """Returns whether a model's variables have their values.

    Between two steps of `fit` in JAX they have not, and `Callback.model`,
    which puts all of them there, costs more than the step of a small model.
    Relies on `_jax_state_synced` of Keras' trainer for JAX (Keras 3.0 to
    3.15), and takes the variables to have them where there is none.
    """
    return getattr(model, "_jax_state_synced", True)


def set_without_tracking(layer: Any, name: str, value: Any) -> bool:
    """Sets an attribute of a layer if it is a model's state in JAX.

    `fit` sets `_jax_state` after each step (Keras 3.0 to 3.15), and a layer's
    own `__setattr__` looks at each of its arrays, of which there are thousands,
    for something to track, which takes as long as the step of a small model.

    Returns:
        Boolean, whether it was set. All others are Keras' to set.
    """
    if name != "_jax_state":
        return False
    object.__setattr__(layer, name, value)
    return True


def map_state(model: Any, function: Any) -> None:
    """Applies a function to the values that the variables are to have.

    Relies on `_jax_state` and `_jax_state_synced` of Keras' trainer for JAX
    (Keras 3.0 to 3.15), which hold them until `jax_state_sync`.

    Args:
        model: A `keras.Model` that is trained.
        function: Function of an array that returns one.
    """
    state = getattr(model, "_jax_state", None)
    if not state or model._jax_state_synced:
        return
    for name, values in state.items():
        if values is not None:
            state[name] = [function(value) for value in values]


@contextlib.contextmanager
def gradients_end_with(owner: Any) -> Iterator[None]:
    """Context manager for tracing, whose custom gradients go with `owner`.

    `tf.custom_gradient` registers a function for each use in a graph, for
    ever, and with it the graph: 270 MB for each training of a small network.

    Relies on `gradient_registry` of TensorFlow (2.16 to 2.21). Where it is
    otherwise, nothing is removed.

    Args:
        owner: What all graphs that are traced here belong to.
    """
    from tensorflow.python.framework import ops

    registry = getattr(getattr(ops, "gradient_registry", None), "_registry", {})
    before = set(registry)
    try:
        yield
    finally:
        names = [name for name in registry if name not in before]
        if names:
            found = weakref.finalize(owner, _remove, registry, names)
            found.atexit = False


def _remove(registry: dict[str, Any], names: list[str]) -> None:
    for name in names:
        registry.pop(name, None)


class StepFunctionHook:
    """Base before `keras.Model`: makes the function that runs a step.

    Relies on `Model._make_function` (Keras 3.12 to 3.15). Where Keras does
    not call it, steps run as Keras runs them.
    """

    def make_step_function(self, step: Any) -> Any:
        """Returns a function of an iterator, or `None` for Keras' own."""
        return None

    def _make_function(self, step: Any) -> Any:
        found = self.make_step_function(step)
        return found or super()._make_function(step)  # type: ignore[misc]

    def _maybe_symbolic_build(self, *args: Any, **kwargs: Any) -> None:
        """Does nothing, as all is built before `fit` (Keras 3.4 to 3.15).

        Under a strategy Keras would take a batch of the first epoch for it.
        """


# === Optimizers ===


class OptimizerHooks:
    """Base before a Keras optimizer: public names for what it overrides.

    Each method here returns `None` for what Keras does by itself. Relies on
    the methods of `keras.optimizers.Optimizer` that begin with an underscore
    (Keras 3.4 to 3.15).
    """

    def __init__(self, *, global_clipnorm: float | None, **kwargs: Any) -> None:
        # Another kind of clipping replaces the default one.
        if kwargs.get("clipnorm") or kwargs.get("clipvalue"):
            global_clipnorm = None
        super().__init__(  # type: ignore[call-arg]
            global_clipnorm=global_clipnorm, **kwargs
        )

    @property
    def has_strategy(self) -> bool:
        """Whether a strategy of `tf.distribute` is in use."""
        import keras

        if keras.backend.backend() != "tensorflow":
            return False
        import tensorflow as tf

        return bool(tf.distribute.has_strategy())

    @property
    def has_sums(self) -> bool:
        """Whether gradients are sums over all replicas, see `takes_sums`."""
        return self._all_reduce_sum_gradients is list  # type: ignore

    def apply_gradients_at_once(self, gradients: Any, variables: Any) -> Any:
        """Clips, decays and updates; returns whether it did."""
        return None

    def clip_gradients(self, gradients: Any) -> Any:
        """Returns the clipped gradients."""
        return None

    def decay_weights(self, variables: Any) -> Any:
        """Applies weight decay; returns whether it did."""
        return None

    def update_variables(
        self, gradients: Any, variables: Any, learning_rate: Any
    ) -> Any:
        """Updates with clipped gradients; returns whether it did."""
        return None

    def update_by_strategy(
        self, gradients: Any, variables: Any, learning_rate: Any
    ) -> None:
        """Updates as Keras does, by `update_step` on each device."""
        super()._backend_update_step(  # type: ignore[misc]
            gradients, variables, learning_rate
        )

    def _backend_apply_gradients(self, grads: Any, variables: Any) -> None:
        if not self.apply_gradients_at_once(grads, variables):
            super()._backend_apply_gradients(  # type: ignore[misc]
                grads, variables
            )

    def _clip_gradients(self, grads: Any) -> Any:
        clipped = self.clip_gradients(grads)
        if clipped is None:
            return super()._clip_gradients(grads)  # type: ignore[misc]
        return clipped

    def _apply_weight_decay(self, variables: Any) -> None:
        if not self.decay_weights(variables):
            super()._apply_weight_decay(variables)  # type: ignore[misc]

    def _backend_update_step(
        self, grads: Any, variables: Any, learning_rate: Any
    ) -> None:
        if not self.update_variables(grads, variables, learning_rate):
            self.update_by_strategy(grads, variables, learning_rate)


def takes_sums(optimizer: Any) -> None:
    """Makes an optimizer take gradients that are sums over all replicas.

    Under a strategy Keras clips each replica's own gradients, and sums what
    is left. Relies on `Optimizer._all_reduce_sum_gradients` of pairs (Keras
    3.0 to 3.15); where Keras does not call it, gradients are summed twice,
    which tests would find.
    """
    optimizer._all_reduce_sum_gradients = list


def moments(optimizer: Any, variable: Any) -> tuple[Any, Any]:
    """Returns what an Adam-like optimizer keeps for a variable.

    Relies on `_momentums`, `_velocities` and `_get_variable_index` of
    Keras' Adam and ScheduleFreeAdamW (Keras 3.4 to 3.15).

    Args:
        optimizer: The optimizer, built.
        variable: One of its variables.

    Returns:
        Tuple of the first moment (schedule-free: the iterate) and the
        second.
    """
    index = optimizer._get_variable_index(variable)
    return optimizer._momentums[index], optimizer._velocities[index]


def decays(optimizer: Any, variable: Any) -> bool:
    """Returns whether an optimizer applies weight decay to a variable.

    Relies on `Optimizer._use_weight_decay` (Keras 3.0 to 3.15).
    """
    return bool(optimizer._use_weight_decay(variable))


def optimized_variables(optimizer: Any) -> list[Any]:
    """Returns the variables that an optimizer was built for.

    Relies on `Optimizer._trainable_variables` (Keras 3.0 to 3.15).
    """
    return list(optimizer._trainable_variables)


def count_traces_apart(function: Any) -> None:
    """Makes TensorFlow count the traces of a `tf.function` by itself.

    It warns of retracing where of ten calls five were traced, and counts all
    functions of the same source lines together. Those with which Keras calls
    its models are such, and each is traced once when it is first called: five
    models are no fault. Relies on `Function._key_for_call_stats` (TensorFlow
    2.21); where it is missing, the warning stays.

    Args:
        function: What `tf.function` returned, or anything else.
    """
    if hasattr(function, "_key_for_call_stats"):
        function._key_for_call_stats = function._python_function
