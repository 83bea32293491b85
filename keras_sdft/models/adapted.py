"""Layers whose output adapters add to, without a change of the layer.

An adapter is kept beside its layer and not tracked by it: the layer's
variables, their paths and the weight files stay those of the base. Works for
every Keras layer, KerasCV's included. Must not know what an adapter computes.
"""

import contextlib
import contextvars
from collections.abc import Iterator
from typing import Any
from typing import Protocol

from keras_sdft import keras_internals


class Adapter(Protocol):
    """What can be attached to a layer.

    Attributes:
        variables: List of `keras.Variable`, all that `__call__` reads.
        kind: Hashable; equal for two adapters only if they compute the same
            from their variables.
    """

    @property
    def variables(self) -> list[Any]: ...

    @property
    def kind(self) -> Any: ...

    def inputs(self, inputs: Any) -> Any:
        """Returns what the layer itself is called with."""

    def __call__(self, inputs: Any, outputs: Any, base: Any) -> Any:
        """Returns the adapted outputs.

        Args:
            inputs: The layer's inputs, before `inputs` changed them.
            outputs: Its outputs, with other adapters in them.
            base: Its outputs without any adapter.
        """


_enabled: contextvars.ContextVar[bool] = contextvars.ContextVar(
    "adapters_enabled", default=True
)


@contextlib.contextmanager
def adapters_disabled() -> Iterator[None]:
    """Context manager in which layers compute what their base computes."""
    token = _enabled.set(False)
    try:
        yield
    finally:
        _enabled.reset(token)


class _Slot:
    """The adapters of one layer, and the layer's own `call`."""

    def __init__(self, layer: Any):
        # What the layer, and not its class, was given, see `frozen_kernels`.
        self.own_call = vars(layer).get("call")
        self.base_call = layer.call
        self.adapters: list[Adapter] = []

    def call(self, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        adapters = self.adapters if _enabled.get() else []
        given = inputs
        for adapter in self.adapters:
            given = adapter.inputs(given)
        base = outputs = self.base_call(given, *args, **kwargs)
        for adapter in adapters:
            outputs = adapter(inputs, outputs, base)
        return outputs


def attach(layer: Any, adapter: Adapter) -> None:
    """Attaches an adapter to a built layer.

    Graphs that were traced before do not contain it: see `forget_graphs`.

    Args:
        layer: A built `keras.Layer`.
        adapter: An `Adapter`.
    """
    slot = getattr(layer, "adapter_slot", None)
    if slot is None:
        # A plain object: Keras tracks neither it nor what it holds.
        slot = _Slot(layer)
        layer.adapter_slot = slot
        layer.call = slot.call
    slot.adapters.append(adapter)


def detach(layer: Any, adapter: Adapter) -> None:
    """Removes an adapter from a layer; the last one leaves the base alone.

    Args:
        layer: The layer it was attached to.
        adapter: The `Adapter`.
    """
    slot = layer.adapter_slot
    slot.adapters.remove(adapter)
    if not slot.adapters:
        # Instance attributes; the class' own `call` is underneath.
        del layer.call
        del layer.adapter_slot
        if slot.own_call is not None:
            layer.call = slot.own_call


def adapters_of(layer: Any) -> list[Adapter]:
    """Returns the adapters that a layer computes with now."""
    slot = getattr(layer, "adapter_slot", None)
    return [] if slot is None or not _enabled.get() else list(slot.adapters)


def variables_read(layer: Any) -> list[Any]:
    """Returns what a layer reads: its variables and those of its adapters.

    Kernels of int8 have a scale beside them, see `frozen_kernels`.
    """
    return [
        *layer.variables,
        *(v.scale for v in layer.variables if hasattr(v, "scale")),
        *(
            variable
            for part in keras_internals.flatten_layers(layer)
            for adapter in adapters_of(part)
            for variable in adapter.variables
        ),
    ]


def forget_graphs(model: Any) -> None:
    """Makes a model trace `predict`, `fit` and `evaluate` anew.

    Args:
        model: A `keras.Model` whose layers got or lost adapters.
    """
    for name in ("predict", "train", "test"):
        setattr(model, f"{name}_function", None)
    model.compiled_call = None
