"""Parquet files, as the Hub keeps data sets: unpacked into a folder once.

What becomes of the folder is `folders`' to know.
"""

import hashlib
import json
import logging
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from keras_sdft import checks
from keras_sdft import disk
from keras_sdft import files
from keras_sdft import parsing
from keras_sdft.data.images import image_format
from keras_sdft.data.sources.filenames import IMAGE_EXTENSIONS
from keras_sdft.data.sources.filenames import extension
from keras_sdft.data.sources.filenames import is_hidden
from keras_sdft.data.sources.filenames import is_image
from keras_sdft.data.sources.folders import SPLITS
from keras_sdft.data.sources.folders import TABLES
from keras_sdft.reprs import first_five

logger = logging.getLogger(__name__)

FOLDER = os.path.join("~", ".cache", "keras_sdft", "parquet")
# Held by the processes that read a folder of it.
LOCK = ".lock"
_TABLE = TABLES["metadata_jsonl"]
_OURS = re.compile(rf"{re.escape(_TABLE)}|\d{{8}}\.\w+|{re.escape(LOCK)}")
_DIGEST = re.compile(r"[0-9a-f]{20}")
# In memory at once.
_ROWS = 16
# Of a column: bytes that may become of one byte, beyond some that always may.
# Images hardly shrink; what shrinks a thousandfold fills the memory.
_EXPANSION = 8
_FREE_BYTES = 16 * 2**20
_SPLIT = re.compile(rf"(?:.*[/_-])?({'|'.join(SPLITS)})(?:[/_.-].*)")


def find_files(source: Any) -> list[str]:
    """Returns the paths of the parquet files that a source consists of.

    Args:
        source: A `.parquet` file, or a folder of such. One that holds images
            or a table as well is none, nor is a source of another kind.
    """
    if not isinstance(source, (str, os.PathLike)) or not os.path.exists(source):
        return []
    source = os.fspath(source)
    if not os.path.isdir(source):
        return [source] if source.lower().endswith(".parquet") else []
    found = []
    for folder, _, names in os.walk(source):
        names = sorted(name for name in names if not is_hidden(name))
        if any(is_image(name) or name in TABLES.values() for name in names):
            return []
        found += [
            os.path.join(folder, name)
            for name in names
            if extension(name) == ".parquet"
        ]
    return sorted(found)


def splits(paths: list[str]) -> dict[str, list[str]]:
    """Returns the files of each split, by its name in their paths.

    Without a name, a file is of `"train"`.
    """
    found: dict[str, list[str]] = {}
    root = os.path.dirname(os.path.commonpath(paths))
    for path in paths:
        name = Path(os.path.relpath(path, root)).as_posix()
        match = _SPLIT.fullmatch(name)
        found.setdefault(match[1] if match else "train", []).append(path)
    return found


def unpack(
    source: str | os.PathLike, split: str | None, image_column: str | None
) -> str:
    """Writes the images of parquet files, and a table of all else of theirs.

    Once: a folder that was written from the same files is used again.

    Args:
        source: As for `find_files`.
        split: Name of a split. `None` is `"train"`.
        image_column: Name of the column of images. `None` is the only one.

    Returns:
        The path of a folder with a `metadata.jsonl`.

    Raises:
        OSError: If the disk has no room for it.
        ValueError: If there is no such split, column or image.
    """
    paths = find_files(source)
    by_split = splits(paths)
    if (split or "train") not in by_split:
        raise ValueError(
            f"{os.fspath(source)!r} has no split {split or 'train'!r}. Its "
            f"parquet files are of {sorted(by_split)}. Name one with `split`."
        )
    chosen = by_split[split or "train"]
    column = _image_column(chosen[0], image_column)
    states = [os.stat(path) for path in chosen]
    # What tells whether the folder is of these files.
    told = [
        [os.path.realpath(path), state.st_size, state.st_mtime_ns]
        for path, state in zip(chosen, states, strict=True)
    ]
    digest = hashlib.sha256(json.dumps([told, column]).encode()).hexdigest()
    target = unpacked_folder() / digest[:20]
    if not (target / _TABLE).is_file():
        size = sum(state.st_size for state in states)
        disk.check_space(target, size, "The data set, unpacked,", "")
        logger.warning(
            "Unpacking %d parquet files (%s) into %s, once.",
            len(chosen),
            disk.size_text(size),
            target,
        )
        with files.staged_directory(target, _written) as staging:
            _write(chosen, column, staging)
    files.mark_used(target / LOCK)
    return str(target)


