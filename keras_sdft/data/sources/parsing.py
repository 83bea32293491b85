"""What every reader of files shares: budgets, text, and parsers' failures."""

from __future__ import annotations

import os
from collections.abc import Callable
from collections.abc import Iterator
from typing import Any

# A line of a table, or a caption file; more is no caption.
MAX_BYTES = 2**20


class BadSource(ValueError):
    """A source that is not what it must be; its text says why."""


def bad_source(where: str, expected: str, error: Exception) -> BadSource:
    """Returns the one kind of error that a parser's failure becomes.

    Args:
        where: String, the file and line.
        expected: String, a sentence that says what should be there.
        error: What the parser raised.
    """
    reason = f"{type(error).__name__}: {error}"[:200]
    return BadSource(
        f"{expected} Received: {where}, which cannot be read ({reason})."
    )


def read_text(path: str) -> str:
    """Returns the text of a small file in UTF-8."""
    with open(path, "rb") as file:
        return _decode(file.read(MAX_BYTES + 1), path, "utf-8-sig")


def text_lines(path: str) -> Iterator[str]:
    """Yields the lines of a table in UTF-8, with their ends."""
    encoding, number = "utf-8-sig", 0
    with open(path, "rb") as file:
        while line := file.readline(MAX_BYTES + 1):
            number += 1
            yield _decode(line, f"line {number} of {path}", encoding)
            encoding = "utf-8"


def _decode(data: bytes, where: str, encoding: str) -> str:
    if len(data) > MAX_BYTES:
        raise BadSource(
            f"A caption must have at most {MAX_BYTES} bytes. Received: "
            f"{where}, which has more. Is it a file of another kind?"
        )
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        raise bad_source(
            where, "Captions must be UTF-8 text.", error
        ) from error


def inside(root: str, path: Any, where: Callable[[], str]) -> str:
    """Returns a path of a table relative to its folder, as short as it is."""
    if not isinstance(path, str) or not path.strip() or "\0" in path:
        raise ValueError(
            "An image path must be a non-empty string. "
            f"Received: {path!r} ({where()})."
        )
    # Nearly all names end here: a table may have millions.
    plain = "/." not in path and "//" not in path and ":" not in path
    if plain and path[0] not in "./\\":
        return path
    short = os.path.relpath(os.path.join(root, path), root)
    # On Windows, `relpath` keeps the drive of a path on another one.
    if short.split(os.sep)[0] == os.pardir or os.path.isabs(short):
        raise ValueError(
            "Image paths must stay inside the folder of the table. "
            f"Received: {path!r} ({where()}), which leaves {root}. Move the "
            "image into the folder, or the table to a folder above both."
        )
    return short
