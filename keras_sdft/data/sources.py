"""Sources: what a caller names or hands over -> examples.

This file chooses the reader. It must not know pixels, tokens or TensorFlow.
"""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Iterable
from collections.abc import Mapping
from typing import Any

from keras_sdft.data import tfds_examples
from keras_sdft.data.examples import Example
from keras_sdft.data.examples import Examples
from keras_sdft.data.examples import check_captions
from keras_sdft.data.folders import CONVENTIONS
from keras_sdft.data.folders import read_folder
from keras_sdft.data.options import check_repeats
from keras_sdft.data.tables import read_csv
from keras_sdft.data.tables import read_jsonl


def read_examples(
    source: Any,
    *,
    reader: str | None = None,
    split: str | None = None,
    image_column: str | None = None,
    caption_column: str = "text",
    mask_column: str | None = None,
    repeats: int | str = 1,
) -> Examples:
    """Reads the examples of any source, without their pixels.

    Args:
        source: A folder, a `.csv` or `.jsonl` file, `"tfds:NAME"` or
            `"tfds:NAME:SPLIT"`, a TFDS builder, or an iterable of
            `(image, caption)`. See `keras_sdft.data.load`.
        reader: For a folder: one of `"metadata_jsonl"`, `"metadata_csv"`,
            `"caption_files"` and `"class_folders"`. `None` finds it.
        split: For a folder, `"train"`, `"validation"` or `"test"`; for TFDS,
            any TFDS split.
        image_column: Column, key or feature of the image. `None` finds it.
        caption_column: Column, key or feature of the caption. Defaults to
            `"text"`.
        mask_column: For a table, the column or key of the mask's path. `None`
            reads no masks.
        repeats: Integer >= 1, how often each example stands in the result; or,
            for a table, the column or key of that number.

    Returns:
        `Examples`, at least one.

    Raises:
        FileNotFoundError: If the folder or file, or an image that a table
            names, does not exist.
        ValueError: If the source is empty, or is not what its kind must be.
    """
    table: dict[str, Any] = {"mask_column": mask_column}
    times = check_repeats(repeats)
    if times is None:
        table["repeats_column"] = repeats
    examples = _read(source, reader, split, image_column, caption_column, table)
    return examples if times in (None, 1) else examples.repeated(times)


def _read(
    source: Any,
    reader: str | None,
    split: str | None,
    image_column: str | None,
    caption_column: str,
    table: dict[str, Any],
) -> Examples:
    columns: dict[str, Any] = {
        "image_column": image_column,
        "caption_column": caption_column,
    }
    if _is_tfds(source):
        _refuse_reader(reader, "a TFDS dataset")
        _refuse_repeats_column(table, "a TFDS dataset")
        return tfds_examples.read_tfds(source, split=split, **columns)
    if isinstance(source, (str, os.PathLike)):
        path = os.fspath(source)
        columns.update(table)
        if os.path.isdir(path):
            return _not_empty(
                read_folder(path, reader=reader, split=split, **columns), path
            )
        _refuse_reader(reader, "a file")
        _refuse_split(split, "a file")
        return _not_empty(_read_file(path, **columns), path)
    _refuse_reader(reader, "an iterable")
    _refuse_split(split, "an iterable")
    _refuse_repeats_column(table, "an iterable")
    return _not_empty(read_pairs(source), "the iterable")


class Pairs:
    """`(image, caption)` pairs of the caller's as examples.

    Args:
        pairs: Sequence of pairs. It is indexed when an example is needed, from
            several threads.
    """

    def __init__(self, pairs: Any):
        self._pairs = pairs

    def __len__(self) -> int:
        return len(self._pairs)

    def __getitem__(self, index: int) -> Example:
        where = f"item {index} of the source"
        pair = self._pairs[index]
        if isinstance(pair, Example):
            return _named(pair, index)
        if not isinstance(pair, (tuple, list)) or len(pair) != 2:
            raise ValueError(
                "A source that is an iterable must give "
                "`keras_sdft.data.Example`s or (image, caption) pairs. "
                f"Received: {type(pair).__name__} ({where})."
            )
        image, captions = pair
        captions = check_captions(captions, where)
        if isinstance(captions, str):
            captions = (captions,)
        return Example(image, captions, name=_name(image, index))


