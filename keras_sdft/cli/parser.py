"""Flags from dataclasses: how they are read, converted and explained.

A command's flags are the fields of its groups, which are dataclasses with
their texts under `Args:`. Knows how values are written; not what any of
them means.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import types
import typing
from collections.abc import Iterable
from collections.abc import Mapping
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from typing import Literal

import docstring_parser
import jsonargparse
import yaml

from keras_sdft.checks import did_you_mean
from keras_sdft.cli.spellings import our_spelling

# A bare `--overwrite` means true; these may follow it.
_BOOLEANS = ("true", "false", "null", "yes", "no")
_KINDS = {int: "an integer", float: "a number", str: "text"}


class UsageError(ValueError):
    """A flag, or its value, that cannot be read."""


@dataclasses.dataclass(frozen=True)
class Flag:
    """A field of a group as it is written on the command line.

    Attributes:
        name: String; the flag is `--name`.
        hint: The field's type.
        default: Its default; `dataclasses.MISSING` if it must be given.
        text: String, for the help.
        group: The dataclass.
        alias: String, another name, or `None`.
    """

    name: str
    hint: Any
    default: Any
    text: str
    group: type
    alias: str | None = None

    @property
    def is_required(self) -> bool:
        return self.default is dataclasses.MISSING

    @property
    def is_boolean(self) -> bool:
        return bool in _members(self.hint)

    @property
    def takes_several(self) -> bool:
        kinds = map(typing.get_origin, _members(self.hint))
        return any(kind in (list, tuple) for kind in kinds)

    @property
    def takes_one(self) -> bool:
        return not self.takes_several or str in _members(self.hint)

    @property
    def choices(self) -> list[str]:
        members = _members(self.hint)
        lists = [m for m in members if typing.get_origin(m) is Literal]
        return [value for each in lists for value in typing.get_args(each)]

    @property
    def metavar(self) -> str:
        if self.is_boolean:
            return "[true|false]"
        if self.choices:
            return f"{{{','.join(self.choices)}}}"
        if self.takes_several:
            items = [a for m in _members(self.hint) for a in typing.get_args(m)]
            word = "TEXT" if str in items else "N"
            return f"{word} [{word} ...]"
        numbers = {int, float} & set(_members(self.hint))
        return "N" if numbers and str not in _members(self.hint) else "TEXT"

    def must_be(self) -> str:
        """Returns what a value may be, for an error."""
        kinds = [_KINDS[m] for m in _members(self.hint) if m in _KINDS]
        if self.is_boolean:
            kinds = ["true", "false"]
        elif self.choices:
            kinds = [f"one of {self.choices}"]
        elif self.takes_several:
            kinds = [f"a list as in `--{self.name} {self.metavar}`"]
        if type(None) in _members(self.hint):
            kinds.append("null")
        return " or ".join(kinds)


class Flags:
    """The flags of one command.

    Args:
        groups: Dataclasses, in the order of the help. Where two have a
            field of one name it is the first one's.
        defaults: Dict, defaults that differ from the groups', by name.
        positional: String, the field that is given without a flag, or
            `None`.
        skip: Strings, fields that are no flags.
    """

    def __init__(
        self,
        groups: Iterable[type],
        defaults: Mapping[str, Any] | None = None,
        positional: str | None = None,
        skip: Iterable[str] = (),
    ) -> None:
        self.positional = positional
        self._converter = jsonargparse.ArgumentParser(exit_on_error=False)
        self.by_name: dict[str, Flag] = {}
        for group in groups:
            flags = _flags_of(group, {*skip, *self.by_name}, defaults or {})
            self.by_name |= {flag.name: flag for flag in flags}
            names = {field.name for field in dataclasses.fields(group)}
            skipped = names - {flag.name for flag in flags}
            self._converter.add_class_arguments(
                group, as_group=False, skip=skipped
            )
        self._converter.set_defaults(dict(defaults or {}))

    def read(self, arguments: Sequence[str]) -> dict[str, Any]:
        """Returns the value of each flag.

        What is on the command line goes before what is in the files of
        `--config`, and of those the last one goes first.

        Args:
            arguments: Strings, without program and command.

        Raises:
            UsageError: If a flag or value is wrong, or one is missing.
        """
        given, paths = self._split(arguments)
        values: dict[str, Any] = {}
        for path in paths:
            values |= self._read_file(path)
        values |= given
        missing = [
            "`PATH`" if name == self.positional else f"`--{name}`"
            for name, flag in self.by_name.items()
            if flag.is_required and values.get(name) is None
        ]
        if missing:
            verb = "is" if len(missing) == 1 else "are"
            raise UsageError(f"{' and '.join(missing)} {verb} required.")
        try:
            return self._converter.parse_object(values).as_dict()
        except argparse.ArgumentError as error:
            raise self._explained(values, error) from error

    def _split(
        self, arguments: Sequence[str]
    ) -> tuple[dict[str, Any], list[str]]:
        given: dict[str, Any] = {}
        several: dict[str, list[str]] = {}
        paths: list[str] = []
        rest = list(arguments)
        while rest:
            word = rest.pop(0)
            if not word.startswith("-"):
                if self.positional is None or self.positional in given:
                    raise UsageError(f"{word!r} stands without a flag.")
                given[self.positional] = word
                continue
            name, equals, value = word.partition("=")
            if name == "--config":
                paths.append(value if equals else _next(name, rest))
                continue
            flag = self._find(name)
            if flag.takes_several:
                values = [value] if equals else _all_next(name, rest)
                given[flag.name] = several.setdefault(flag.name, [])
                several[flag.name] += values
            elif equals:
                given[flag.name] = value
            elif flag.is_boolean:
                follows = rest and rest[0].lower() in _BOOLEANS
                given[flag.name] = rest.pop(0) if follows else "true"
            else:
                given[flag.name] = _next(name, rest)
        for name, values in several.items():
            if self.by_name[name].takes_one and len(values) == 1:
                given[name] = values[0]
        return given, paths

    def _find(self, word: str) -> Flag:
        for flag in self.by_name.values():
            if word in (f"--{flag.name}", f"--{flag.alias}"):
                return flag
        known = [f"--{name}" for name in [*self.by_name, "config", "help"]]
        ours = our_spelling(word, known)
        hint = f" Here it is {ours}." if ours else did_you_mean(word, known)
        raise UsageError(f"There is no flag {word!r}.{hint}")

    def _read_file(self, path: str) -> dict[str, Any]:
        try:
            text = Path(path).read_text(encoding="utf-8")
            content = yaml.safe_load(text)
        except OSError as error:
            raise UsageError(
                f"`--config` cannot be read. Received: {path!r}: "
                f"{error.strerror or error}."
            ) from error
        except (yaml.YAMLError, ValueError, RecursionError) as error:
            reason = " ".join(str(error).split())
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
                ours = our_spelling(str(name), list(self.by_name))
                hint = did_you_mean(name, self.by_name)
                hint = f" Here it is {ours}." if ours else hint
                raise UsageError(f"{path}: there is no flag {name!r}.{hint}")
        return {names.get(name, name): v for name, v in content.items()}

    def _explained(
        self, values: Mapping[str, Any], error: argparse.ArgumentError
    ) -> UsageError:
        """Finds the value that is wrong: they are converted one by one."""
        for name, value in values.items():
            flag = self.by_name[name]
            others = {field.name for field in dataclasses.fields(flag.group)}
            single = jsonargparse.ArgumentParser(exit_on_error=False)
            single.add_class_arguments(flag.group, skip=others - {name})
            try:
                single.parse_object({name: value})
            except argparse.ArgumentError:
                shown = value[0] if value and flag.takes_several else value
                shown = value if len(str(value)) < 60 else shown
                return UsageError(
                    f"`{name}` must be {flag.must_be()}. Received: "
                    f"{name}={shown!r}.{did_you_mean(value, flag.choices)}"
                )
        return UsageError(" ".join(str(error).split()))

    def help_text(
        self,
        command: str,
        summary: str,
        only: Sequence[str] | None = None,
        note: str = "",
    ) -> str:
        """Returns the help.

        Args:
            command: String, `"keras-sdft train"`.
            summary: String, what it does.
            only: Strings, the flags to show beside those that must be
                given, or `None` for all of them in their groups.
            note: String, to stand at the end.
        """
        usage = f"{command} --FLAG VALUE ..."
        if self.positional is not None:
            usage = f"{command} {self.positional.upper()} [--FLAG VALUE ...]"
        parser = argparse.ArgumentParser(
            prog=command,
            usage=usage,
            description=summary,
            epilog=note,
            add_help=False,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        for title, flags in self._sections(only):
            section = parser.add_argument_group(title)
            for flag in flags:
                _add_help(section, flag, flag.name == self.positional)
        return parser.format_help()

    def _sections(
        self, only: Sequence[str] | None
    ) -> Iterable[tuple[str, list[Flag]]]:
        flags = list(self.by_name.values())
        if only is not None:
            yield "required", [flag for flag in flags if flag.is_required]
            yield "most used", [self.by_name[name] for name in only]
            return
        for group, members in itertools.groupby(flags, lambda f: f.group):
            title = docstring_parser.parse(group.__doc__ or "")
            text = title.short_description or group.__name__
            yield " ".join(text.split()).rstrip("."), list(members)


def _flags_of(
    group: type, skip: set[str], defaults: Mapping[str, Any]
) -> list[Flag]:
    hints = typing.get_type_hints(group)
    texts = {
        parameter.arg_name: parameter.description or ""
        for parameter in docstring_parser.parse(group.__doc__ or "").params
    }
    return [
        Flag(
            field.name,
            hints[field.name],
            defaults.get(field.name, field.default),
            " ".join(texts.get(field.name, "").split()),
            group,
            field.metadata.get("alias"),
        )
        for field in dataclasses.fields(group)
        if field.name not in skip
    ]


def _members(hint: Any) -> list[Any]:
    """Returns the types of a union, or the one type."""
    is_union = typing.get_origin(hint) in (typing.Union, types.UnionType)
    return list(typing.get_args(hint)) if is_union else [hint]


def _next(name: str, rest: list[str]) -> str:
    if not rest or rest[0].startswith("--"):
        raise UsageError(f"`{name}` needs a value after it.")
    return rest.pop(0)


def _all_next(name: str, rest: list[str]) -> list[str]:
    values = [_next(name, rest)]
    while rest and not rest[0].startswith("--"):
        values.append(rest.pop(0))
    return values


def _add_help(section: Any, flag: Flag, is_positional: bool) -> None:
    text = flag.text.replace("%", "%%")
    if flag.default not in (None, dataclasses.MISSING):
        shown = str(flag.default)
        shown = shown.lower() if isinstance(flag.default, bool) else shown
        text += f" (default: {shown.replace('%', '%%')})"
    if is_positional:
        section.add_argument(flag.name, metavar=flag.name.upper(), help=text)
        return
    names = [f"--{flag.name}"] + ([f"--{flag.alias}"] if flag.alias else [])
    section.add_argument(*names, metavar=flag.metavar, help=text)
