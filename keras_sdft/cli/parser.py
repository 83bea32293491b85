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
from collections.abc import Collection
from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any
from typing import Literal

import docstring_parser
import jsonargparse
import yaml

from keras_sdft import parsing
from keras_sdft.checks import did_you_mean
from keras_sdft.cli.spellings import our_spelling

# A bare `--overwrite` means true; these may follow it.
_BOOLEANS = ("true", "false", "null", "yes", "no")
_MAX_CONFIG_BYTES = 1_000_000
_MAX_DEPTH = 20
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


class Flags:
    """The flags of one command.

    Args:
        groups: Dataclasses, in the order of the help. Where two have a
            field of one name it is the first one's.
        defaults: Dict, defaults that differ from the groups', by name.
        positional: String, the field that is given without a flag, or
            `None`.
    """

    def __init__(
        self,
        groups: Iterable[type],
        defaults: Mapping[str, Any] | None = None,
        positional: str | None = None,
    ) -> None:
        self.positional = positional
        self.by_name: dict[str, Flag] = {}
        self._converter = jsonargparse.ArgumentParser(exit_on_error=False)
        for group in groups:
            known = set(self.by_name)
            self._converter.add_class_arguments(
                group, as_group=False, skip=known & _names(group)
            )
            for flag in _flags_of(group, defaults or {}):
                self.by_name.setdefault(flag.name, flag)
        self._converter.set_defaults(dict(defaults or {}))

    def read(self, arguments: Sequence[str]) -> tuple[dict[str, Any], set[str]]:
        """Returns the value of each flag, and the names of those given.

        What is on the command line, without program and command, goes
        before what is in the files of `--config`, and of those the last one
        goes first.

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
            read = self._converter.parse_object(values).as_dict()
        except argparse.ArgumentError as error:
            raise self._explained(values, error) from error
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
                if self.positional is None or self.positional in given:
                    raise UsageError(f"{word!r} stands without a flag.")
                given[self.positional] = word
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

    def _find(self, word: str) -> Flag:
        for flag in self.by_name.values():
            if word in (f"--{flag.name}", f"--{flag.alias}"):
                return flag
        known = [f"--{name}" for name in [*self.by_name, "config", "help"]]
        hint = _hint(word, known)
        raise UsageError(f"There is no flag {word!r}.{hint}")

    def _read_file(self, path: str) -> dict[str, Any]:
        try:
            content = _parsed(parsing.read_text(path, _MAX_CONFIG_BYTES))
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

    def _explained(
        self, values: Mapping[str, Any], error: argparse.ArgumentError
    ) -> UsageError:
        """Finds the value that is wrong: they are converted one by one."""
        for name, value in values.items():
            flag = self.by_name[name]
            single = jsonargparse.ArgumentParser(exit_on_error=False)
            single.add_class_arguments(
                flag.group, skip=_names(flag.group) - {name}
            )
            try:
                single.parse_object({name: value})
            except argparse.ArgumentError:
                return UsageError(
                    f"`{name}` must be {flag.kinds}. Received: "
                    f"{name}={value!r}.{did_you_mean(value, flag.choices)}"
                )
        return UsageError(" ".join(str(error).split()))

    def help_text(
        self,
        command: str,
        summary: str,
        note: str = "",
        only: Sequence[str] | None = None,
    ) -> str:
        """Returns the help.

        Args:
            command: String, `"keras-sdft train"`.
            summary: String, what it does.
            note: String, to stand at the end.
            only: Strings, the flags to show beside those that must be
                given, or `None` for all of them in their groups.
        """
        place = f" {self.positional.upper()}" if self.positional else ""
        parser = argparse.ArgumentParser(
            prog=command,
            usage=f"{command}{place} --FLAG VALUE ...",
            description=summary,
            epilog=note,
            add_help=False,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        for title, flags in self._sections(only):
            section = parser.add_argument_group(title)
            for flag in flags:
                is_positional = flag.name == self.positional
                names = [flag.name] if is_positional else [f"--{flag.name}"]
                names += [f"--{flag.alias}"] if flag.alias else []
                metavar = flag.name.upper() if is_positional else flag.metavar
                section.add_argument(*names, metavar=metavar, help=_help(flag))
        return parser.format_help()

    def _sections(
        self, only: Sequence[str] | None
    ) -> Iterator[tuple[str, list[Flag]]]:
        flags = list(self.by_name.values())
        if only is not None:
            yield "required", [flag for flag in flags if flag.is_required]
            yield "most used", [self.by_name[name] for name in only]
            return
        for group, members in itertools.groupby(flags, lambda f: f.group):
            title = docstring_parser.parse(group.__doc__ or "")
            text = title.short_description or group.__name__
            yield " ".join(text.split()).rstrip("."), list(members)


def _names(group: type) -> set[str]:
    return {field.name for field in dataclasses.fields(group)}


def _parsed(text: str) -> Any:
    depth = 0
    for token in yaml.scan(text):
        # A few of aliases stand for more values than a message can show, and
        # the time to parse grows with the square of the depth.
        if isinstance(token, yaml.AliasToken):
            raise ValueError("aliases (`*name`) are not supported")
        depth += type(token).__name__.endswith("StartToken")
        depth -= type(token).__name__.endswith("EndToken")
        if depth > _MAX_DEPTH:
            raise ValueError(f"it is nested more than {_MAX_DEPTH} deep")
    return yaml.safe_load(text)


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


def _help(flag: Flag) -> str:
    text = flag.text
    if flag.default not in (None, dataclasses.MISSING):
        shown = str(flag.default)
        shown = shown.lower() if isinstance(flag.default, bool) else shown
        text += f" (default: {shown})"
    return text.replace("%", "%%")
