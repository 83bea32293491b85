"""Flags from dataclasses: how they are written, read and converted."""

from __future__ import annotations

import argparse
import dataclasses
import types
import typing
from collections.abc import Callable
from collections.abc import Collection
from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
from importlib import resources
from typing import Any
from typing import Literal

import docstring_parser
import jsonargparse
import yaml

from keras_sdft import parsing
from keras_sdft.checks import did_you_mean

# A bare `--overwrite` means true; these may follow it.
_BOOLEANS = ("true", "false", "null", "yes", "no")
_MAX_CONFIG_BYTES = 1_000_000
# Flags as diffusers, kohya's scripts and OneTrainer spell them, by ours.
_SPELLINGS = resources.files("keras_sdft.cli").joinpath("spellings.yaml")
OTHER_SPELLINGS: dict[str, str] = yaml.safe_load(_SPELLINGS.read_text())
_KINDS = {int: "an integer", float: "a number", str: "text"}


class UsageError(ValueError):
    """A flag, or its value, that cannot be read."""


@dataclasses.dataclass(frozen=True)
class Flag:
    """A field of a group as it is written on the command line."""

    name: str
    hint: Any
    # `dataclasses.MISSING` if it must be given.
    default: Any
    text: str
    group: type
    # Another name, or `None`.
    alias: str | None
    # Of one that takes an address of the Hub: names its commit.
    pinned: Callable[[Any], Any] | None

    @property
    def is_required(self) -> bool:
        return self.default is dataclasses.MISSING

    @property
    def types(self) -> list[Any]:
        """The types of a union, or the one type."""
        unions = (typing.Union, types.UnionType)
        is_union = typing.get_origin(self.hint) in unions
        return list(typing.get_args(self.hint)) if is_union else [self.hint]

    @property
    def lists(self) -> list[Any]:
        return [t for t in self.types if typing.get_origin(t) in (list, tuple)]

    @property
    def choices(self) -> list[str]:
        found = [t for t in self.types if typing.get_origin(t) is Literal]
        return [value for each in found for value in typing.get_args(each)]

    @property
    def metavar(self) -> str:
        if bool in self.types:
            return "[true|false]"
        if self.choices:
            return f"{{{','.join(self.choices)}}}"
        items = [item for each in self.lists for item in typing.get_args(each)]
        word = "TEXT" if str in [*self.types, *items] else "N"
        return f"{word} [{word} ...]" if self.lists else word

    @property
    def kinds(self) -> str:
        """What a value must be, for an error."""
        kinds = [_KINDS[t] for t in self.types if t in _KINDS]
        if bool in self.types:
            kinds = ["true", "false"]
        elif self.choices:
            kinds = [f"one of {self.choices}"]
        elif self.lists:
            kinds = [f"a list as in `--{self.name} {self.metavar}`"]
        if type(None) in self.types:
            kinds.append("null")
        return " or ".join(kinds)

    def converted(self, value: Any) -> Any:
        """Returns a value of the flag's type, of words or what YAML held."""
        parser = jsonargparse.ArgumentParser(exit_on_error=False)
        parser.add_argument("--value", type=self.hint)
        try:
            return parser.parse_object({"value": value}).value
        except argparse.ArgumentError as error:
            raise UsageError(
                f"`{self.name}` must be {self.kinds}. Received: "
                f"{self.name}={value!r}.{did_you_mean(value, self.choices)}"
            ) from error


