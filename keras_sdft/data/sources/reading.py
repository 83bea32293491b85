"""Any source -> examples: chooses the reader.

This file must not know pixels or tokens.
"""

from __future__ import annotations

import os
import sys
from typing import Any

from keras_sdft.data.examples import Examples
from keras_sdft.data.options import check_repeats
from keras_sdft.data.sources import tfds
from keras_sdft.data.sources.folders import CONVENTIONS
from keras_sdft.data.sources.folders import read_folder
from keras_sdft.data.sources.iterables import read_pairs
from keras_sdft.data.sources.tables import read_table

# What an option is for, where not every source has a use for it.
_ONLY_FOR = {
    "reader": "a folder",
    "split": "a folder or a TFDS dataset",
    "image_column": "a table or a TFDS dataset",
    "repeats": "a table, where it is the name of a column,",
    "caption": "a folder",
}


def read_examples(
    source: Any,
    *,
    reader: str | None = None,
    split: str | None = None,
    image_column: str | None = None,
    caption_column: str = "text",
    mask_column: str | None = None,
    repeats: int | str = 1,
    caption: str | None = None,
) -> Examples:
    """Reads the examples of any source, without their pixels.

    Args:
        source: A folder, a `.csv` or `.jsonl` file, `"tfds:NAME"` or
            `"tfds:NAME:SPLIT"`, a TFDS builder, or an iterable of
            `(image, caption)`. See `keras_sdft.data.load`.
        reader: See `keras_sdft.data.load`.
        split: See `keras_sdft.data.load`.
        image_column: See `keras_sdft.data.load`.
        caption_column: See `keras_sdft.data.load`.
        mask_column: For a table, the column or key of the mask's path. `None`
            reads no masks.
        repeats: Integer >= 1, how often each example stands in the result; or,
            for a table, the column or key of that number.
        caption: See `keras_sdft.data.load`.

    Returns:
        `Examples`, at least one.

    Raises:
        FileNotFoundError: If the folder or file, or an image that a table
            names, does not exist.
        ValueError: If the source is empty, or is not what its kind must be.
    """
    times = check_repeats(repeats)
    column = None if times else str(repeats)
    columns: dict[str, Any] = {
        "image_column": image_column,
        "caption_column": caption_column,
    }
    table = {**columns, "mask_column": mask_column, "repeats_column": column}
    if _is_tfds(source):
        given = {"reader": reader, "repeats": column, "caption": caption}
        _refuse("a TFDS dataset", **given)
        examples = tfds.read_tfds(source, split=split, **columns)
    elif not isinstance(source, (str, os.PathLike)):
        given = {"reader": reader, "split": split, "repeats": column}
        given |= {"image_column": image_column, "caption": caption}
        _refuse("an iterable", **given)
        examples = read_pairs(source)
    elif os.path.isdir(source):
        folder = os.fspath(source)
        given = {"reader": reader, "split": split, "caption": caption}
        examples = read_folder(folder, **given, **table)
    else:
        _refuse("a file", reader=reader, split=split, caption=caption)
        examples = _read_table(os.fspath(source), **table)
    if not len(examples):
        raise ValueError(f"No examples in {source}. {CONVENTIONS}")
    return examples.repeated(times or 1)


def validation_split(source: Any) -> str | None:
    """Returns `"validation"` for a folder that holds a folder of this name.

    Without it the folder would be read without its validation images. `None`
    for every other source.
    """
    named = isinstance(source, (str, os.PathLike))
    split = named and os.path.join(source, "validation")
    return "validation" if split and os.path.isdir(split) else None


def _read_table(path: str, **columns: Any) -> Examples:
    if not os.path.exists(path):
        raise FileNotFoundError(
            f"`source` does not exist: {os.path.abspath(path)}. Expected a "
            "folder of captioned images, a .csv or .jsonl file, or "
            "'tfds:NAME'."
        )
    if not path.lower().endswith((".csv", ".jsonl")):
        raise ValueError(
            "A file as `source` must be a .csv or .jsonl table. "
            f"Received: {path}. For a folder of images, name the folder."
        )
    return read_table(path, **columns)


def _is_tfds(source: Any) -> bool:
    if isinstance(source, str):
        return source.startswith(tfds.PREFIX)
    # Only a program that has imported TFDS can hold one of its builders.
    library = sys.modules.get("tensorflow_datasets")
    return library is not None and isinstance(
        source, library.core.DatasetBuilder
    )


def _refuse(kind: str, **given: Any) -> None:
    """Refuses what has no use for this kind of source."""
    for name, value in given.items():
        if value is not None:
            raise ValueError(
                f"`{name}` is for {_ONLY_FOR[name]} and `source` is {kind}. "
                f"Received: {name}={value!r}. Leave it out."
            )
