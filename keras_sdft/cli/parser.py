"""Flags from dataclasses: how they are written, read and converted."""

import argparse
import dataclasses
import types
import typing
from collections.abc import Callable
from collections.abc import Collection
from collections.abc import Iterable
from collections.abc import Mapping
from importlib import resources
from typing import Any
from typing import Literal

import jsonargparse
import yaml

from keras_sdft import parsing
from keras_sdft import signature
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
    is_positional: bool
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


def flags_of(
    groups: Iterable[type],
    defaults: Mapping[str, Any],
    positionals: Collection[str],
) -> dict[str, Flag]:
    """Returns the flags of a command by name; see `Command`."""
    flags: dict[str, Flag] = {}
    for group in groups:
        hints, texts = typing.get_type_hints(group), signature.describe(group)
        for field in dataclasses.fields(group):
            flag = Flag(
                field.name,
                hints[field.name],
                defaults.get(field.name, field.default),
                texts.get(field.name, ""),
                group,
                field.metadata.get("alias"),
                field.name in positionals,
                field.metadata.get("pinned"),
            )
            flags.setdefault(flag.name, flag)
    return flags


def split(
    arguments: Iterable[str], flags: Mapping[str, Flag]
) -> tuple[dict[str, Any], list[str]]:
    """Returns the words of each flag, and the files of `--config`.

    Raises:
        UsageError: If there is no such flag, or a value is missing.
    """
    given: dict[str, Any] = {}
    paths: list[str] = []
    rest = list(arguments)
    while rest:
        word = rest.pop(0)
        name, equals, value = word.partition("=")
        if name == "--config":
            paths.append(value if equals else _next(name, rest))
            continue
        if not word.startswith("-"):
            flag, values = _place(word, flags, given), [word]
        else:
            flag = _find(name, flags)
            values = [value] if equals else _values_after(name, flag, rest)
        if flag.lists:
            values = given.get(flag.name, []) + values
        given[flag.name] = values if flag.lists else values[0]
    for name, found in given.items():
        is_text = str in flags[name].types
        if isinstance(found, list) and len(found) == 1 and is_text:
            given[name] = found[0]
    return given, paths


def read(
    given: dict[str, Any], paths: Iterable[str], flags: Mapping[str, Flag]
) -> tuple[dict[str, Any], set[str]]:
    """Returns the value of each flag, and the names of those given.

    What is given goes before what is in the files, and of those the last one
    goes first.

    Raises:
        UsageError: If a flag or value is wrong, or one is missing.
    """
    values: dict[str, Any] = {}
    for path in paths:
        values |= _read_file(path, flags)
    values |= given
    missing = [
        f"`{flag.name.upper()}`" if flag.is_positional else f"`--{flag.name}`"
        for flag in flags.values()
        if flag.is_required and values.get(flag.name) is None
    ]
    if missing:
        verb = "is" if len(missing) == 1 else "are"
        raise UsageError(f"{' and '.join(missing)} {verb} required.")
    whole = {name: flag.default for name, flag in flags.items()}
    whole |= {name: flags[name].converted(v) for name, v in values.items()}
    return whole, set(values)


def _place(word: str, flags: Mapping[str, Flag], given: Any) -> Flag:
    """Returns the flag that a word without one is the value of."""
    for flag in flags.values():
        if flag.is_positional and (flag.name not in given or flag.lists):
            return flag
    raise UsageError(f"{word!r} stands without a flag.")


def _find(word: str, flags: Mapping[str, Flag]) -> Flag:
    for flag in flags.values():
        if word in (f"--{flag.name}", f"--{flag.alias}"):
            return flag
    known = [f"--{name}" for name in [*flags, "config", "help"]]
    raise UsageError(f"There is no flag {word!r}.{hint(word, known)}")


def _read_file(path: str, flags: Mapping[str, Flag]) -> dict[str, Any]:
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
    names = {flag.alias or name: name for name, flag in flags.items()}
    names |= dict(zip(flags, flags, strict=True))
    for name in content:
        if name not in names:
            near = hint(str(name), flags)
            raise UsageError(f"{path}: there is no flag {name!r}.{near}")
    return {names[name]: value for name, value in content.items()}


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


def hint(word: str, known: Collection[str]) -> str:
    """Returns a sentence on which of the known flags `word` may be."""
    name = word.lstrip("-").replace("-", "_")
    dashes = "--" if word.startswith("-") else ""
    for ours, others in OTHER_SPELLINGS.items():
        if name in others.split() and f"{dashes}{ours}" in known:
            return f" Here it is `{dashes}{ours}`."
    return did_you_mean(word, known)
