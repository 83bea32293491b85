"""AdamW's update of one variable, traced once for all of them.

Python takes about half a millisecond for every operation it adds to a
graph, and a network has hundreds of variables. Must not know optimizers'
settings: it gets numbers.
"""

from collections.abc import Callable
from typing import Any

import tensorflow as tf


class SharedUpdate:
    """Updates variables by functions that take any shape.

    Args:
        scalars: Dict of float32 scalars: those of `apply_adam`, `clip` that
            gradients are scaled by, and `lost` that decay takes of a
            weight.
        constants: Dict of floats, the rest. The graph optimizer would make
            a function of its own for a call with a constant.
    """

    def __init__(self, scalars: dict[str, Any], constants: dict[str, float]):
        self.constants = constants
        self.names = tuple(scalars)
        self.scalars = list(scalars.values())
        self._functions: dict[Any, Any] = {}

    def __call__(
        self,
        variable: Any,
        momentum: Any,
        velocity: Any,
        gradient: Any,
        decays: bool,
    ) -> None:
        """Clips, decays and updates one variable.

        Args:
            variable: A `tf.Variable`.
            momentum: A `tf.Variable` of the same shape and dtype.
            velocity: Likewise.
            gradient: Tensor of the same shape.
            decays: Boolean, whether the weight decays.
        """
        kind = (variable.dtype, gradient.dtype, decays)
        if kind not in self._functions:
            self._functions[kind] = self._function(*kind)
        handles = [v.handle for v in (variable, momentum, velocity)]
        tf.raw_ops.StatefulPartitionedCall(
            args=[*handles, gradient, *self.scalars],
            Tout=[],
            f=self._functions[kind],
        )

    def _function(self, dtype: Any, gradient_dtype: Any, decays: bool) -> Any:
        def update(
            variable: Any, m: Any, v: Any, gradient: Any, *numbers: Any
        ) -> None:
            scalars = dict(zip(self.names, numbers, strict=True))
            scalars.update(self.constants)
            clip, lost = scalars.pop("clip"), scalars.pop("lost")
            if decays:
                weight = tf.raw_ops.ReadVariableOp(
                    resource=variable, dtype=dtype
                )
                # In place: a weight that is assigned moves to other memory,
                # and leaves a gap there.
                tf.raw_ops.AssignSubVariableOp(
                    resource=variable, value=weight * tf.cast(lost, dtype)
                )
            gradient = gradient * tf.cast(clip, gradient.dtype)
            apply_adam(variable, m, v, tf.cast(gradient, dtype), scalars)

        handle = tf.TensorSpec((), tf.resource)
        return tf.function(
            update,
            autograph=False,
            # Inlined, each call would be optimized anew.
            experimental_attributes={"_noinline": True},
        ).get_concrete_function(
            *[handle] * 3,
            tf.TensorSpec(None, gradient_dtype),
            *[tf.TensorSpec((), tf.float32)] * len(self.names),
        )


def nameless_variables() -> Any:
    """Context manager that makes TensorFlow's variables without a name.

    Half a millisecond less for each: TensorFlow makes a function of the
    operation that makes a variable, and its name is a part of it. Names in
    Keras stay.
    """

    def create(next_creator: Callable[..., Any], **kwargs: Any) -> Any:
        return next_creator(**{**kwargs, "name": None})

    return tf.variable_creator_scope(create)


def apply_adam(
    variable: Any,
    momentum: Any,
    velocity: Any,
    gradient: Any,
    scalars: dict[str, Any],
) -> None:
    """Adam's step by one kernel, in place.

    Args:
        variable: Handle of a variable.
        momentum: Handle of its first moment.
        velocity: Handle of its second moment.
        gradient: Tensor of the variable's shape and dtype.
        scalars: Dict of the kernel's other arguments.
    """
    dtype = gradient.dtype
    tf.raw_ops.ResourceApplyAdam(
        var=variable,
        m=momentum,
        v=velocity,
        grad=gradient,
        use_locking=False,
        use_nesterov=False,
        **{name: tf.cast(value, dtype) for name, value in scalars.items()},
    )
