"""Tables of image paths and captions: JSON lines and CSV.

Holds their rows to the folder that the table stands in.
"""

from __future__ import annotations

import collections
import csv
import itertools
import json
import os
from collections.abc import Iterator
from typing import Any

from keras_sdft import checks
from keras_sdft.data.examples import Columns
from keras_sdft.data.examples import Examples
from keras_sdft.data.examples import Findings
from keras_sdft.data.examples import check_captions
from keras_sdft.data.examples import first_five
from keras_sdft.data.sources.files import is_hidden
from keras_sdft.data.sources.files import is_image
from keras_sdft.data.sources.files import is_photo
from keras_sdft.data.sources.parsing import inside
from keras_sdft.data.sources.parsing import parsing
from keras_sdft.data.sources.parsing import text_lines

# The names under which the field writes the column of paths, best known
# first; the first one that the table has is taken.
IMAGE_COLUMNS = ("file_name", "image", "image_path", "path")

_DELIMITERS = (",", ";", "\t")


def read_jsonl(
    path: str,
    image_column: str | None = None,
    caption_column: str = "text",
    mask_column: str | None = None,
    repeats_column: str | None = None,
) -> Examples:
    """Reads a table with one JSON object per line.

    Args:
        path: String, the table. Image paths are relative to its folder.
        image_column: String, the key of the path. `None` takes the first of
            `"file_name"`, `"image"`, `"image_path"` and `"path"`.
        caption_column: String, the key of the caption: a string, or a list of
            several captions. Defaults to `"text"`.
        mask_column: String, the key of the mask's path, which may be empty or
            missing in a line. `None` reads no masks.
        repeats_column: String, the key of how often an epoch shows the image,
            an integer >= 0. `None` shows each once.

    Returns:
        `Examples`.

    Raises:
        ValueError: If a line is no JSON object or lacks a key, if a caption is
            not text, or if a path is repeated, missing or leaves the folder.
    """
    rows = _jsonl_rows(path)
    first = next(rows, None)
    if first is None:
        raise ValueError(_empty_table(path))
    found = _columns(
        path, list(first[1]), image_column, caption_column, repeats_column
    )
    wanted = [name for name in found if name is not None]

    def complete() -> Iterator[tuple[int, dict]]:
        for number, row in itertools.chain([first], rows):
            missing = [name for name in wanted if name not in row]
            if missing:
                raise ValueError(
                    f"Every line must have the key {missing[0]!r}; line "
                    f"{number} of {path} has {sorted(row)}. Add the key, or "
                    "name another with `image_column` or `caption_column`."
                )
            yield number, row

    return _read_rows(path, complete(), *found, mask_column)


def read_csv(
    path: str,
    image_column: str | None = None,
    caption_column: str = "text",
    mask_column: str | None = None,
    repeats_column: str | None = None,
) -> Examples:
    """Reads a CSV table with a header line.

    Fields are separated by commas; by semicolons or tabs where the header has
    these and no comma.

    Args:
        path: String, the table. Image paths are relative to its folder.
        image_column: String, the column of paths. `None` takes the first of
            `"file_name"`, `"image"`, `"image_path"` and `"path"`.
        caption_column: String, the column of captions. Defaults to `"text"`.
        mask_column: String, the column of the masks' paths, which may be
            empty in a row. `None` reads no masks.
        repeats_column: String, the column of how often an epoch shows the
            image, an integer >= 0. `None` shows each once.

    Returns:
        `Examples`.

    Raises:
        ValueError: If a column is missing, a row is short, a quote is not
            closed, or a path is repeated, missing or leaves the folder.
    """
    rows = _csv_rows(path)
    header = next(rows, None)
    if header is None:
        raise ValueError(_empty_table(path))
    columns = [name.strip() for name in header[1]]
    found = _columns(
        path, columns, image_column, caption_column, repeats_column
    )
    if mask_column is not None:
        _check_column(path, columns, "mask_column", mask_column)

    def complete() -> Iterator[tuple[int, dict]]:
        for number, row in rows:
            if len(row) != len(columns):
                raise ValueError(
                    f"Every row must have {len(columns)} fields, as the "
                    f"header {columns} has. Received {len(row)} fields in "
                    f"line {number} of {path}: {row}. Put a caption that "
                    'holds a comma between quotes (").'
                )
            yield number, dict(zip(columns, row, strict=True))

    return _read_rows(path, complete(), *found, mask_column)


def _read_rows(
    path: str,
    rows: Iterator[tuple[int, dict]],
    image_key: str,
    caption_key: str,
    repeats_key: str | None,
    mask_key: str | None,
) -> Examples:
    root = os.path.dirname(os.path.abspath(path))
    paths: list[str] = []
    captions: list[str | tuple[str, ...]] = []
    masks: dict[str, str] = {}
    repeats: list[int] = []
    for number, row in rows:
        where = f"line {number} of {path}"
        paths.append(inside(root, row[image_key], where))
        captions.append(check_captions(row[caption_key], where))
        if mask_key is not None and row.get(mask_key):
            masks[paths[-1]] = inside(root, row[mask_key], where)
        if repeats_key is not None:
            repeats.append(_repeats(row[repeats_key], where))
    findings = _check_paths(path, root, paths, masks)
    examples = Examples(Columns(root, paths, captions, masks), None, findings)
    return examples if repeats_key is None else examples.repeated(repeats)


