"""Tables of image paths and captions: JSON lines and CSV.

Holds their rows to the folder that the table stands in.
"""

import collections
import contextlib
import csv
import itertools
import json
import os
import re
from collections.abc import Iterator
from typing import Any

from keras_sdft import checks
from keras_sdft.data.examples import Columns
from keras_sdft.data.examples import Examples
from keras_sdft.data.examples import check_captions
from keras_sdft.data.options import SourceOptions
from keras_sdft.data.sources.filenames import is_hidden
from keras_sdft.data.sources.filenames import is_image
from keras_sdft.data.sources.filenames import is_photo
from keras_sdft.reprs import first_five

# The names under which the field writes the column of paths, best known
# first; the first one that the table has is taken.
IMAGE_COLUMNS = ("file_name", "image", "image_path", "path")

_DELIMITERS = (",", ";", "\t")
# A line of a table, or a caption file; more is no caption.
MAX_BYTES = 2**20


def read_table(path: str, options: SourceOptions, masks: bool) -> Examples:
    """Reads a `.jsonl` file of one object per line, or a `.csv` with a header.

    The fields of a CSV are separated by commas; by semicolons or tabs where
    the header has these and no comma.

    Image paths are relative to the table's folder. With `masks` its column of
    masks is read; in it a path may be empty, and in JSON missing.

    Raises:
        FileNotFoundError: If an image does not exist.
        ValueError: If a line cannot be read or lacks a column, or if a path is
            repeated or leaves the folder.
    """
    is_csv = path.lower().endswith(".csv")
    rows = _csv_rows(path) if is_csv else _jsonl_rows(path)
    first = next(rows, None)
    if first is None:
        raise ValueError(
            f"{path} has no rows. Expected one row for each image, with its "
            "path and its caption."
        )
    columns = list(first[1])
    known = [name for name in IMAGE_COLUMNS if name in columns]
    image_column = options.image_column or (known or IMAGE_COLUMNS)[0]
    mask_column = options.mask_column if masks else None
    repeats_column = options.repeats_column
    needed = {
        "image_column": image_column,
        "caption_column": options.caption_column,
        "repeats": repeats_column,
        "mask_column": mask_column if is_csv else None,
    }
    for argument, name in needed.items():
        if name is not None and name not in columns:
            raise ValueError(
                f"{path} has no column {name!r}. Its columns are {columns}."
                f"{checks.did_you_mean(name, columns)} Name the column "
                f"with `{argument}`, or rename it in the table."
            )
    root = os.path.dirname(os.path.abspath(path))
    records = Columns(root, [], [])
    repeats: list[int] = []
    for where, row in itertools.chain([first], rows):
        try:
            image, caption = row[image_column], row[options.caption_column]
            times = row[repeats_column] if repeats_column else 1
        except KeyError as error:
            raise ValueError(
                f"Every line must have the key {error}; {where} has "
                f"{sorted(row)}. Add the key, or name another with "
                "`image_column` or `caption_column`."
            ) from None
        image = inside(root, image, where)
        # Nearly all captions are plain text: a table may have millions.
        if not isinstance(caption, str) or not caption.isascii():
            caption = check_captions(caption, where)
        records.paths.append(image)
        records.captions.append(caption)
        if mask_column is not None and row.get(mask_column):
            records.masks[image] = inside(root, row[mask_column], where)
        if repeats_column is not None:
            repeats.append(_repeats(times, where))
    examples = Examples(records)
    unlisted = _check_paths(path, records)
    examples.leave_out(f"without a row in {os.path.basename(path)}", unlisted)
    return examples.repeated(repeats) if repeats_column else examples


def _repeats(value: Any, where: str) -> int:
    text = str(value).strip() if isinstance(value, (int, str)) else ""
    if text.isdecimal() and len(text) < 20:
        return int(text)
    raise ValueError(
        "Repeats must be an integer of at least 0 in every row. "
        f"Received: {str(value)[:80]!r} ({where})."
    )


def _jsonl_rows(path: str) -> Iterator[tuple[str, dict]]:
    expected = (
        'Every line must be one JSON object, as {"file_name": "0001.png", '
        '"text": "a dog"}.'
    )
    decode = json.JSONDecoder(object_pairs_hook=_unique).decode
    for where, line in text_lines(path):
        if not line.strip():
            continue
        try:
            row = decode(line)
            if not isinstance(row, dict):
                raise TypeError(f"a {type(row).__name__}")
        # A parser raises nearly every class of error on damaged input.
        except Exception as error:
            where = f"{where}: {line.strip()[:80]!r}"
            raise bad_source(where, expected, error) from error
        yield where, row


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    row = dict(pairs)
    if len(row) != len(pairs):
        raise ValueError("a key stands there twice")
    return row


