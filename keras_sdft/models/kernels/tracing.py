"""Blocks of equal shapes, traced once (TensorFlow).

Python takes about half a millisecond for every operation it adds to a
graph, and the graph optimizer goes over each of them again. A U-Net repeats
its blocks; here the first block of a kind becomes a function of its weights
and inputs, which all of its kind then call, forwards and backwards.

Its reference implementation is `Block.plain`, which other backends and eager
execution use. Must not know what a block computes.
"""

import functools
import types
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from keras_sdft import keras_internals
from keras_sdft.models.adapted import adapters_of
from keras_sdft.models.adapted import variables_read
from keras_sdft.models.kernels import gate

# What is plain enough to be compared; of functions, the very same one.
_PLAIN = (
    bool,
    int,
    float,
    str,
    type(None),
    types.FunctionType,
    types.MethodType,
    functools.partial,
)
# What tells layers apart that compute the same: names, Keras' wrappers, and
# what happened to them.
_IGNORED = frozenset(
    {
        "name",
        "_name",
        "_path",
        "_parent_path",
        "build",
        "call",
        "quantize",
        "_called",
    }
)


class TracedBlocks:
    """Functions shared by the blocks of a network, by kind of block.

    A block is a built `Block` of `blocks.py`. Several calls of a
    function may run at the same time, so what it computes must not become a
    kernel that keeps something between its operations: oneDNN's convolution
    with a sum does (`MklConvOp`, TensorFlow 2.21).
    """

    def __init__(self) -> None:
        self._functions: dict[Any, Callable[..., Any] | None] = {}

    def __call__(self, layer: Any, inputs: list[Any], remat: bool) -> Any:
        """Computes `layer.compute(*inputs)`, shared if in a graph.

        Args:
            layer: The block.
            inputs: List of tensors.
            remat: Boolean, whether the backward pass computes the block
                again instead of keeping its activations.

        Returns:
            What `compute` returns.
        """
        if tf.executing_eagerly() or not gate.traces_blocks():
            return layer.plain(inputs, remat)
        kind = (remat, _kind(layer))
        if kind not in self._functions:
            self._functions[kind] = _function(layer, remat)
        function = self._functions[kind]
        if function is not None:
            # Not cast to the compute dtype here, where copies of all weights
            # would be kept until the gradient.
            with keras_internals.without_autocast():
                weights = [
                    tf.convert_to_tensor(v.value) for v in variables_read(layer)
                ]
            try:
                return function(weights, inputs)
            except _ReachesOutside:
                self._functions[kind] = None
        return layer.plain(inputs, remat)


class _ReachesOutside(Exception):
    """Raised if a block uses more than its own weights."""


def _kind(layer: Any) -> Any:
    """Returns what is equal for layers that compute the same from weights."""
    parts = tuple(
        (
            type(part),
            part.dtype_policy.name,
            tuple(
                (name, value)
                for name, value in vars(part).items()
                if isinstance(value, _PLAIN) and name not in _IGNORED
            ),
            tuple(adapter.kind for adapter in adapters_of(part)),
        )
        for part in keras_internals.flatten_layers(layer)
    )
    weights = tuple(
        (tuple(v.shape), str(v.dtype), v.trainable)
        for v in variables_read(layer)
    )
    return parts, weights


def _function(layer: Any, remat: bool) -> Callable[..., Any]:
    variables = variables_read(layer)

    def forward(weights: list[Any], inputs: list[Any]) -> Any:
        scope = keras.StatelessScope()
        for variable, weight in zip(variables, weights, strict=True):
            if not variable.trainable:
                weight = tf.stop_gradient(weight)
            scope.add_update((variable, weight))
        with scope:
            outputs = layer.compute(*inputs)
        if tf.compat.v1.get_default_graph().captures:
            raise _ReachesOutside
        return outputs

    forward.__name__ = type(layer).__name__
    if not remat:
        return _traced(forward)
    return _rematerialised(forward, [v.trainable for v in variables])


def _traced(function: Callable[..., Any]) -> Any:
    # Inlined, each call would be optimized anew.
    return tf.function(
        function,
        autograph=False,
        experimental_attributes={"_noinline": True},
    )


def _rematerialised(
    forward: Callable[..., Any], learns: list[bool]
) -> Callable[..., Any]:
    """Makes the backward pass begin from the inputs.

    Args:
        forward: Function of weights and inputs.
        learns: List of booleans, which of the weights have gradients.
    """

    def backward(
        weights: list[Any], inputs: list[Any], upstream: list[Any]
    ) -> Any:
        first, *others = inputs
        # Nothing may begin before the gradient is there, nor be shared with
        # the forward pass: a compiler sees that they are the same.
        inputs = [first + _zero_after(upstream[0]), *others]
        learning = [w for w, yes in zip(weights, learns, strict=True) if yes]
        with tf.GradientTape() as tape:
            tape.watch([*learning, *inputs])
            outputs = forward(weights, inputs)
        found = iter(
            tape.gradient(
                outputs, [*learning, *inputs], output_gradients=upstream
            )
        )
        return [next(found) if yes else None for yes in learns] + list(found)

    backward.__name__ = f"{forward.__name__}_again"
    ahead, again = _traced(forward), _traced(backward)

    def function(weights: list[Any], inputs: list[Any]) -> Any:
        count = len(weights)

        @tf.custom_gradient
        def call(*arguments: Any) -> Any:
            weights, inputs = list(arguments[:count]), list(arguments[count:])

            def gradient(*upstream: Any) -> Any:
                return again(weights, inputs, list(upstream))

            return ahead(weights, inputs), gradient

        return call(*weights, *inputs)

    return function


def _zero_after(x: Any) -> Any:
    """Returns a zero that is known only once `x` is, or NaN if `x` is."""
    first = tf.reshape(x, [-1])[0]
    return tf.where(tf.math.is_nan(first), first, tf.zeros_like(first))