def _repeats(value: Any, where: str) -> int:
    text = str(value).strip() if isinstance(value, (int, str)) else ""
    if text.isdecimal() and len(text) < 20:
        return int(text)
    raise ValueError(
        "Repeats must be an integer of at least 0 in every row. "
        f"Received: {str(value)[:80]!r} ({where})."
    )


def _jsonl_rows(path: str) -> Iterator[tuple[int, dict]]:
    expected = (
        'Every line must be one JSON object, as {"file_name": "0001.png", '
        '"text": "a dog"}.'
    )
    for number, line in enumerate(text_lines(path), start=1):
        if not line.strip():
            continue
        where = f"line {number} of {path}: {line.strip()[:80]!r}"
        with parsing(where, expected):
            row = json.loads(line, object_pairs_hook=_unique)
        if not isinstance(row, dict):
            raise ValueError(f"{expected} Received: {where}.")
        yield number, row


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    row = dict(pairs)
    if len(row) != len(pairs):
        raise ValueError("a key stands there twice")
    return row


def _csv_rows(path: str) -> Iterator[tuple[int, list[str]]]:
    """Yields line numbers and rows; the header first."""
    lines = text_lines(path)
    header = next(lines, "")
    known = [mark for mark in _DELIMITERS if mark in header]
    rows = csv.reader(
        itertools.chain([header], lines),
        delimiter=known[0] if known else ",",
        # A quote that is not closed, or not where a field ends, is an error.
        strict=True,
    )
    while True:
        first = rows.line_num + 1
        where = f"{path}, line {first}"
        with parsing(where, "The table must be CSV, its quotes closed."):
            row = next(rows, None)
        if row is None:
            return
        if rows.line_num > first:
            _refuse_swallowed(row, where)
        if row:
            yield rows.line_num, row


def _refuse_swallowed(row: list[str], where: str) -> None:
    """Refuses a field over several lines that holds a row of its own."""
    for line in itertools.chain(*(field.split("\n")[1:] for field in row)):
        if any(is_image(part.strip(' "')) for part in line.split(",")):
            raise ValueError(
                f"A quote that begins in {where} is closed after a line that "
                f"looks like a row: {line.strip()[:80]!r}. Close the quote, "
                'and write a quote inside a caption as "".'
            )


def _columns(
    path: str,
    columns: list[str],
    image: str | None,
    caption: str,
    repeats: str | None,
) -> tuple[str, str, str | None]:
    if len(set(columns)) != len(columns):
        raise ValueError(
            f"Every column must have a name of its own. Received: {columns} "
            f"in {path}."
        )
    if image is None:
        known = [name for name in IMAGE_COLUMNS if name in columns]
        image = known[0] if known else IMAGE_COLUMNS[0]
    _check_column(path, columns, "image_column", image)
    _check_column(path, columns, "caption_column", caption)
    if repeats is not None:
        _check_column(path, columns, "repeats", repeats)
    return image, caption, repeats


def _check_column(
    path: str, columns: list[str], argument: str, name: str
) -> None:
    if name not in columns:
        raise ValueError(
            f"{path} has no column {name!r}. Its columns are {columns}."
            f"{checks.did_you_mean(name, columns)} Name the column "
            f"with `{argument}`, or rename it in the table."
        )


def _check_paths(
    path: str, root: str, paths: list[str], masks: dict[str, str]
) -> Findings:
    """Refuses rows without a file, and returns the files without a row."""
    if not paths:
        raise ValueError(_empty_table(path))
    names = set(paths)
    if len(names) != len(paths):
        counts = collections.Counter(paths)
        repeated = [name for name in counts if counts[name] > 1]
        raise ValueError(
            "Every image must have one row. Received: "
            f"{len(repeated)} paths with several in {path}: "
            f"{first_five(repeated)}. Remove the repeated rows; "
            "in JSON lines, an image with several captions holds them as a "
            "list."
        )
    names.update(masks.values())
    missing, unlisted = _compare(root, names)
    if missing:
        raise FileNotFoundError(
            f"{path} names {len(missing)} images that do not exist: "
            f"{first_five(missing)}. Paths are relative to {root}. Add the "
            "files or remove their rows."
        )
    findings = Findings()
    reason = f"without a row in {os.path.basename(path)}"
    findings.leave_out(reason, unlisted)
    return findings


def _compare(root: str, names: set[str]) -> tuple[list[str], list[str]]:
    """Returns the names without a file, and the images without a name.

    Takes the names that have a file out of the set. One listing of each
    folder that the names stand in, not one call to the file system for each.
    """
    unlisted = []
    for folder in {os.path.dirname(name) for name in names}:
        prefix = f"{folder}{os.sep}" if folder else ""
        try:
            entries = os.listdir(os.path.join(root, folder))
        except OSError:
            continue
        for entry in entries:
            name = prefix + entry
            if name in names:
                names.remove(name)
            elif is_photo(entry) and not is_hidden(entry):
                unlisted.append(name)
    # A file system may know a file under another spelling (case, accents)
    # than its listing gives, so absence is only believed from itself.
    missing = [
        name for name in names if not os.path.exists(os.path.join(root, name))
    ]
    return sorted(missing), sorted(unlisted)


def _empty_table(path: str) -> str:
    return (
        f"{path} has no rows. Expected one row for each image, with its path "
        "and its caption."
    )