class Flags:
    """The flags of one command; see `Command` for the arguments."""

    def __init__(
        self,
        groups: Iterable[type],
        defaults: Mapping[str, Any] | None = None,
        positionals: Sequence[str] = (),
    ) -> None:
        self.positionals = positionals
        self.by_name: dict[str, Flag] = {}
        for group in groups:
            for flag in _flags_of(group, defaults or {}):
                self.by_name.setdefault(flag.name, flag)

    def read(
        self,
        arguments: Sequence[str],
        expand: Callable[[dict[str, Any], list[str]], None] | None = None,
    ) -> tuple[dict[str, Any], set[str]]:
        """Returns the value of each flag, and the names of those given.

        What is on the command line, without program and command, goes
        before what is in the files of `--config`, and of those the last one
        goes first. `expand` may add to what is given and to these files.

        Raises:
            UsageError: If a flag or value is wrong, or one is missing.
        """
        given, paths = self._split(arguments)
        if expand is not None:
            expand(given, paths)
        values: dict[str, Any] = {}
        for path in paths:
            values |= self._read_file(path)
        values |= given
        missing = [
            f"`{name.upper()}`" if name in self.positionals else f"`--{name}`"
            for name, flag in self.by_name.items()
            if flag.is_required and values.get(name) is None
        ]
        if missing:
            verb = "is" if len(missing) == 1 else "are"
            raise UsageError(f"{' and '.join(missing)} {verb} required.")
        read = {name: flag.default for name, flag in self.by_name.items()}
        for name, value in values.items():
            read[name] = self.by_name[name].converted(value)
        return read, set(values)

    def _split(
        self, arguments: Sequence[str]
    ) -> tuple[dict[str, Any], list[str]]:
        """Returns the values of flags, and the files of `--config`."""
        given: dict[str, Any] = {}
        paths: list[str] = []
        rest = list(arguments)
        while rest:
            word = rest.pop(0)
            name, equals, value = word.partition("=")
            if not word.startswith("-"):
                name = self._place(word, given)
                lists = self.by_name[name].lists
                given[name] = [*given.get(name, ()), word] if lists else word
            elif name == "--config":
                paths.append(value if equals else _next(name, rest))
            else:
                flag = self._find(name)
                values = [value] if equals else _values_after(name, flag, rest)
                if flag.lists:
                    values = given.get(flag.name, []) + values
                given[flag.name] = values if flag.lists else values[0]
        for name, found in given.items():
            is_text = str in self.by_name[name].types
            if isinstance(found, list) and len(found) == 1 and is_text:
                given[name] = found[0]
        return given, paths

    def _place(self, word: str, given: Mapping[str, Any]) -> str:
        """Returns the flag that a word without one is the value of."""
        for name in self.positionals:
            if name not in given or self.by_name[name].lists:
                return name
        raise UsageError(f"{word!r} stands without a flag.")

    def _find(self, word: str) -> Flag:
        for flag in self.by_name.values():
            if word in (f"--{flag.name}", f"--{flag.alias}"):
                return flag
        known = [f"--{name}" for name in [*self.by_name, "config", "help"]]
        hint = _hint(word, known)
        raise UsageError(f"There is no flag {word!r}.{hint}")

    def _read_file(self, path: str) -> dict[str, Any]:
        try:
            content = parsing.read_yaml(path, _MAX_CONFIG_BYTES)
        except OSError as error:
            raise UsageError(
                f"`--config` cannot be read. Received: {path!r}: "
                f"{error.strerror or error}."
            ) from error
        # PyYAML raises nearly every class of error on a damaged file.
        except Exception as error:
            reason = " ".join(str(error).split())[:300]
            raise UsageError(f"{path} is no valid YAML: {reason}") from error
        content = {} if content is None else content
        if not isinstance(content, dict):
            raise UsageError(
                f"{path} must hold lines `flag: value`. Received: "
                f"{type(content).__name__}."
            )
        names = {f.alias: f.name for f in self.by_name.values() if f.alias}
        for name in content:
            if name not in self.by_name and name not in names:
                hint = _hint(str(name), self.by_name)
                raise UsageError(f"{path}: there is no flag {name!r}.{hint}")
        return {names.get(name, name): v for name, v in content.items()}


def _flags_of(group: type, defaults: Mapping[str, Any]) -> Iterator[Flag]:
    hints = typing.get_type_hints(group)
    documented = docstring_parser.parse(group.__doc__ or "").params
    texts = {each.arg_name: each.description or "" for each in documented}
    for field in dataclasses.fields(group):
        yield Flag(
            field.name,
            hints[field.name],
            defaults.get(field.name, field.default),
            " ".join(texts.get(field.name, "").split()),
            group,
            field.metadata.get("alias"),
            field.metadata.get("pinned"),
        )


def _values_after(name: str, flag: Flag, rest: list[str]) -> list[str]:
    """Takes the values of a flag from the words after it."""
    if bool in flag.types:
        follows = rest and rest[0].lower() in _BOOLEANS
        return [rest.pop(0) if follows else "true"]
    values = [_next(name, rest)]
    while flag.lists and rest and not rest[0].startswith("--"):
        values.append(rest.pop(0))
    return values


def _next(name: str, rest: list[str]) -> str:
    if not rest or rest[0].startswith("--"):
        raise UsageError(f"`{name}` needs a value after it.")
    return rest.pop(0)


def _hint(word: str, known: Collection[str]) -> str:
    ours = our_spelling(word, known)
    return f" Here it is {ours}." if ours else did_you_mean(word, known)


def our_spelling(theirs: str, known: Collection[str]) -> str:
    """Returns which of the known flags `theirs` is, `""` for none."""
    name = theirs.lstrip("-").replace("-", "_")
    dashes = "--" if theirs.startswith("-") else ""
    for ours, others in OTHER_SPELLINGS.items():
        if name in others.split() and f"{dashes}{ours}" in known:
            return f"`{dashes}{ours}`"
    return ""
