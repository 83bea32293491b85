"""A step with side effects on variables, as a compiled pure function.

Must not know what a step computes.
"""

from collections.abc import Callable
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import jax
import keras

Variables = list[list[Any]]


class CompiledStep:
    """What `fit` and `evaluate` call for each batch.

    Keras hands over the values of the variables that a step changes, which
    are in no variable meanwhile, and takes the new ones. What a step reads
    beside them, weights of frozen networks above all, is an argument too:
    the compiled program would else hold it as constants.

    Args:
        step: Function of a batch that reads and assigns variables, and
            returns logs.
        state: Lists of the variables that it changes.
        frozen: List of those that it reads alone.
        devices: A `keras.distribution.Distribution`, or `None`.
        eager: Boolean, whether it is run as it is, not compiled.
        steps: Integer >= 1, batches of one call.
        arrays: `WholeArrays` of several processes, or `None`.

    Attributes:
        ran: Integer, how many batches the last call had: at the end of the
            data they are fewer than `steps`.
    """

    def __init__(
        self,
        step: Callable[[Any], Any],
        state: Variables,
        frozen: list[Any],
        devices: Any = None,
        eager: bool = False,
        steps: int = 1,
        arrays: Any = None,
    ):
        known = {id(variable) for variables in state for variable in variables}
        self.step = step
        self.state = state
        self.frozen = [v for v in frozen if id(v) not in known]
        self.devices = devices
        self.eager = eager
        self.steps = steps
        self.ran = 0
        self.arrays = arrays
        # The values of all processes, beside those they were made of.
        self._frozen_of_all: list[tuple[Any, Any]] = []
        self._functions: dict[Any, Callable[..., Any]] = {}

    def __call__(
        self,
        state: Any,
        iterator: Any,
        most: int | None = None,
        kind: Any = None,
    ) -> Any:
        """Runs the step on the next batches.

        Args:
            state: Lists of the values of `state`.
            iterator: Iterator of batches.
            most: Integer >= 1, of how many batches. Defaults to `steps`.
            kind: Hashable; what the step does by Python's decisions is
                compiled once for each.

        Returns:
            Tuple of the last batch's logs and the new state.

        Raises:
            StopIteration: If there is no batch.
        """
        frozen = [variable.value for variable in self.frozen]
        if self.arrays is not None:
            state = jax.tree.map(self.arrays.whole, state)
            frozen = self._of_all(frozen)
        if kind not in self._functions:
            self._functions[kind] = self._compiled(state)
        function = self._functions[kind]
        self.ran = 0
        try:
            for _ in range(most or self.steps):
                batch = next(iterator, None)
                if batch is None and not self.ran:
                    raise StopIteration
                if batch is None:
                    break
                batch, _, _ = keras.utils.unpack_x_y_sample_weight(batch)
                if self.arrays is not None:
                    batch = jax.tree.map(self.arrays.rows, batch)
                logs, state = function(state, batch, frozen)
                self.ran += 1
        except BaseException:
            self._put_back(state)
            raise
        return logs, state

    def _of_all(self, values: list[Any]) -> list[Any]:
        """Returns values of this process as those of all of them."""
        known = self._frozen_of_all or [(None, None)] * len(values)
        self._frozen_of_all = [
            pair if pair[0] is value else (value, self.arrays.whole(value))
            for value, pair in zip(values, known, strict=True)
        ]
        return [whole for _, whole in self._frozen_of_all]

    def _put_back(self, state: Any) -> None:
        """Puts values into the variables, which have none meanwhile."""
        for variables, values in zip(self.state, state, strict=True):
            for variable, value in zip(variables, values, strict=True):
                if not value.is_deleted():
                    own = self.arrays.own(value) if self.arrays else value
                    variable.assign(own)

    def _compiled(self, state: Any) -> Callable[..., Any]:
        if self.eager:
            return self.pure
        shardings = None
        if self.devices is not None:
            # Where the state lies must not change from step to step.
            shardings = (None, jax.tree.map(lambda x: x.sharding, state))
        # A function of its own: JAX traces equal ones, such as `self.pure`
        # each time, only once.
        pure = partial(self.pure)
        return jax.jit(pure, donate_argnums=0, out_shardings=shardings)

    def pure(self, state: Any, batch: Any, frozen: Any) -> tuple[Any, Any]:
        """Returns the logs and the new state; changes no variable."""
        variables, values = [*self.state, self.frozen], [*state, frozen]
        pairs = [
            pair
            for some in zip(variables, values, strict=True)
            for pair in zip(*some, strict=True)
        ]
        with keras.StatelessScope(state_mapping=pairs):
            logs = self.step(batch)
            state = tuple([v.value for v in found] for found in self.state)
        return logs, state


@contextmanager
def values_in(variables: list[Any], values: list[Any]) -> Iterator[None]:
    """Context manager in which some variables have other values.

    All others keep those that they have in the scope around it, which a
    scope of Keras would not see.
    """
    outside = [v.value for v in variables]
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)
    try:
        yield
    finally:
        for variable, value in zip(variables, outside, strict=True):
            variable.assign(value)
