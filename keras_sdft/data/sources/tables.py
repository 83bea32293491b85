"""Tables of image paths and captions: JSON lines and CSV.

This file knows the two table formats and holds their rows to the folder that
the table stands in. It must not know pixels, tokens or TensorFlow.
"""

from __future__ import annotations

import csv
import itertools
import json
import logging
import os
from collections.abc import Iterator
from typing import Any

import numpy as np

from keras_sdft import checks
from keras_sdft.data.examples import Columns
from keras_sdft.data.examples import Examples
from keras_sdft.data.examples import check_captions
from keras_sdft.data.examples import first_five

logger = logging.getLogger(__name__)

# The names under which the field writes the column of paths, best known
# first; the first one that the table has is taken.
IMAGE_COLUMNS = ("file_name", "image", "image_path", "path")

IMAGE_EXTENSIONS = frozenset(
    ".avif .bmp .gif .jfif .jpeg .jpg .pgm .png .ppm .tif .tiff .webp".split()
)

# What a mask beside an image is called, after the image's own name.
MASK_ENDING = "-masklabel"


def is_image(path: str) -> bool:
    """Tells whether the name ends like an image file."""
    return os.path.splitext(path)[1].lower() in IMAGE_EXTENSIONS


def is_mask(path: str) -> bool:
    """Tells whether the name is a mask's: `"0001-masklabel.png"`."""
    return is_image(path) and os.path.splitext(path)[0].endswith(MASK_ENDING)


def is_photo(path: str) -> bool:
    """Tells whether the name is that of an image to train on, no mask."""
    return is_image(path) and not is_mask(path)


def is_hidden(name: str) -> bool:
    """Tells whether a system, not a person, put the file or folder there."""
    return name.startswith(".") or name in ("Thumbs.db", "__MACOSX")


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
        ValueError: If a column is missing, a row is short, or a path is
            repeated, missing or leaves the folder.
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
        caption = row[caption_key]
        if not isinstance(caption, str):
            caption = check_captions(caption, f"line {number} of {path}")
        paths.append(_inside(root, row[image_key], path, number))
        captions.append(caption)
        if mask_key is not None and row.get(mask_key):
            masks[paths[-1]] = _inside(root, row[mask_key], path, number)
        if repeats_key is not None:
            repeats.append(_repeats(row[repeats_key], path, number))
    records = _checked_columns(path, root, paths, captions, masks)
    if repeats_key is None:
        return Examples(records)
    return Examples(records, np.repeat(np.arange(len(paths)), repeats))


def _repeats(value: Any, table: str, line: int) -> int:
    text = str(value).strip()
    if isinstance(value, (int, str)) and text.isdecimal():
        return int(text)
    raise ValueError(
        "Repeats must be an integer of at least 0 in every row. "
        f"Received: {value!r} (line {line} of {table})."
    )


def _text_lines(path: str) -> Iterator[str]:
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            yield from file
    except UnicodeDecodeError as error:
        raise ValueError(
            f"Tables must be UTF-8 text. Received: {path}, which is not "
            f"({error.reason}). Save it again as UTF-8."
        ) from error


def _jsonl_rows(path: str) -> Iterator[tuple[int, dict]]:
    for number, line in enumerate(_text_lines(path), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise ValueError(
                "Every line must be one JSON object. "
                f"Received: line {number} of {path}: {line.strip()[:80]!r} "
                f"({error}). Correct the line or remove it."
            ) from error
        if not isinstance(row, dict):
            raise ValueError(
                'Every line must be one JSON object, as {"file_name": '
                f'"0001.png", "text": "a dog"}}. Received: line {number} of '
                f"{path}: {line.strip()[:80]!r}."
            )
        yield number, row


def _csv_rows(path: str) -> Iterator[tuple[int, list[str]]]:
    rows = csv.reader(_text_lines(path))
    while True:
        try:
            row = next(rows)
        except StopIteration:
            return
        except csv.Error as error:
            raise ValueError(
                f"The table must be CSV. Received: {path}, whose line "
                f"{rows.line_num} cannot be read ({error})."
            ) from error
        if row:
            yield rows.line_num, row


def _columns(
    path: str,
    columns: list[str],
    image: str | None,
    caption: str,
    repeats: str | None,
) -> tuple[str, str, str | None]:
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


def _inside(root: str, name: Any, table: str, line: int) -> str:
    """Returns the path relative to the root, in its shortest form."""
    if not isinstance(name, str) or not name.strip():
        raise ValueError(
            "An image path must be a non-empty string. "
            f"Received: {name!r} (line {line} of {table})."
        )
    # Nearly all names end here: a table may have millions.
    plain = "/." not in name and "//" not in name and ":" not in name
    if plain and name[0] not in "./\\":
        return name
    path = os.path.relpath(os.path.join(root, name), root)
    # On Windows, `relpath` keeps the drive of a path on another one.
    if path.split(os.sep)[0] == os.pardir or os.path.isabs(path):
        raise ValueError(
            "Image paths must stay inside the folder of the table. "
            f"Received: {name!r} (line {line} of {table}), which leaves "
            f"{root}. Move the image into the folder, or the table to a "
            "folder above both."
        )
    return path


def _checked_columns(
    path: str,
    root: str,
    paths: list[str],
    captions: list[str | tuple[str, ...]],
    masks: dict[str, str],
) -> Columns:
    if not paths:
        raise ValueError(_empty_table(path))
    names = set(paths)
    if len(names) != len(paths):
        repeated = _repeated(paths)
        raise ValueError(
            "Every image must have one row. Received: "
            f"{len(repeated)} paths with several in {path}: "
            f"{first_five(repeated)}. Remove the repeated rows; in JSON "
            "lines, an image with several captions holds them as a list."
        )
    names.update(masks.values())
    missing, unlisted = _compare(root, names)
    if missing:
        raise FileNotFoundError(
            f"{path} names {len(missing)} images that do not exist: "
            f"{first_five(missing)}. Paths are relative to {root}. Add the "
            "files or remove their rows."
        )
    if unlisted:
        logger.warning(
            "%s has no row for %d images beside those it names: %s. They are "
            "not used.",
            path,
            len(unlisted),
            first_five(unlisted),
        )
    return Columns(root, paths, captions, masks)


def _repeated(paths: list[str]) -> list[str]:
    seen: set[str] = set()
    repeated: dict[str, None] = {}
    for path in paths:
        if path in seen:
            repeated[path] = None
        seen.add(path)
    return list(repeated)


def _compare(root: str, names: set[str]) -> tuple[list[str], list[str]]:
    """Returns the names without a file, and the images without a name.

    Takes the names that have a file out of the set. One listing of each
    folder that the names stand in, not one call to the file system for each.
    """
    unlisted = []
    for folder in sorted({name.rpartition(os.sep)[0] for name in names}):
        prefix = folder + os.sep if folder else ""
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
