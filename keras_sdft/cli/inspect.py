"""`keras-sdft inspect`: what a preset, a run or a weight file is."""

import dataclasses
import json as json_module
import os
import textwrap
from collections.abc import Iterator
from collections.abc import Mapping
from typing import Any

from keras_sdft import formats
from keras_sdft import hub
from keras_sdft import runs
from keras_sdft.cli.command import Command
from keras_sdft.cli.command import Options


@dataclasses.dataclass(frozen=True)
class InspectOptions:
    """What to inspect.

    Args:
        path: A preset, a run, an exported directory, a weight file, a LoRA
            or an embedding, or hf://owner/name.
        json: Print JSON instead of text.
    """

    path: str = dataclasses.field(metadata=hub.pinning("model"))
    json: bool = False


def inspect(options: Options) -> None:
    """Describes a preset, a run, an export or a weight file."""
    run = runs.describe(options.path)
    description: dict[str, Any] = {} if run is None else {"run": run}
    # One that was killed may have no weights yet.
    if run is None or os.path.isdir(os.path.join(options.path, "weights")):
        description |= formats.describe(options.path, check_weights=True)
    if options.json:
        print(json_module.dumps(description, indent=2, default=str))
    else:
        print("\n".join([options.path, *_lines(description)]))


def _lines(
    description: Mapping[str, Any], depth: int = 1, of_file: bool = False
) -> Iterator[str]:
    """Yields a line for each value, and those of a dict below its name."""
    for name, value in description.items():
        # The names of a file's metadata are those that it has.
        shown = name if of_file else name.replace("_", " ")
        label = "  " * depth + shown + " "
        if isinstance(value, Mapping):
            yield label.rstrip()
            yield from _lines(value, depth + 1, name == "metadata")
        elif isinstance(value, (list, tuple)):
            yield from textwrap.wrap(
                ", ".join(map(str, value)),
                initial_indent=f"{label:<28}",
                subsequent_indent=" " * 28,
                break_long_words=False,
                break_on_hyphens=False,
            )
        elif value is not None:
            text = f"{value:,}" if type(value) is int else str(value)
            yield f"{label:<28}{text}"


COMMAND = Command(
    run=inspect,
    groups=(InspectOptions,),
    positionals=("path",),
    example="keras-sdft inspect runs/first",
    needs_tensorflow=False,  # Headers and JSON alone are read.
)
