"""A command: what it runs, the groups of its flags, and its help.

Knows no command by name, and no flag.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any
from typing import TypeVar

from keras_sdft.cli.parser import Flags

Group = TypeVar("Group")

PROGRAM = "keras-sdft"
_HELP_LINES = 80


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
        """Returns the dataclass `group` of the values of its fields.

        Raises:
            ValueError: If a value is out of its range.
        """
        return group(**self.values_of(group))

    def values_of(self, *groups: type) -> dict[str, Any]:
        """Returns the values of the fields of dataclasses, by name."""
        fields = [f for group in groups for f in dataclasses.fields(group)]
        names = [f.name for f in fields if f.name in vars(self)]
        return {name: getattr(self, name) for name in names}

    def plain(self) -> dict[str, Any]:
        """Returns the values as YAML can hold them."""
        lists = {k: list(v) for k, v in vars(self).items() if type(v) is tuple}
        return vars(self) | lists

    def replace(self, **changes: Any) -> Options:
        """Returns the same with other values of some flags."""
        return Options({**vars(self), **changes}, self.given)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Command:
    """A command of the program.

    Attributes:
        run: Function of the `Options`; the first line of its docstring is
            the summary.
        groups: Dataclasses whose fields are the flags, in the order of the
            help. Each checks itself when it is made.
        defaults: Dict, defaults that differ from the groups', by flag.
        positional: String, the flag that is given without its name.
        common: Strings, the flags that `--help` shows, beside those that
            must be given, where all are too many.
        example: String, a command line.
        needs_tensorflow: Boolean, whether it is imported beforehand.
        expand: Function of the arguments that returns them with those that
            they stand for.
    """

    run: Callable[[Options], None]
    groups: tuple[type, ...]
    defaults: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    positional: str | None = None
    common: tuple[str, ...] = ()
    example: str
    needs_tensorflow: bool = True
    expand: Callable[[Sequence[str]], Sequence[str]] = list

    @functools.cached_property
    def flags(self) -> Flags:
        return Flags(self.groups, self.defaults, self.positional)

    @property
    def name(self) -> str:
        return self.run.__name__

    @property
    def summary(self) -> str:
        return (self.run.__doc__ or "").splitlines()[0]

    def options(self, **given: Any) -> Options:
        """Returns the options of plain values; others have their defaults."""
        flags = self.flags.by_name.values()
        defaults = {f.name: f.default for f in flags if not f.is_required}
        return Options(defaults | given, given)

    def parse(self, arguments: Sequence[str]) -> Options:
        """Reads the flags; see `Flags.read`."""
        return Options(*self.flags.read(self.expand(arguments)))

    def check(self, options: Options) -> None:
        """Lets every group check its values.

        Raises:
            ValueError: If one is out of its range, or two contradict each
                other.
        """
        for group in self.groups:
            options.of(group)

    def help_text(self, name: str, everything: bool) -> str:
        """Returns the help, of at most 80 lines unless `everything`."""
        note = (
            "--config FILE  read lines `flag: value` of a YAML file\n"
            "--print_config print such a file of all flags, and end"
        )
        summary = f"{self.summary}\n\nexample:\n  {self.example}"
        make = functools.partial(
            self.flags.help_text, f"{PROGRAM} {name}", summary
        )
        text = make(note)
        if everything or text.count("\n") <= _HELP_LINES:
            return text
        count = len(self.flags.by_name)
        note += f"\n--help-all     explain all {count} flags"
        return make(note, self.common)
