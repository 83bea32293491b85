"""Groups of variables, each with an optimizer and an end, as one optimizer.

Must not know models or losses.
"""

import dataclasses
from typing import Any

import keras
from keras import ops

from keras_sdft.training import backend
from keras_sdft.training import optimizers
from keras_sdft.training.parts import Group
from keras_sdft.training.schedules import WarmUpSchedule


class OptimizerGroups(keras.optimizers.Optimizer):
    """Applies to each group of variables its own optimizer.

    Gradients are clipped together, to `clipnorm` of one global norm; what
    clipping a group's optimizer has of its own comes after. A group whose
    stop step is reached stays as it is, and so does its optimizer.

    Args:
        groups: List of `Group`, each with an optimizer of its own.
        clipnorm: Float, the largest global norm of all gradients, or
            `None`.

    Raises:
        ValueError: If two groups have one optimizer, or one scales the
            loss.
    """

    def __init__(
        self,
        groups: list[Group],
        clipnorm: float | None = None,
        name: str = "optimizer_groups",
    ):
        self._check([group.optimizer for group in groups])
        super().__init__(learning_rate=0.0, name=name)
        self.groups = tuple(groups)
        self.joint_clipnorm = clipnorm
        # Which groups still learn, where that is known before a step is
        # traced; `None` lets the graph decide.
        self.running: tuple[bool, ...] | None = None

    @staticmethod
    def _check(found: list[Any]) -> None:
        if len({id(optimizer) for optimizer in found}) < len(found):
            raise ValueError(
                "Each part of `train` must have an optimizer object of its "
                "own: an optimizer keeps the state of its own variables."
            )
        for optimizer in found:
            scales = isinstance(optimizer, keras.optimizers.LossScaleOptimizer)
            if scales or optimizer.loss_scale_factor:
                raise ValueError(
                    "With several optimizers none may scale the loss; "
                    "`mixed_float16` does so by itself. Received: "
                    f"{optimizer}."
                )

    @property
    def optimizers(self) -> tuple[Any, ...]:
        """The optimizer of each group."""
        return tuple(group.optimizer for group in self.groups)

    @property
    def checks_gradients(self) -> bool:
        """Whether an update fails before it writes a weight that is NaN."""
        return bool(self.joint_clipnorm)

    @property
    def stops(self) -> bool:
        """Whether a group has a stop step."""
        return any(group.stop_step is not None for group in self.groups)

    @property
    def learning_rate(self) -> Any:
        """The first group's."""
        return self.optimizers[0].learning_rate

    @learning_rate.setter
    def learning_rate(self, learning_rate: Any) -> None:
        self.optimizers[0].learning_rate = learning_rate

    def build(self, variables: list[Any]) -> None:
        """Builds the optimizers, each for its own variables."""
        if self.built:
            return
        super().build(variables)
        for group in self.groups:
            group.optimizer.build(group.variables)

    @property
    def variables(self) -> list[Any]:
        own = list(super().variables)
        return own + [v for one in self.optimizers for v in one.variables]

    def running_now(self) -> tuple[bool, ...]:
        """Returns which groups still learn; not inside of a graph."""
        return self.running_at(int(self.iterations.numpy()))

    def running_at(self, step: int) -> tuple[bool, ...]:
        """Returns which groups still learn after `step` steps."""
        return tuple(
            group.stop_step is None or step < group.stop_step
            for group in self.groups
        )

    def steps_alike(self, step: int, most: int) -> int:
        """Returns in how many steps, at most `most`, the same groups learn.

        Args:
            step: Integer, the steps before them.
            most: Integer >= 1.
        """
        stops = [group.stop_step for group in self.groups]
        return min(
            [most, *(stop - step for stop in stops if stop and stop > step)]
        )

    def known_running(self) -> tuple[bool, ...] | None:
        """Returns which groups learn in this step; `None` if not known yet."""
        if self.running is not None:
            return self.running
        if not self.stops:
            return (True,) * len(self.groups)
        known = backend.module("operations").is_known(self.iterations)
        return self.running_now() if known else None

    def apply(self, grads: list[Any], trainable_variables: Any = None) -> None:
        """Updates the groups of the variables.

        Args:
            grads: List of gradients.
            trainable_variables: List of their variables; those of groups
                that have stopped may be left out. Defaults to all.
        """
        every = [v for group in self.groups for v in group.variables]
        self.build(every)
        if trainable_variables is None:
            trainable_variables = every
        pairs = zip(trainable_variables, grads, strict=True)
        by_variable = {id(variable): grad for variable, grad in pairs}
        steps = [
            _masked([by_variable[id(v)] for v in group.variables], runs)
            for group, runs in self._conditions()
        ]
        scale = self._clip_scale(steps, len(every))
        for (group, runs), found in zip(self._conditions(), steps, strict=True):
            _apply(group, _scaled(found, scale), runs)
        self.iterations.assign_add(1)

    def _conditions(self) -> list[tuple[Group, Any]]:
        """Returns the groups that may learn, each with a tensor or `None`."""
        known = self.known_running()
        if known is not None:
            pairs = zip(self.groups, known, strict=True)
            return [(group, None) for group, runs in pairs if runs]
        return [
            (
                group,
                None
                if group.stop_step is None
                else self.iterations < group.stop_step,
            )
            for group in self.groups
        ]

    def _clip_scale(self, steps: list[list[Any]], count: int) -> Any:
        limit = self.joint_clipnorm
        if not limit:
            return None
        every = [grad for grads in steps for grad in grads]
        norm = backend.module("operations").global_norm(every, count)
        # A group's optimizer may clip to the same limit again: within it,
        # that changes nothing.
        return limit / ops.maximum(norm, limit)

    def finalize_variable_values(self, var_list: list[Any]) -> None:
        for group in self.groups:
            group.optimizer.finalize_variable_values(group.variables)

    def get_config(self) -> dict[str, Any]:
        raise NotImplementedError(
            "Groups of variables are not serialized: `Trainer.compile` makes "
            "them from the parts that learn."
        )


