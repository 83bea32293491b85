"""Flags from dataclasses: lists by repetition, one-line errors, near names.

Knows how arguments are written; not what any of them means.
"""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import json
import re
import sys
import typing
from collections.abc import Iterable
from collections.abc import Sequence
from typing import Any
from typing import NoReturn

import jsonargparse

PROGRAM = "keras-sdft"


class Parser(jsonargparse.ArgumentParser):
    """`jsonargparse.ArgumentParser` whose errors are short and helpful."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        # `--learning` for `--learning_rate` would change its meaning the
        # day a second flag begins alike.
        kwargs.setdefault("allow_abbrev", False)
        super().__init__(*args, **kwargs)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        parser = getattr(ex, "subcommand_parser", None) or self
        command = parser.prog.replace(" [options]", "")
        if command.split()[-1] == PROGRAM:
            command = PROGRAM
        text = _shorten(message) + _suggest(message, _names(parser))
        sys.stderr.write(f"{PROGRAM}: error: {text}\nSee `{command} --help`.\n")
        sys.exit(2)


def add_options(
    parser: Parser, options: type, positional: bool = False
) -> None:
    """Gives `parser` one flag for each field of the dataclass `options`.

    Each dataclass that it is made from is a group of the help, its own
    fields first. A field's metadata may have `flag`, another name for it.

    Args:
        parser: A `Parser`.
        options: A dataclass, its fields documented under `Args:`, those it
            inherits where they were first declared.
        positional: Whether fields without a default are given without a
            flag.
    """
    homes = _homes(options)
    for part in dict.fromkeys([options, *homes.values()]):
        others = {f.name for f in dataclasses.fields(part)}
        others -= {name for name, home in homes.items() if home is part}
        parser.add_class_arguments(
            part, as_positional=positional, skip=set(others)
        )
    hints = typing.get_type_hints(options)
    fields = {field.name: field for field in dataclasses.fields(options)}
    for name, field in fields.items():
        # A later class may give it another default.
        if field.default != getattr(homes[name], name, field.default):
            parser.set_defaults({name: field.default})
    for action in parser._actions:
        hint = hints.get(action.dest)
        # A bare `--overwrite` means true; `--overwrite false` stays valid.
        if bool in (hint, *typing.get_args(hint)):
            action.nargs, action.const = "?", True
        if _is_list(hint):
            of_texts = str in _item_types(hint)
            action.metavar = "TEXT [TEXT ...]" if of_texts else "N [N ...]"
        if action.dest in fields:
            _add_name(parser, action, fields[action.dest].metadata.get("flag"))


def _homes(options: type) -> dict[str, type]:
    """The class that first declares each field, later classes first."""
    classes = [c for c in options.__mro__ if dataclasses.is_dataclass(c)]
    homes: dict[str, type] = {}
    for part in reversed(classes):
        for name in part.__dict__.get("__annotations__", {}):
            homes.setdefault(name, part)
    return homes


def _add_name(parser: Parser, action: Any, flag: str | None) -> None:
    if flag is not None:
        action.option_strings.append(flag)
        parser._option_string_actions[flag] = action


def list_names(options: type) -> list[str]:
    """Returns the names of the fields that take a list."""
    hints = typing.get_type_hints(options)
    return [name for name, hint in hints.items() if _is_list(hint)]


def join_lists(arguments: Sequence[str], names: Iterable[str]) -> list[str]:
    """Rewrites `--prompt a b --prompt c` as `--prompt=["a", "b", "c"]`.

    The values are quoted, so a prompt that looks like YAML (`[a]`, `yes`,
    `1`) stays the text that was typed. Numbers are read from texts.

    Args:
        arguments: Strings, the command line.
        names: Names of the flags that take a list.

    Returns:
        A list of strings, each list flag in it at most once.
    """
    flags: dict[str, list[str]] = {f"--{name}": [] for name in names}
    result: list[str] = []
    rest = list(arguments)
    while rest:
        flag, equals, value = rest[0].partition("=")
        if flag not in flags:
            result.append(rest.pop(0))
            continue
        rest.pop(0)
        values = [value] if equals else []
        while not equals and rest and not rest[0].startswith("--"):
            values.append(rest.pop(0))
        if not values:
            result.append(flag)
        flags[flag] += values
    joined = [f"{f}={json.dumps(v)}" for f, v in flags.items() if v]
    return result + joined


def nearest(name: str, names: Iterable[str]) -> str:
    """Returns `" Did you mean ...?"`, or nothing if no name is near."""
    near = difflib.get_close_matches(name, list(names), 1, cutoff=0.6)
    return f" Did you mean '{near[0]}'?" if near else ""


def _is_list(hint: Any) -> bool:
    return bool(_item_types(hint))


def _item_types(hint: Any) -> list[type]:
    options = typing.get_args(hint) + (hint,)
    lists = [o for o in options if typing.get_origin(o) is list]
    return [item for option in lists for item in typing.get_args(option)]


def _names(parser: argparse.ArgumentParser) -> dict[str, list[str]]:
    """Collects what may be written: flags, commands, values by flag."""
    names: dict[str, list[str]] = {"": []}
    for action in parser._actions:
        flags = [f for f in action.option_strings if f.startswith("--")]
        names[""] += [f for f in flags if not f.endswith("+")]
        hint = getattr(action, "_typehint", None)
        choices = [
            str(value)
            for option in (hint, *typing.get_args(hint))
            if typing.get_origin(option) is typing.Literal
            for value in typing.get_args(option)
        ]
        names[action.dest] = choices
        if isinstance(action, argparse._SubParsersAction):
            names["subcommand"] = list(action.choices)
            for child in action.choices.values():
                names[""] += _names(child)[""]
    return names


def _shorten(message: str) -> str:
    """Makes one line of jsonargparse's account of a value."""
    key = re.search(r'Parser key "([^"]+)"', message)
    value = re.search(r"(?:Given value|Got value): (.*)", message)
    if not key or not value:
        return " ".join(message.split())
    wanted = re.search(
        r"Subtypes: \[(.*)\]|Expected an? (\S+.*?)\. Got", message
    )
    kinds = "another value"
    if wanted:
        kinds = wanted.group(1) or wanted.group(2)
    kinds = re.sub(r"<class '(\w+)'>", r"\1", kinds)
    kinds = kinds.replace("typing.Literal", "one of ")
    kinds = kinds.replace("NoneType", "null")
    return (
        f"--{key.group(1)} cannot be '{value.group(1).strip()}': "
        f"expected {kinds}."
    )


def _suggest(message: str, names: dict[str, list[str]]) -> str:
    unknown = re.search(r"unrecognized arguments: (--[^\s=]+)", message)
    if unknown:
        return "." + nearest(unknown.group(1), names[""])
    unknown = re.search(r"[Oo]ption '([^']+)'", message)
    if unknown:
        flags = [name.removeprefix("--") for name in names[""]]
        return "." + nearest(unknown.group(1), flags)
    unknown = re.search(r"invalid choice: '([^']+)'", message)
    if unknown:
        return "." + nearest(unknown.group(1), names.get("subcommand", ()))
    key = re.search(r'Parser key "([^"]+)"', message)
    value = re.search(r"Got value: (.*)|Given value: (.*)", message)
    if key and value:
        name = key.group(1).split(".")[-1]
        given = (value.group(1) or value.group(2)).strip()
        return nearest(given, names.get(name, ()))
    return ""
