"""`keras-sdft inspect`: what a preset, a run or a weight file is.

Prints `keras_sdft.models.describe`; reads no weights and builds no network
itself.
"""

from __future__ import annotations

import dataclasses
import json as json_module
from collections.abc import Mapping
from typing import Any

from keras_sdft.cli.command import Command
from keras_sdft.cli.command import Options


@dataclasses.dataclass(frozen=True)
class InspectOptions:
    """What to inspect.

    Args:
        path: A preset, a run, an exported directory or a weight file.
        json: Print JSON instead of text.
    """

    path: str
    json: bool = False


def inspect(options: Options) -> None:
    """Describes a preset, a run, an export or a weight file.

    Args:
        options: `Options`.

    Raises:
        ValueError: If `path` is no preset and no file of ours.
        OSError: If a file is missing or cannot be read.
    """
    import keras_sdft

    description = keras_sdft.models.describe(options.path)
    if options.json:
        print(json_module.dumps(description, indent=2, default=str))
    else:
        print(format_description(options.path, description))


def format_description(path: str, description: Mapping[str, Any]) -> str:
    """Formats a description.

    Args:
        path: What was inspected, as the user wrote it.
        description: Dict of `keras_sdft.models.describe`.

    Returns:
        A string of several lines, without a newline at its end.
    """
    known = {"spec", "parts", "parameters"}
    rows = [(path, "")]
    rows += [
        (f"  {name.replace('_', ' ')}", str(value))
        for name, value in description.items()
        if name not in known and value is not None
    ]
    rows += _spec_rows(description.get("spec") or {})
    rows += _part_rows(description.get("parts") or {})
    width = 2 + max(len(name) for name, _ in rows[1:]) if rows[1:] else 0
    lines = [f"{name:{width}}{value}".rstrip() for name, value in rows]
    return "\n".join(lines)


def _spec_rows(spec: Mapping[str, Any], depth: int = 2) -> list:
    rows = [("  spec", "")] if depth == 2 and spec else []
    for name, value in spec.items():
        label = "  " * depth + name
        if isinstance(value, Mapping):
            rows += [(label, ""), *_spec_rows(value, depth + 1)]
        elif isinstance(value, (list, tuple)):
            rows.append((label, ", ".join(str(item) for item in value)))
        else:
            rows.append((label, str(value)))
    return rows


def _part_rows(parts: Mapping[str, Mapping[str, Any]]) -> list:
    rows = [("  parts", "")] if parts else []
    for name, part in parts.items():
        count = part.get("parameters")
        facts = [
            "?" if count is None else f"{count:,} parameters",
            part.get("dtype"),
            part.get("file"),
        ]
        rows.append((f"    {name}", ", ".join(str(f) for f in facts if f)))
    return rows


COMMAND = Command(
    run=inspect,
    groups=(InspectOptions,),
    positional="path",
    example="keras-sdft inspect runs/first",
    needs_tensorflow=False,  # Headers and JSON alone are read.
)
