"""Class images: how many there are, and the names and seeds of new ones.

Must not know how an image is generated, or TensorFlow.
"""

from __future__ import annotations

import json
import os
import re
from typing import Any

from keras_sdft import checks
from keras_sdft.data.examples import first_five
from keras_sdft.data.sources.filenames import is_photo
from keras_sdft.data.sources.filenames import walk
from keras_sdft.files import check_space

# Beside the images: one line for each that was generated, with its seed.
RECORD = "class_images.jsonl"

_NAME = re.compile(r"seed-(\d+)\.png")
# What a file takes beside its pixels.
_HEADER_BYTES = 4096


def missing_class_images(
    directory: str | os.PathLike,
    num_images: int,
    prompt: str | None = None,
    seed: int = 0,
) -> list[tuple[str, int]]:
    """Returns the names and seeds of the class images still to generate.

    All images in the folder count, whoever put them there. New ones get the
    next seeds that no image there has.

    Args:
        directory: Folder of class images; it need not exist.
        num_images: Integer >= 1, how many there shall be.
        prompt: String, the class prompt. `None` does not compare it.
        seed: Integer >= 0, the first seed. Defaults to `0`.

    Returns:
        List of `(file name, seed)`, empty if there are enough.

    Raises:
        ValueError: If images there were generated from another prompt.
    """
    checks.integer("num_class_images", num_images, 1)
    checks.integer("seed", seed, 0)
    directory, found = os.fspath(directory), []
    if os.path.isdir(directory):
        found = [path for path in walk(directory) if is_photo(path)]
    if prompt is not None:
        _refuse_other_prompt(directory, found, prompt)
    used = {int(match[1]) for match in map(_NAME.fullmatch, found) if match}
    new: list[tuple[str, int]] = []
    while len(found) + len(new) < num_images:
        if seed not in used:
            new.append((f"seed-{seed:010d}.png", seed))
        seed += 1
    return new


def check_disk_space(
    directory: str | os.PathLike, num_images: int, height: int, width: int
) -> None:
    """Refuses more class images than the disk of `directory` has room for.

    Raises:
        OSError: If `num_images` still to generate may need more than is free;
            each is counted as large as its pixels.
    """
    check_space(
        directory,
        num_images * (height * width * 3 + _HEADER_BYTES),
        f"`num_class_images` ({num_images} still to generate)",
        "Or ask for fewer.",
    )


def read_record(directory: str | os.PathLike) -> dict[str, dict[str, Any]]:
    """Returns what is recorded of each class image, by its file name."""
    path = os.path.join(directory, RECORD)
    if not os.path.isfile(path):
        return {}
    rows = {}
    with open(path, encoding="utf-8", errors="replace") as file:
        for line in file:
            try:
                row = json.loads(line)
                rows[row["file_name"]] = row
            # The end of a line may be lost where a machine was stopped.
            except (ValueError, TypeError, KeyError, RecursionError):
                continue
    return rows


def add_to_record(directory: str | os.PathLike, row: dict[str, Any]) -> None:
    """Writes what an image is made from as a line of the record.

    Args:
        directory: Folder of class images, which exists.
        row: Dict with `file_name`, `text`, `seed` and what else is known.
    """
    line = json.dumps(row, ensure_ascii=False).encode("utf-8") + b"\n"
    with open(os.path.join(directory, RECORD), "ab+") as file:
        if file.tell():
            file.seek(-1, os.SEEK_END)
            # A line that was cut short shall not swallow this one.
            line = line if file.read(1) == b"\n" else b"\n" + line
        file.write(line)


def _refuse_other_prompt(directory: str, found: list[str], prompt: str) -> None:
    record = read_record(directory)
    others = [
        name
        for name in found
        if name in record and record[name].get("text") != prompt
    ]
    if others:
        raise ValueError(
            f"{len(others)} images in {directory} were generated from another "
            f"class prompt: {first_five(others)} from "
            f"{record[others[0]].get('text')!r}. Received: "
            f"class_prompt={prompt!r}. Name another `class_data_dir`, or "
            "remove these images."
        )