def _csv_rows(path: str) -> Iterator[tuple[str, dict]]:
    lines = (line for _, line in text_lines(path))
    header = next(lines, "")
    known = [mark for mark in _DELIMITERS if mark in header]
    # Strict: a quote that is not closed where a field ends is an error.
    rows = csv.reader(
        itertools.chain([header], lines),
        delimiter=known[0] if known else ",",
        strict=True,
    )
    columns: list[str] = []
    while True:
        first = rows.line_num + 1
        try:
            row = next(rows, None)
        except csv.Error as error:
            where = f"{path}, line {first}"
            expected = "The table must be CSV, its quotes closed."
            raise bad_source(where, expected, error) from error
        if row is None:
            return
        where = f"line {rows.line_num} of {path}"
        if rows.line_num > first:
            _refuse_swallowed(row, f"{path}, line {first}")
        if not columns:
            columns = [name.strip() for name in row]
            if len(set(columns)) != len(columns):
                raise ValueError(
                    "Every column must have a name of its own. Received: "
                    f"{columns} in {path}."
                )
        elif len(row) == len(columns):
            yield where, dict(zip(columns, row, strict=True))
        elif row:
            raise ValueError(
                f"Every row must have {len(columns)} fields, as the header "
                f"{columns} has. Received {len(row)} fields in {where}: {row}. "
                'Put a caption that holds a comma between quotes (").'
            )


def _refuse_swallowed(row: list[str], where: str) -> None:
    """Refuses a field over several lines that holds a row of its own."""
    for line in itertools.chain(*(field.split("\n")[1:] for field in row)):
        if any(is_image(part.strip(' "')) for part in re.split("[,;\t]", line)):
            raise ValueError(
                f"A quote that begins in {where} is closed after a line that "
                f"looks like a row: {line.strip()[:80]!r}. Close the quote, "
                'and write a quote inside a caption as "".'
            )


def _check_paths(path: str, records: Columns) -> list[str]:
    """Refuses rows without a file, and returns the files without a row."""
    names, root = set(records.paths), records.root
    if len(names) != len(records):
        counts = collections.Counter(records.paths)
        repeated = [name for name in counts if counts[name] > 1]
        raise ValueError(
            "Every image must have one row. Received: "
            f"{len(repeated)} paths with several in {path}: "
            f"{first_five(repeated)}. Remove the repeated rows; in JSON lines, "
            "an image with several captions holds them as a list."
        )
    names.update(records.masks.values())
    files: set[str] = set()
    for folder in set(map(os.path.dirname, names)):
        with contextlib.suppress(OSError):
            entries = os.listdir(os.path.join(root, folder))
            files.update(os.path.join(folder, entry) for entry in entries)
    # A file system may know a file under another spelling (case, accents)
    # than its listing gives, so absence is only believed from itself.
    missing = sorted(
        name
        for name in names - files
        if not os.path.exists(os.path.join(root, name))
    )
    if missing:
        raise FileNotFoundError(
            f"{path} names {len(missing)} images that do not exist: "
            f"{first_five(missing)}. Paths are relative to {root}. Add the "
            "files or remove their rows."
        )
    others = sorted(filter(is_photo, files - names))
    return [name for name in others if not is_hidden(os.path.basename(name))]


def bad_source(where: str, expected: str, error: Exception) -> ValueError:
    """Returns a parser's failure at a file and line as what was expected."""
    reason = f"{type(error).__name__}: {error}"[:200]
    return ValueError(
        f"{expected} Received: {where}, which cannot be read ({reason})."
    )


def text_lines(path: str) -> Iterator[tuple[str, str]]:
    """Yields where each line of a table in UTF-8 is, and its text."""
    with open(path, "rb") as file:
        lines = iter(lambda: file.readline(MAX_BYTES + 1), b"")
        for number, line in enumerate(lines, start=1):
            where = f"line {number} of {path}"
            if len(line) > MAX_BYTES:
                raise ValueError(
                    f"A line must have at most {MAX_BYTES} bytes. Received: "
                    f"{where}, which has more. Is it a file of another kind?"
                )
            try:
                yield where, line.decode("utf-8" if number > 1 else "utf-8-sig")
            except UnicodeDecodeError as error:
                expected = "Captions must be UTF-8 text."
                raise bad_source(where, expected, error) from error


def inside(root: str, path: Any, where: str) -> str:
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
