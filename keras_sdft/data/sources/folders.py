"""Folders of captioned images: which convention one follows, and its reader.

This file knows file names and caption files. It must not know pixels, tokens
or TensorFlow, and it changes nothing in the folder.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
from collections.abc import Iterable

import numpy as np

from keras_sdft import checks
from keras_sdft.data.examples import Columns
from keras_sdft.data.examples import Examples
from keras_sdft.data.examples import first_five
from keras_sdft.data.sources.tables import MASK_ENDING
from keras_sdft.data.sources.tables import is_hidden
from keras_sdft.data.sources.tables import is_mask
from keras_sdft.data.sources.tables import is_photo
from keras_sdft.data.sources.tables import read_csv
from keras_sdft.data.sources.tables import read_jsonl

logger = logging.getLogger(__name__)

READERS = ("metadata_jsonl", "metadata_csv", "caption_files", "class_folders")
SPLITS = ("train", "validation", "test")
TABLES = {"metadata_jsonl": "metadata.jsonl", "metadata_csv": "metadata.csv"}
CAPTION_EXTENSIONS = (".txt", ".caption")

CONVENTIONS = (
    "Expected one of: a metadata.jsonl with lines as "
    '{"file_name": "0001.png", "text": "a dog"}; a metadata.csv with columns '
    "file_name and text; a .txt or .caption file of the same name beside each "
    'image; or folders named as "10_sks dog" (repeats, then the caption).'
)

_CLASS_FOLDER = re.compile(r"(\d+)_(.+)")
# Beyond this, a number before a folder's name is more likely a year.
_MANY_REPEATS = 1000


def read_folder(
    folder: str,
    *,
    reader: str | None = None,
    split: str | None = None,
    image_column: str | None = None,
    caption_column: str = "text",
    mask_column: str | None = None,
    repeats_column: str | None = None,
) -> Examples:
    """Reads a folder of captioned images.

    Args:
        folder: String, the folder.
        reader: One of `"metadata_jsonl"`, `"metadata_csv"`,
            `"caption_files"` and `"class_folders"`. `None` finds the one that
            the folder follows.
        split: `"train"`, `"validation"` or `"test"`: the sub-folder of this
            name. `None` and `"train"` read `train/` where the folder itself
            holds neither images nor a table, and else the folder without its
            `validation/` and `test/`.
        image_column: See `tables.read_jsonl`.
        caption_column: See `tables.read_jsonl`.
        mask_column: See `tables.read_jsonl`. Without a table, an image's mask
            is the file of the same name that ends in `-masklabel.png`.
        repeats_column: See `tables.read_jsonl`.

    Returns:
        `Examples`, in the order of the table or of the sorted paths.

    Raises:
        FileNotFoundError: If the folder, or an image of a table, is missing.
        ValueError: If the folder is empty, follows no convention or more than
            one, or if an image has no caption or a caption no image.
    """
    if reader is not None:
        checks.one_of("reader", reader, READERS)
    root = _split_root(folder, split)
    reader = reader or _find_table(root)
    if reader in TABLES:
        table = os.path.join(root, TABLES[reader])
        if not os.path.isfile(table):
            raise FileNotFoundError(
                f"`reader={reader!r}` reads {TABLES[reader]}, and {root} has "
                "none. Add the file or leave `reader` out."
            )
        read = read_jsonl if reader == "metadata_jsonl" else read_csv
        return read(
            table, image_column, caption_column, mask_column, repeats_column
        )
    if repeats_column is not None:
        raise ValueError(
            "`repeats` names a column where it is a string, and "
            f"{root} holds no table. Received: repeats={repeats_column!r}. "
            "Pass an integer, or add a metadata.jsonl."
        )
    files = walk(root, skip=SPLITS[1:])
    images = [path for path in files if is_photo(path)]
    if not images:
        raise ValueError(
            f"The folder holds no images: {root} ({len(files)} files in all). "
            + CONVENTIONS
        )
    reader = reader or _find_by_names(root, images)
    if reader == "class_folders":
        return read_class_folders(root, files)
    return read_caption_files(root, files)


def walk(root: str, skip: Iterable[str] = ()) -> list[str]:
    """Lists the files under a folder, sorted, without hidden ones.

    Args:
        root: String, the folder. Links to folders are followed.
        skip: Names of folders directly under `root` to leave out.

    Returns:
        List of strings, the paths relative to `root`.
    """
    files = []
    for folder, names, entries in os.walk(
        root, followlinks=True, onerror=_raise
    ):
        names[:] = sorted(
            name
            for name in names
            if not is_hidden(name)
            and not (folder == root and name in skip)
            and not _is_loop(folder, name)
        )
        prefix = os.path.relpath(folder, root)
        for entry in sorted(entries):
            if not is_hidden(entry):
                path = os.path.join(prefix, entry)
                files.append(entry if prefix == os.curdir else path)
    return files


def read_caption_files(root: str, files: list[str]) -> Examples:
    """Reads images with a `.txt` or `.caption` file of the same name.

    Each line that is not blank is one caption; an empty file is the empty
    caption.

    Args:
        root: String, the folder.
        files: List of strings, the files under it, as `walk` gives them.

    Returns:
        `Examples`, in the order of `files`.

    Raises:
        ValueError: If an image has no caption file or the reverse, if both
            kinds stand beside one image, or if one is not UTF-8.
    """
    images = [path for path in files if is_photo(path)]
    texts = _caption_files(files)
    if not texts:
        raise ValueError(
            f"None of the {len(images)} images in {root} has a caption. "
            + CONVENTIONS
        )
    _refuse_orphans(root, images, texts)
    without = [path for path in images if _stem(path) not in texts]
    if without:
        raise ValueError(
            f"{len(without)} of {len(images)} images in {root} have no "
            f"caption file: {first_five(without)}. Add a .txt file of the "
            "same name beside each, or move the images away."
        )
    captions = [_read_caption(root, texts[_stem(path)]) for path in images]
    masks = masks_beside(images, files)
    return Examples(Columns(root, images, captions, masks))


def read_class_folders(root: str, files: list[str]) -> Examples:
    """Reads folders named `"10_sks dog"`: ten repeats of "sks dog".

    The name of the folder is the caption of the images in it that have no
    caption file of their own.

    Args:
        root: String, the folder that holds the class folders.
        files: List of strings, the files under it, as `walk` gives them.

    Returns:
        `Examples`; a repeated image stands in several rows.

    Raises:
        ValueError: If an image stands outside the class folders, or a caption
            file has no image.
    """
    images = [path for path in files if is_photo(path)]
    classes = [_class_of(path) for path in images]
    outside = [
        path for path, own in zip(images, classes, strict=True) if own is None
    ]
    if outside:
        raise ValueError(
            'All images must stand in folders named as "10_sks dog". '
            f"Received: {len(outside)} of {len(images)} images in {root} that "
            f"do not: {first_five(outside)}. Move them, or pass "
            '`reader="caption_files"` to ignore the numbers.'
        )
    texts = _caption_files(files)
    _refuse_orphans(root, images, texts)
    captions: list[str | tuple[str, ...]] = []
    repeats = []
    for path, (times, caption) in zip(
        images, filter(None, classes), strict=True
    ):
        text = texts.get(_stem(path))
        captions.append(_read_caption(root, text) if text else caption)
        repeats.append(times)
    _report_repeats(root, images)
    rows = np.repeat(np.arange(len(images)), repeats)
    masks = masks_beside(images, files)
    return Examples(Columns(root, images, captions, masks), rows)


def read_photos(root: str | os.PathLike, caption: str) -> Examples:
    """Reads all images of a folder, with the same caption for each.

    Args:
        root: Path of the folder. Caption files and tables are not read.
        caption: String.

    Returns:
        `Examples`, none if the folder holds no image. Their names begin with
        the folder's, to tell those of two folders apart.
    """
    parent, name = os.path.split(os.path.abspath(root))
    files = [os.path.join(name, path) for path in walk(os.fspath(root))]
    images = [path for path in files if is_photo(path)]
    masks = masks_beside(images, files)
    return Examples(Columns(parent, images, [caption] * len(images), masks))


def masks_beside(images: list[str], files: list[str]) -> dict[str, str]:
    """Returns the masks by their images: "1-masklabel.png" for "1.jpg".

    Raises:
        ValueError: If a mask has no image.
    """
    masks = {_stem(path): path for path in files if is_mask(path)}
    if not masks:
        return {}
    own = {path: masks.get(_stem(path) + MASK_ENDING) for path in images}
    found = {path: mask for path, mask in own.items() if mask is not None}
    orphans = sorted(set(masks.values()) - set(found.values()))
    if orphans:
        raise ValueError(
            f"{len(orphans)} masks have no image: {first_five(orphans)}. Add "
            "the images, or move these files away."
        )
    return found


def _split_root(folder: str, split: str | None) -> str:
    if split is not None:
        checks.one_of("split", split, SPLITS)
    train = os.path.join(folder, "train")
    if split in (None, "train"):
        own = _find_table(folder) or any(map(is_photo, os.listdir(folder)))
        return folder if own or not os.path.isdir(train) else train
    root = os.path.join(folder, split)
    if not os.path.isdir(root):
        there = [s for s in SPLITS if os.path.isdir(os.path.join(folder, s))]
        raise FileNotFoundError(
            f"`split={split!r}` reads the folder {root}, which does not "
            f"exist. Splits of {folder}: {there or 'none'}."
        )
    return root


def _find_table(root: str) -> str | None:
    tables = [
        reader
        for reader, name in TABLES.items()
        if os.path.isfile(os.path.join(root, name))
    ]
    if len(tables) > 1:
        raise ValueError(
            f"{root} holds metadata.jsonl and metadata.csv; only one can be "
            f"read. Choose with `reader`, one of {tables}."
        )
    return tables[0] if tables else None


def _find_by_names(root: str, images: list[str]) -> str:
    classes = any(_class_of(path) for path in images)
    return "class_folders" if classes else "caption_files"


def _class_of(path: str) -> tuple[int, str] | None:
    first, separator, _ = path.partition(os.sep)
    match = _CLASS_FOLDER.fullmatch(first) if separator else None
    return (int(match[1]), match[2].strip()) if match else None


def _report_repeats(root: str, images: list[str]) -> None:
    for folder in sorted({path.partition(os.sep)[0] for path in images}):
        times = int(folder.partition("_")[0])
        unusual = times == 0 or times > _MANY_REPEATS
        logger.log(
            logging.WARNING if unusual else logging.INFO,
            "%s: each image in %r stands %d times in an epoch%s.",
            root,
            folder,
            times,
            ", as the number before its name says" if unusual else "",
        )


def _caption_files(files: list[str]) -> dict[str, str]:
    """Maps the path without its extension to the caption file."""
    texts: dict[str, str] = {}
    for path in files:
        if os.path.splitext(path)[1].lower() not in CAPTION_EXTENSIONS:
            continue
        other = texts.setdefault(_stem(path), path)
        if other != path:
            raise ValueError(
                "An image can have one caption file. Received both "
                f"{other!r} and {path!r}. Move one of the two kinds away."
            )
    return texts


def _refuse_orphans(
    root: str, images: list[str], texts: dict[str, str]
) -> None:
    stems = {_stem(path) for path in images}
    orphans = [path for stem, path in texts.items() if stem not in stems]
    if orphans:
        raise ValueError(
            f"{len(orphans)} caption files in {root} have no image: "
            f"{first_five(orphans)}. Add the images, or move these files away."
        )


def _read_caption(root: str, name: str) -> str | tuple[str, ...]:
    path = os.path.join(root, name)
    with open(path, "rb") as file:
        data = file.read()
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"Caption files must be UTF-8 text. Received: {path}, which is "
            f"not ({error.reason} at byte {error.start}). Save it again as "
            "UTF-8."
        ) from error
    lines = tuple(line.strip() for line in text.splitlines() if line.strip())
    return lines if len(lines) > 1 else "".join(lines)


def _stem(path: str) -> str:
    return os.path.splitext(path)[0]


def _is_loop(folder: str, name: str) -> bool:
    path = os.path.join(folder, name)
    if not os.path.islink(path):
        return False
    here = os.path.realpath(folder) + os.sep
    return here.startswith(os.path.realpath(path) + os.sep)


def _raise(error: OSError) -> None:
    raise error


def free_bytes(directory: str) -> int:
    """Bytes that are free where a directory is, or will be."""
    return shutil.disk_usage(existing_folder(directory)).free


def existing_folder(directory: str) -> str:
    """The directory, or the nearest above it that exists."""
    folder = os.path.abspath(directory)
    while not os.path.isdir(folder):
        folder = os.path.dirname(folder)
    return folder
