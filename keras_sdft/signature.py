"""Signatures and documentation that are made from dataclasses of options.

A function that takes `**options` shows every option by name, with its default
and its text; the command's help has the same text. Must not know what an option
means. Imports `checks` alone of this library; every package may import it.
"""

import dataclasses
import inspect
import re
import textwrap
from collections.abc import Callable
from typing import Any
from typing import TypeVar

import docstring_parser

from keras_sdft import checks

_Function = TypeVar("_Function", bound=Callable)

_PLACE = re.compile(r"^ {8}\*\*options:.*(?:\n {12}.*)*", re.MULTILINE)


def takes(options: Any) -> Callable[[_Function], _Function]:
    """Returns a decorator for a function whose `**options` are a dataclass'.

    The signature names each field in the place of `**options`, and so does
    the docstring, where `**options` stands under `Args:`. The dataclass, or
    its `parts`, document the fields under `Args:`.
    """

    def decorate(function: _Function) -> _Function:
        signature = inspect.signature(function)
        own = list(signature.parameters.values())[:-1]
        first = [p for p in own if p.kind is not p.KEYWORD_ONLY]
        texts, fields = describe(options), inspect.signature(options).parameters
        named = [fields[name] for name in texts]
        function.__signature__ = signature.replace(  # type: ignore
            parameters=[*first, *named, *own[len(first) :]]
        )
        lines = [_documented(field, texts[field.name]) for field in named]
        doc = function.__doc__ or ""
        function.__doc__ = _PLACE.sub(lambda _: "\n".join(lines), doc)
        return function

    return decorate


def make(options: Any, given: dict[str, Any]) -> Any:
    """Returns the dataclass `options` of what a caller gave by name.

    Raises:
        TypeError: If an option does not exist, or a needed one is missing.
        ValueError: If one is out of its range.
    """
    names = [field.name for field in dataclasses.fields(options)]
    for name in given:
        if name not in names:
            raise TypeError(
                f"There is no option {name!r}."
                f"{checks.did_you_mean(name, names)} The options are {names}."
            )
    return options(**given)


def describe(options: Any) -> dict[str, str]:
    """Returns the text of each field of an options' dataclass, by name."""
    texts = {}
    for part in getattr(options, "parts", (options,)):
        for each in docstring_parser.parse(part.__doc__ or "").params:
            texts[each.arg_name] = " ".join((each.description or "").split())
    return texts


def _documented(field: inspect.Parameter, text: str) -> str:
    if field.default is not field.empty and "efaults to" not in text:
        text = f"{text} Defaults to `{field.default!r}`."
    lines = textwrap.wrap(f"{field.name}: {text}", 68)
    return textwrap.indent("\n    ".join(lines), " " * 8)