def unpacked_folder() -> Path:
    """Returns the folder that holds what `unpack` wrote; it may not exist."""
    return Path(FOLDER).expanduser()


def unpacked_files(directory: Path) -> list[str]:
    """Returns the names of the files that `unpack` wrote, in order of removal.

    Args:
        directory: A folder that it wrote; of any other there are none.
    """
    if not _DIGEST.fullmatch(directory.name) or not directory.is_dir():
        return []
    # Without its table it is unpacked again.
    return sorted(_written(directory), key=lambda n: (n != _TABLE, n == LOCK))


def _written(directory: Path) -> list[str]:
    return [name for name in os.listdir(directory) if _OURS.fullmatch(name)]


def _image_column(path: str, wanted: str | None) -> str:
    import pyarrow
    from pyarrow import parquet

    with parsing.reading(path, "parquet file"):
        schema = parquet.read_schema(path)
    found = []
    for name, kind in zip(schema.names, schema.types, strict=True):
        is_bytes = kind in (pyarrow.binary(), pyarrow.large_binary())
        is_struct = pyarrow.types.is_struct(kind)
        if is_bytes or (is_struct and kind.get_field_index("bytes") >= 0):
            found.append(name)
    if wanted in found:
        return str(wanted)
    if wanted is None and len(found) == 1:
        return str(found[0])
    near = checks.did_you_mean(wanted, found) if wanted else ""
    raise ValueError(
        f"`image_column` must name the column of images of {path}. Columns "
        f"that hold bytes: {found}; all: {schema.names}. Received: "
        f"image_column={wanted!r}.{near}"
    )


def _write(paths: list[str], column: str, folder: Path) -> None:
    count, without = 0, []
    with open(folder / _TABLE, "w", encoding="utf-8") as table:
        for where, time, row in _rows(paths):
            image = row.pop(column)
            given = image if isinstance(image, dict) else {"bytes": image}
            data = given.get("bytes")
            if not data:
                without.append(where)
                continue
            ending = extension(given.get("path") or "")
            if ending not in IMAGE_EXTENSIONS:
                # One that cannot be read is reported with the others.
                ending = f".{image_format(data) or 'png'}"
            name = f"{count:08d}{ending}"
            (folder / name).write_bytes(data)
            # Unpacked again, it is the same for a cache of it.
            os.utime(folder / name, ns=(time, time))
            plain = {k: v for k, v in row.items() if _is_plain(v)}
            line = {**plain, "file_name": name}
            table.write(json.dumps(line, ensure_ascii=False) + "\n")
            count += 1
    if without:
        raise ValueError(
            f"{len(without)} of {count + len(without)} rows hold no image, "
            f"but at most its path: {first_five(without)}. Expected its bytes, "
            "as `datasets` writes with `embed_external_files`."
        )


def _rows(paths: list[str]) -> Iterator[tuple[str, int, dict[str, Any]]]:
    """Yields where each row is, its file's time of change, and the row.

    A few are in memory at once.
    """
    from pyarrow import parquet

    for path in paths:
        number, time = 0, os.stat(path).st_mtime_ns
        with parsing.reading(path, "parquet file"):
            file = parquet.ParquetFile(path)
            _check_expansion(file.metadata)
            for batch in file.iter_batches(_ROWS):
                for row in batch.to_pylist():
                    yield f"row {number} of {path}", time, row
                    number += 1


def _check_expansion(metadata: Any) -> None:
    for group in map(metadata.row_group, range(metadata.num_row_groups)):
        for column in map(group.column, range(group.num_columns)):
            held = column.total_compressed_size
            size = column.total_uncompressed_size
            if size > _EXPANSION * held + _FREE_BYTES:
                raise ValueError(
                    f"the column {column.path_in_schema!r} has "
                    f"{disk.size_text(held)} and would take "
                    f"{disk.size_text(size)} of memory; the budget is "
                    f"{_EXPANSION} times its size and "
                    f"{disk.size_text(_FREE_BYTES)}"
                )


def _is_plain(value: Any) -> bool:
    if isinstance(value, list):
        return all(isinstance(item, str) for item in value)
    return isinstance(value, (str, int, float))
