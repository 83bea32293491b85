"""Checks of arguments: each kind of mistake is worded once.

Imports nothing of this library; every package may import it. Each check
returns the value, so that it can stand where the value is used.
"""

import dataclasses
import difflib
import math
import numbers
from collections.abc import Callable
from collections.abc import Iterable
from typing import Any


def nearest(value: Any, choices: Iterable[str], cutoff: float = 0.6) -> str:
    """Returns the choice most like `value`, or `""` if none is alike.

    Args:
        value: What was given; its text is compared.
        choices: Strings.
        cutoff: Float in [0, 1], how alike it must be.
    """
    found = difflib.get_close_matches(str(value), list(choices), 1, cutoff)
    return found[0] if found else ""


def did_you_mean(value: Any, choices: Iterable[str]) -> str:
    """Returns `" Did you mean 'x'?"`, or `""` if nothing is alike."""
    near = nearest(value, choices)
    return f" Did you mean {near!r}?" if near else ""


def one_of(name: str, value: Any, choices: Iterable[str]) -> Any:
    """Returns `value` if it is one of `choices`.

    Args:
        name: String, the argument's name.
        value: What was given.
        choices: Strings.

    Raises:
        ValueError: If it is none of them; with the nearest one.
    """
    choices = list(choices)
    if isinstance(value, str) and value in choices:
        return value
    raise ValueError(
        f"`{name}` must be one of {choices}. Received: {name}={value!r}."
        f"{did_you_mean(value, choices)}"
    )


def integer(
    name: str,
    value: Any,
    minimum: int | None = None,
    maximum: int | None = None,
) -> int:
    """Returns `value` if it is an integer within the limits.

    Args:
        name: String, the argument's name.
        value: What was given; NumPy's integers are integers, booleans not.
        minimum: Integer or `None`.
        maximum: Integer or `None`.

    Raises:
        ValueError: If it is none, or outside.
    """
    whole = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    if whole and _within(value, minimum, maximum):
        return int(value)
    raise ValueError(
        f"`{name}` must be an integer{_limits(minimum, maximum)}. "
        f"Received: {name}={value!r}."
    )


def number(
    name: str,
    value: Any,
    minimum: float | None = None,
    maximum: float | None = None,
    above: float | None = None,
    below: float | None = None,
) -> Any:
    """Returns `value` if it is a finite number within the limits.

    Args:
        name: String, the argument's name.
        value: What was given; booleans are no numbers.
        minimum: Float or `None`, the smallest valid number.
        maximum: Float or `None`, the largest valid number.
        above: Float or `None`, which the number must exceed.
        below: Float or `None`, which the number must stay below.

    Raises:
        ValueError: If it is none, not finite, or outside.
    """
    real = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if (
        real
        and math.isfinite(value)
        and _within(value, minimum, maximum)
        and (above is None or value > above)
        and (below is None or value < below)
    ):
        return value
    raise ValueError(
        f"`{name}` must be a finite number"
        f"{_limits(minimum, maximum, above, below)}. "
        f"Received: {name}={value!r}."
    )


def boolean(name: str, value: Any) -> bool:
    """Returns `value` if it is a boolean.

    Raises:
        ValueError: If it is none.
    """
    if isinstance(value, bool):
        return value
    raise ValueError(
        f"`{name}` must be True or False. Received: {name}={value!r}."
    )


def text(name: str, value: Any, blank: bool = False) -> str:
    """Returns `value` if it is a string that is not empty.

    Args:
        name: String, the argument's name.
        value: What was given.
        blank: Boolean, whether it may be white space alone.

    Raises:
        ValueError: If it is none.
    """
    if isinstance(value, str) and (value if blank else value.strip()):
        return value
    raise ValueError(
        f"`{name}` must be a string that is not empty. "
        f"Received: {name}={value!r}."
    )


def multiple_of(name: str, value: Any, step: int, unit: str = "") -> int:
    """Returns `value` if it is a positive multiple of `step`.

    Args:
        name: String, the argument's name.
        value: What was given.
        step: Integer >= 1.
        unit: String after the step in the error, `" pixels"` for example.

    Raises:
        ValueError: If it is none; with the nearest that is.
    """
    whole = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    if whole and value > 0 and value % step == 0:
        return int(value)
    near = ""
    if isinstance(value, numbers.Real) and math.isfinite(value):
        near = (
            f" Nearest valid: {max(step, round(float(value) / step) * step)}."
        )
    raise ValueError(
        f"`{name}` must be a multiple of {step}{unit}. "
        f"Received: {name}={value!r}.{near}"
    )


def counts(options: Any, *names: str) -> None:
    """Refuses fields that are given and no integers of at least 1."""
    for name in names:
        if getattr(options, name) is not None:
            integer(name, getattr(options, name), 1)


def optional(check: Callable[..., Any], name: str, value: Any, *limits: Any):
    """Returns `value` if it is `None`, or as `check` does."""
    return None if value is None else check(name, value, *limits)


def exclusive(**given: Any) -> str:
    """Returns the name of the one argument that is not `None`.

    Raises:
        ValueError: If none or several are given.
    """
    found = [name for name, value in given.items() if value is not None]
    if len(found) == 1:
        return found[0]
    names = " and ".join(f"`{name}`" for name in given)
    values = ", ".join(f"{name}={value!r}" for name, value in given.items())
    raise ValueError(f"Give exactly one of {names}. Received: {values}.")


def effective(
    options: Any, names: Iterable[str], owner: str, *values: Any
) -> None:
    """Refuses options that were set and have no effect.

    Args:
        options: A dataclass.
        names: Names of its fields, each with a default.
        owner: String, the field that gives them an effect.
        *values: Its values that do. None stands for any but an empty one.

    Raises:
        ValueError: If one of `names` is not at its default while `owner`
            has another value.
    """
    found = getattr(options, owner)
    if found in values if values else found not in (None, False, "", 0):
        return
    wanted = f"`{owner}`"
    if values and values != (True,):
        wanted = " or ".join(f"`{owner}={value}`" for value in values)
    for field in dataclasses.fields(options):
        value = getattr(options, field.name)
        if field.name in names and value != field.default:
            raise ValueError(
                f"`{field.name}` has no effect without {wanted}. Received: "
                f"{field.name}={value!r}, {owner}={found!r}. Add the one or "
                "leave out the other."
            )


def _within(value: Any, minimum: Any, maximum: Any) -> bool:
    return (minimum is None or value >= minimum) and (
        maximum is None or value <= maximum
    )


def _limits(
    minimum: Any, maximum: Any, above: Any = None, below: Any = None
) -> str:
    if minimum is not None and maximum is not None:
        return f" in [{minimum}, {maximum}]"
    if minimum is not None and below is not None:
        return f" in [{minimum}, {below})"
    if above is not None and maximum is not None:
        return f" in ({above}, {maximum}]"
    signs = ((minimum, ">="), (above, ">"), (maximum, "<="), (below, "<"))
    texts = [f"{sign} {limit}" for limit, sign in signs if limit is not None]
    return f" {' and '.join(texts)}" if texts else ""