def _named(example: Example, index: int) -> Example:
    captions = check_captions(example.captions, f"item {index} of the source")
    if isinstance(captions, str):
        captions = (captions,)
    name = example.name or _name(example.image, index)
    return dataclasses.replace(example, captions=captions, name=name)


def _name(image: Any, index: int) -> str:
    named = isinstance(image, (str, os.PathLike))
    return os.fspath(image) if named else f"image {index}"


class ListedPairs(Pairs):
    """Pairs that are in memory, all looked at once, with their captions."""

    def __init__(self, pairs: Any):
        super().__init__(pairs)
        count = range(len(pairs))
        self.captions = [self[index].captions for index in count]


def read_pairs(source: Iterable) -> Examples:
    """Reads an iterable of `(image, caption)` pairs.

    Args:
        source: A sequence, indexed when an example is needed, or another
            iterable, which is listed: what it yields stays in memory. An
            image is a path, a `PIL.Image.Image` or a uint8 array; a caption
            is a string or a list of several. An `Example` may stand for a
            pair, with a mask and a weight.

    Returns:
        `Examples`.

    Raises:
        ValueError: If `source` is no iterable of such pairs.
    """
    if isinstance(source, (list, tuple)):
        return Examples(ListedPairs(source))
    if isinstance(source, (Mapping, bytes)) or not _is_iterable(source):
        raise ValueError(
            "`source` must be a folder, a .csv or .jsonl file, 'tfds:NAME', "
            "or an iterable of (image, caption) pairs. "
            f"Received: {type(source).__name__}."
        )
    if hasattr(source, "__len__") and hasattr(source, "__getitem__"):
        return Examples(Pairs(source))
    return Examples(ListedPairs(list(source)))


def _read_file(path: str, **columns: Any) -> Examples:
    if not os.path.exists(path):
        raise FileNotFoundError(
            f"`source` does not exist: {os.path.abspath(path)}. Expected a "
            "folder of captioned images, a .csv or .jsonl file, or "
            "'tfds:NAME'."
        )
    extension = os.path.splitext(path)[1].lower()
    readers = {".csv": read_csv, ".jsonl": read_jsonl}
    if extension not in readers:
        raise ValueError(
            "A file as `source` must be a .csv or .jsonl table. "
            f"Received: {path}. For a folder of images, name the folder."
        )
    return readers[extension](path, **columns)


def _is_tfds(source: Any) -> bool:
    if isinstance(source, str):
        return source.startswith(tfds_examples.PREFIX)
    # Only a program that has imported TFDS can hold one of its builders.
    tfds = sys.modules.get("tensorflow_datasets")
    return tfds is not None and isinstance(source, tfds.core.DatasetBuilder)


def _is_iterable(source: Any) -> bool:
    return hasattr(source, "__iter__") or hasattr(source, "__getitem__")


def _not_empty(examples: Examples, name: str) -> Examples:
    if not len(examples):
        raise ValueError(f"No examples in {name}. " + CONVENTIONS)
    return examples


def _refuse_reader(reader: str | None, kind: str) -> None:
    if reader is not None:
        raise ValueError(
            "`reader` chooses how a folder is read, and `source` is "
            f"{kind}. Received: reader={reader!r}. Leave it out."
        )


def _refuse_repeats_column(table: dict[str, Any], kind: str) -> None:
    if "repeats_column" in table:
        raise ValueError(
            "`repeats` names a column of a table where it is a string, and "
            f"`source` is {kind}. Received: "
            f"repeats={table['repeats_column']!r}. Pass an integer."
        )


def _refuse_split(split: str | None, kind: str) -> None:
    if split is not None:
        raise ValueError(
            "`split` is for folders and TFDS datasets, and `source` is "
            f"{kind}. Received: split={split!r}. Leave it out."
        )
