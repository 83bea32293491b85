"""A command: what it runs, the groups of its flags, and its help."""

import argparse
import dataclasses
import functools
from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any
from typing import TypeVar

import docstring_parser

from keras_sdft import hub
from keras_sdft import runs
from keras_sdft.cli import parser
from keras_sdft.cli.parser import Flag
from keras_sdft.cli.parser import UsageError

Group = TypeVar("Group")
Sections = Iterable[tuple[str, Iterable[Flag]]]

PROGRAM = "keras-sdft"
_HELP_LINES = 80
# One of them is given; the run has the other one.
_LENGTHS = ("max_train_steps", "num_train_epochs")
_NOTE = """\
--config FILE  read lines `flag: value` of a YAML file
--print_config print such a file of all flags, and end"""


class Options:
    """The values of a command's flags, each an attribute.

    Args:
        values: Dict of values, by the names of the flags.
        given: Names of the flags that the user gave, in a file or not.
    """

    # Beside the values, so that `vars` returns those alone.
    __slots__ = ("__dict__", "given")

    def __init__(
        self, values: Mapping[str, Any], given: Iterable[str] = ()
    ) -> None:
        vars(self).update(values)
        self.given = frozenset(given)

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"There is no flag {name!r}.")

    def of(self, group: type[Group]) -> Group:
        """Returns the dataclass of its fields' values, which it checks."""
        return group(**self.values_of(group))

    def values_of(self, *groups: type) -> dict[str, Any]:
        """Returns the values of the fields of dataclasses, by name."""
        names = {f.name for group in groups for f in dataclasses.fields(group)}
        return {name: v for name, v in vars(self).items() if name in names}

    def plain(self) -> dict[str, Any]:
        """Returns the values as YAML can hold them."""
        lists = {k: list(v) for k, v in vars(self).items() if type(v) is tuple}
        return vars(self) | lists

    def replace(self, **changes: Any) -> "Options":
        """Returns the same with other values of some flags."""
        return Options({**vars(self), **changes}, self.given)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Command:
    """A command of the program.

    Attributes:
        run: Function of the `Options`; its name is the command's, and the
            first line of its docstring the summary.
        groups: Dataclasses whose fields are the flags, in the order of the
            help. Each checks itself when it is made. Where two have a field
            of one name it is the first one's.
        defaults: Dict, defaults that differ from the groups', by flag.
        positionals: Strings, the flags that are given without their names,
            in this order.
        common: Strings, the flags that `--help` shows, beside those that
            must be given, where all are too many.
        example: String, a command line.
        needs_tensorflow: Boolean, whether it is imported beforehand.
    """

    run: Callable[[Options], None]
    groups: tuple[type, ...]
    defaults: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    positionals: tuple[str, ...] = ()
    common: tuple[str, ...] = ()
    example: str
    needs_tensorflow: bool = True

    @functools.cached_property
    def flags(self) -> dict[str, Flag]:
        return parser.flags_of(self.groups, self.defaults, self.positionals)

    @property
    def name(self) -> str:
        return self.run.__name__

    @property
    def defaults_by_flag(self) -> dict[str, Any]:
        flags = self.flags.items()
        return {name: f.default for name, f in flags if not f.is_required}

    @property
    def summary(self) -> str:
        return (self.run.__doc__ or "").splitlines()[0]

    def options(self, **given: Any) -> Options:
        """Returns the options of plain values; others have their defaults."""
        return Options(self.defaults_by_flag | given, given)

    def parse(self, arguments: Sequence[str]) -> Options:
        """Reads the flags, and those of the run that goes on."""
        given, paths = parser.split(arguments, self.flags)
        directory = given.get("resume")
        if directory is not None:
            paths.insert(0, runs.config_of(directory))
            given.setdefault("output_dir", directory)
            for one, other in (_LENGTHS, _LENGTHS[::-1]):
                if one in given:
                    given.setdefault(other, "null")
        return Options(*parser.read(given, paths, self.flags))

    def check(self, options: Options) -> None:
        """Lets every group check its values."""
        for group in self.groups:
            options.of(group)

    def pin(self, options: Options) -> Options:
        """Returns the options with the commits that addresses stand for now.

        What is saved with a run or an image so names the files that were
        used. All are asked for before the first large file is downloaded.

        Raises:
            UsageError: If a flag that takes no address of the Hub has one.
        """
        changes: dict[str, Any] = {}
        for name, flag in self.flags.items():
            value = getattr(options, name)
            if flag.pinned is not None:
                several = isinstance(value, list)
                pinned = list(map(flag.pinned, value if several else [value]))
                changes[name] = pinned if several else pinned[0]
            elif hub.is_address(value):
                raise UsageError(
                    f"`{name}` must be a path on this machine. Received: "
                    f"{value!r}."
                )
        return options.replace(**changes)

    def help_text(self, everything: bool) -> str:
        """Returns the help, of at most 80 lines unless `everything`."""
        flags = list(self.flags.values())
        text = self._help(
            (_title(group), [flag for flag in flags if flag.group is group])
            for group in self.groups
        )
        if everything or text.count("\n") <= _HELP_LINES:
            return text
        sections = (
            ("required", [flag for flag in flags if flag.is_required]),
            ("most used", [self.flags[name] for name in self.common]),
        )
        more = f"\n--help-all     explain all {len(flags)} flags"
        return self._help(sections, more)

    def _help(self, sections: Sections, more: str = "") -> str:
        places = "".join(f" {name.upper()}" for name in self.positionals)
        whole = argparse.ArgumentParser(
            usage=f"{PROGRAM} {self.name}{places} --FLAG VALUE ...",
            description=f"{self.summary}\n\nexample:\n  {self.example}",
            epilog=_NOTE + more,
            add_help=False,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        for title, flags in sections:
            section = whole.add_argument_group(title)
            for flag in flags:
                names, metavar = [f"--{flag.name}"], flag.metavar
                names += [f"--{flag.alias}"] if flag.alias else []
                if flag.is_positional:
                    names, metavar = [flag.name], flag.name.upper()
                text = _text(flag).replace("%", "%%")
                section.add_argument(*names, metavar=metavar, help=text)
        return whole.format_help()


def _title(group: type) -> str:
    found = docstring_parser.parse(group.__doc__ or "").short_description
    return " ".join((found or group.__name__).split()).rstrip(".")


def _text(flag: Flag) -> str:
    if flag.default in (None, dataclasses.MISSING):
        return flag.text
    shown = str(flag.default)
    shown = shown.lower() if isinstance(flag.default, bool) else shown
    return f"{flag.text} (default: {shown})"