def _masked(grads: list[Any], runs: Any) -> list[Any]:
    """Returns the gradients, zeros where the group has stopped."""
    if runs is None:
        return grads
    # What no longer learns takes no part in the global norm.
    kept = ops.cast(runs, "float32")
    return [grad * kept for grad in grads]


def _scaled(grads: list[Any], scale: Any) -> list[Any]:
    return grads if scale is None else [grad * scale for grad in grads]


def _apply(group: Group, grads: list[Any], runs: Any) -> None:
    def update() -> None:
        group.optimizer.apply(grads, group.variables)

    if runs is None:
        update()
    else:
        ops.cond(runs, update, lambda: None)


# === Made from what learns ===


def make_optimizer(optimizer: Any, groups: list[Group]) -> Any:
    """Makes one optimizer for all that learns.

    Args:
        optimizer: A Keras optimizer, its name, or `None`: for the groups
            that have none of their own.
        groups: List of `Group`, of `Part.groups`.

    Returns:
        A `keras.optimizers.Optimizer`: `OptimizerGroups`, or the only
        optimizer if there is one that never stops.

    Raises:
        ValueError: If `optimizer` is for no group, or an optimizer for two.
    """
    main = optimizers.get(optimizer)
    shared = [group for group in groups if not _has_own(group)]
    if optimizer is not None and all(g.optimizer is not None for g in groups):
        raise ValueError(
            "`optimizer` has nothing to train: each part of `train` has an "
            f"optimizer of its own. Received: optimizer={optimizer!r}. Leave "
            "it out."
        )
    result = []
    for group in groups:
        if _has_own(group):
            own = _own_optimizer(group, main)
            result.append(dataclasses.replace(group, optimizer=own))
        elif group is shared[0]:
            variables = [v for other in shared for v in other.variables]
            result.append(Group(variables, optimizer=main))
    if len(result) == 1 and result[0].stop_step is None:
        return result[0].optimizer
    return OptimizerGroups(result, result[0].optimizer.global_clipnorm)


def _has_own(group: Group) -> bool:
    own = (group.learning_rate, group.optimizer, group.stop_step)
    return any(value is not None for value in own)


def _own_optimizer(group: Group, main: Any) -> Any:
    if group.optimizer is not None:
        return optimizers.get(group.optimizer)
    # The same configuration, without the state.
    config = main.get_config()
    if group.learning_rate is not None:
        config["learning_rate"] = _rate(
            config["learning_rate"], group.learning_rate
        )
    return type(main).from_config(config)


def _rate(main: Any, learning_rate: float) -> Any:
    """Returns a rate, or a schedule in the proportions of the main one's."""
    if isinstance(main, (int, float)):
        return learning_rate
    schedule = keras.optimizers.schedules.deserialize(main)
    if isinstance(schedule, WarmUpSchedule):
        return schedule.with_peak(learning_rate)
    raise ValueError(
        "A part's `learning_rate` scales a "
        "`keras_sdft.training.schedules.WarmUpSchedule`. Received: "
        f"{type(schedule).__name__}. Give the part an `optimizer` instead."
    )


# === In a training step ===


def find_groups(optimizer: Any) -> OptimizerGroups | None:
    """Returns the groups in an optimizer, itself or wrapped, or `None`."""
    inner = getattr(optimizer, "inner_optimizer", optimizer)
    return inner if isinstance(inner, OptimizerGroups) else None


def learning(optimizer: Any, variables: list[Any]) -> list[Any]:
    """Returns the variables whose gradients a step needs.

    Args:
        optimizer: Any optimizer.
        variables: List of all `keras.Variable` that it trains.
    """
    groups = find_groups(optimizer)
    known = None if groups is None else groups.known_running()
    if groups is None or known is None:
        return variables
    pairs = zip(groups.groups, known, strict=True)
    running = {id(v) for group, runs in pairs if runs for v in group.variables}
    return [variable for variable in variables if id(variable) in running]


def learning_rate_of(optimizer: Any) -> Any:
    """Returns the learning rate of the next step, that of the first group."""
    # Of a `LossScaleOptimizer`, that of the one inside.
    return getattr(optimizer, "inner_optimizer", optimizer).learning_rate
