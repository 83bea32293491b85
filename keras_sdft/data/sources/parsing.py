"""What every reader of files shares: budgets, text, and parsers' failures."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

# A line of a table, or a caption file; more is no caption.
MAX_BYTES = 2**20


class BadSource(ValueError):
    """A source that is not what it must be; its text says why."""


@contextlib.contextmanager
def parsing(where: str, expected: str) -> Iterator[None]:
    """Turns whatever a parser raises in the block into `BadSource`.

    Args:
        where: String, the file and line.
        expected: String, a sentence that says what should be there.
    """
    try:
        yield
    except (OSError, BadSource):
        raise
    # Parsers raise nearly every class of error on damaged input.
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"[:200]
        raise BadSource(
            f"{expected} Received: {where}, which cannot be read ({reason})."
        ) from error


def read_text(path: str) -> str:
    """Returns the text of a small file in UTF-8."""
    with open(path, "rb") as file:
        data = file.read(MAX_BYTES + 1)
    _check_size(data, path)
    with parsing(path, "Caption files must be UTF-8 text."):
        return data.decode("utf-8-sig")


def text_lines(path: str) -> Iterator[str]:
    """Yields the lines of a table in UTF-8, with their ends."""
    with open(path, "rb") as file:
        number = 0
        while line := file.readline(MAX_BYTES + 1):
            number += 1
            where = f"line {number} of {path}"
            _check_size(line, where)
            with parsing(where, "Tables must be UTF-8 text."):
                text = line.decode("utf-8-sig" if number == 1 else "utf-8")
            yield text


def inside(root: str, path: str, where: str) -> str:
    """Returns a path of a table relative to its folder, as short as it is."""
    if not isinstance(path, str) or not path.strip() or "\0" in path:
        raise ValueError(
            "An image path must be a non-empty string. "
            f"Received: {path!r} ({where})."
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
            f"Received: {path!r} ({where}), which leaves {root}. Move the "
            "image into the folder, or the table to a folder above both."
        )
    return short


def _check_size(data: bytes, where: str) -> None:
    if len(data) > MAX_BYTES:
        raise BadSource(
            f"A caption must have at most {MAX_BYTES} bytes. Received: "
            f"{where}, which has more. Is it a file of another kind?"
        )
