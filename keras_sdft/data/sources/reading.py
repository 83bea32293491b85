"""Any source -> examples: chooses the reader, and reads Python's iterables."""

import dataclasses
import os
import sys
from collections.abc import Iterable
from collections.abc import Mapping
from typing import Any

from keras_sdft import hub
from keras_sdft import signature
from keras_sdft.data.examples import Example
from keras_sdft.data.examples import Examples
from keras_sdft.data.examples import check_captions
from keras_sdft.data.examples import several
from keras_sdft.data.options import SourceOptions
from keras_sdft.data.sources import parquet
from keras_sdft.data.sources import tfds
from keras_sdft.data.sources.folders import CONVENTIONS
from keras_sdft.data.sources.folders import read_folder
from keras_sdft.data.sources.tables import read_table

# What an option is for, where not every source has a use for it.
_ONLY_FOR = {
    "reader": "a folder",
    "split": "a folder or a TFDS dataset",
    "image_column": "a table or a TFDS dataset",
    "repeats": "a table, where it is the name of a column,",
    "caption": "a folder",
}


@signature.takes(SourceOptions)
def read_examples(
    source: Any, *, masks: bool = False, **options: Any
) -> Examples:
    """Reads the examples of any source, without their pixels.

    Args:
        source: As for `keras_sdft.data.load`.
        **options: The fields of `keras_sdft.data.SourceOptions`.
        masks: Boolean, whether a table's column of masks is read.

    Returns:
        `Examples`, at least one; `caption_template` is not used yet.

    Raises:
        FileNotFoundError: If the folder or file, or an image that a table
            names, does not exist.
        TypeError: If an option does not exist.
        ValueError: If the source is empty, or is not what its kind must be.
    """
    return read_source(source, signature.make(SourceOptions, options), masks)


def read_source(source: Any, options: SourceOptions, masks: bool) -> Examples:
    """Reads the examples of any source; see `read_examples`."""
    source = hub.local(source, "data")
    if parquet.find_files(source):
        source = parquet.unpack(source, options.split, options.image_column)
        # These have been answered.
        options = dataclasses.replace(options, split=None, image_column=None)
    if _is_tfds(source):
        _refuse("a TFDS dataset", options, ("split", "image_column"))
        examples = tfds.read_tfds(source, options)
    elif not isinstance(source, (str, os.PathLike)):
        _refuse("an iterable", options, ())
        examples = read_pairs(source)
    elif os.path.isdir(source):
        examples = read_folder(os.fspath(source), options, masks)
    else:
        _refuse("a file", options, ("image_column", "repeats"))
        path = os.fspath(source)
        _check_table(path)
        examples = read_table(path, options, masks)
    if not len(examples):
        raise ValueError(f"No examples in {source}. {CONVENTIONS}")
    times = options.repeats
    return examples if isinstance(times, str) else examples.repeated(times)


def validation_split(source: Any) -> str | None:
    """Returns `"validation"` for a folder that holds a folder of this name.

    Without it the folder would be read without its validation images. `None`
    for every other source.
    """
    source = hub.local(source, "data")
    if files := parquet.find_files(source):
        return "validation" if "validation" in parquet.splits(files) else None
    named = isinstance(source, (str, os.PathLike))
    split = named and os.path.join(source, "validation")
    return "validation" if split and os.path.isdir(split) else None


def _check_table(path: str) -> None:
    if not os.path.exists(path):
        raise FileNotFoundError(
            f"`source` does not exist: {os.path.abspath(path)}. Expected a "
            "folder of captioned images, a .csv, .jsonl or .parquet file, "
            "'tfds:NAME', or 'hf://owner/name'."
        )
    if not path.lower().endswith((".csv", ".jsonl")):
        raise ValueError(
            "A file as `source` must be a .csv, .jsonl or .parquet table. "
            f"Received: {path}. For a folder of images, name the folder."
        )


def _is_tfds(source: Any) -> bool:
    if isinstance(source, str):
        return source.startswith(tfds.PREFIX)
    # Only a program that has imported TFDS can hold one of its builders.
    library = sys.modules.get("tensorflow_datasets")
    return library is not None and isinstance(
        source, library.core.DatasetBuilder
    )


def _refuse(kind: str, options: SourceOptions, used: tuple[str, ...]) -> None:
    """Refuses options that this kind of source has no use for."""
    given = {**vars(options), "repeats": options.repeats_column}
    for name, wanted in _ONLY_FOR.items():
        if given[name] is not None and name not in used:
            raise ValueError(
                f"`{name}` is for {wanted} and `source` is {kind}. "
                f"Received: {name}={given[name]!r}. Leave it out."
            )


def read_pairs(source: Iterable) -> Examples:
    """Reads an iterable of `(image, caption)` pairs, or of `Example`s.

    A sequence is indexed when an example is needed; what another iterable
    yields stays in memory.

    Raises:
        ValueError: If `source` is no iterable of such pairs.
    """
    indexed = hasattr(source, "__getitem__")
    if isinstance(source, (Mapping, bytes)) or not (
        hasattr(source, "__iter__") or indexed
    ):
        raise ValueError(
            "`source` must be a folder, a .csv or .jsonl file, 'tfds:NAME', "
            "or an iterable of (image, caption) pairs. "
            f"Received: {type(source).__name__}."
        )
    is_held = not (indexed and hasattr(source, "__len__"))
    is_held |= isinstance(source, (list, tuple))
    pairs = Pairs(list(source) if is_held else source)
    if is_held:
        # They are in memory, so all of them are looked at now.
        pairs.captions = [pairs[n].captions for n in range(len(pairs))]
    return Examples(pairs)


class Pairs:
    """A caller's sequence of pairs, indexed from several threads.

    Attributes:
        captions: List of tuples of strings, where they are in memory.
    """

    captions: list[tuple[str, ...]]

    def __init__(self, pairs: Any):
        self._pairs = pairs

    def __len__(self) -> int:
        return len(self._pairs)

    def __getitem__(self, index: int) -> Example:
        where = f"item {index} of the source"
        example = self._pairs[index]
        if not isinstance(example, Example):
            if not isinstance(example, (tuple, list)) or len(example) != 2:
                raise ValueError(
                    "A source that is an iterable must give "
                    "`keras_sdft.data.Example`s or (image, caption) pairs. "
                    f"Received: {type(example).__name__} ({where})."
                )
            example = Example(*example)
        captions = several(check_captions(example.captions, where))
        named = isinstance(example.image, (str, os.PathLike))
        name = os.fspath(example.image) if named else f"image {index}"
        name = example.name or name
        return dataclasses.replace(example, captions=captions, name=name)
