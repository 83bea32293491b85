"""Folders of captioned images: which convention one follows, and its reader.

Knows file names and caption files, and changes nothing in the folder.
"""

import os
import re
from typing import Any

from keras_sdft import checks
from keras_sdft import parsing
from keras_sdft.data.examples import Columns
from keras_sdft.data.examples import Examples
from keras_sdft.data.options import SourceOptions
from keras_sdft.data.sources.filenames import IMAGE_EXTENSIONS
from keras_sdft.data.sources.filenames import MASK_ENDING
from keras_sdft.data.sources.filenames import extension
from keras_sdft.data.sources.filenames import format_advice
from keras_sdft.data.sources.filenames import is_mask
from keras_sdft.data.sources.filenames import is_photo
from keras_sdft.data.sources.filenames import stem
from keras_sdft.data.sources.filenames import unread_images
from keras_sdft.data.sources.filenames import walk
from keras_sdft.data.sources.tables import MAX_BYTES
from keras_sdft.data.sources.tables import read_table
from keras_sdft.reprs import first_five

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


def read_folder(folder: str, options: SourceOptions, masks: bool) -> Examples:
    """Reads a folder in the order of its table or of the sorted paths.

    Without a table, an image's mask is the file of the same name that ends in
    `-masklabel.png`. The split `None`, like `"train"`, reads `train/` where
    the folder itself holds neither images nor a table, and else the folder
    without its `validation/` and `test/`.

    Raises:
        FileNotFoundError: If the folder, or an image of a table, is missing.
        ValueError: If the folder is empty, follows no convention or more than
            one, or if an image has no caption or a caption no image.
    """
    root = _split_root(folder, options.split)
    column, reader = options.repeats_column, options.reader
    if options.caption is not None:
        if reader is not None or column is not None:
            raise ValueError(
                "`caption` is that of all images, and no captions or tables "
                f"are read. Received: caption={options.caption!r}, "
                f"reader={reader!r}, repeats={column!r}. Leave out the one or "
                "the other."
            )
        return read_photos(root, options.caption)
    reader = reader or _find_table(root)
    if reader in TABLES:
        table = os.path.join(root, TABLES[reader])
        if not os.path.isfile(table):
            raise FileNotFoundError(
                f"`reader={reader!r}` reads {TABLES[reader]}, and {root} has "
                "none. Add the file or leave `reader` out."
            )
        return read_table(table, options, masks)
    if column is not None:
        raise ValueError(
            "`repeats` names a column where it is a string, and "
            f"{root} holds no table. Received: repeats={column!r}. "
            "Pass an integer, or add a metadata.jsonl."
        )
    files = walk(root, skip=SPLITS[1:])
    images = images_of("The folder", root, files, CONVENTIONS)
    in_classes = any(_class_of(path) for path in images)
    if reader == "class_folders" or (reader is None and in_classes):
        return _read_class_folders(root, files, images)
    return _read_caption_files(root, files, images)


def read_photos(root: str | os.PathLike, caption: str) -> Examples:
    """Reads all images of a folder, with the same caption for each.

    Caption files and tables are not read. The examples' names begin with the
    folder's, to tell those of two folders apart.
    """
    parent, name = os.path.split(os.path.abspath(root))
    files = [os.path.join(name, path) for path in walk(root)]
    images = images_of("The folder", os.fspath(root), files)
    return _examples(parent, files, images, [caption] * len(images))


def images_of(
    argument: str, root: str, files: list[str], remedy: str = ""
) -> list[str]:
    """Returns the images among a folder's files, see `files.walk`.

    Raises:
        ValueError: If there is none; `argument` names the folder.
    """
    images = [path for path in files if is_photo(path)]
    if images:
        return images
    unread = unread_images(files)
    if unread:
        remedy = (
            f"{len(unread)} are images in formats that are not read: "
            f"{first_five(unread)}; {format_advice(unread)}. {remedy}"
        )
    raise ValueError(
        f"{argument} holds no images: {os.path.abspath(root)} ({len(files)} "
        f"other files). {remedy} Known endings: "
        f"{', '.join(sorted(IMAGE_EXTENSIONS))}."
    )


def _examples(
    root: str, files: list[str], images: list[str], captions: list
) -> Examples:
    """Returns the images as examples, and what was found beside them."""
    masks, unread = _masks_beside(images, files), unread_images(files)
    examples = Examples(Columns(root, images, captions, masks))
    advice = format_advice(unread)
    examples.leave_out(f"in formats that are not read ({advice})", unread)
    several = [c for c in captions if isinstance(c, tuple)]
    if several:
        average = sum(map(len, several)) / len(several)
        examples.notes.append(
            f"{len(several):,} caption files have several lines, "
            f"{average:.1f} on average. Each line is a caption of its own, of "
            f"which an epoch draws one: {several[0][0]!r}, for example."
        )
    return examples


def _read_caption_files(
    root: str, files: list[str], images: list[str]
) -> Examples:
    """Reads images with a `.txt` or `.caption` file of the same name."""
    texts = _caption_files(root, files)
    if not texts:
        raise ValueError(
            f"None of the {len(images)} images in {root} has a caption. "
            + CONVENTIONS
        )
    without = [path for path in images if stem(path) not in texts]
    if without:
        raise ValueError(
            f"{len(without)} of {len(images)} images in {root} have no "
            f"caption file: {first_five(without)}. Add a .txt file of the "
            "same name beside each, or move the images away."
        )
    captions = [texts[stem(path)] for path in images]
    return _examples(root, files, images, captions)


def _read_class_folders(
    root: str, files: list[str], images: list[str]
) -> Examples:
    """Reads folders named `"10_sks dog"`: ten repeats of "sks dog".

    The name of the folder is the caption of the images in it that have no
    caption file of their own.
    """
    classes = {path: own for path in images if (own := _class_of(path))}
    outside = [path for path in images if path not in classes]
    if outside:
        raise ValueError(
            'All images must stand in folders named as "10_sks dog". '
            f"Received: {len(outside)} of {len(images)} images in {root} that "
            f"do not: {first_five(outside)}. Move them, or pass "
            '`reader="caption_files"` to ignore the numbers.'
        )
    texts = _caption_files(root, files)
    captions = [texts.get(stem(p), name) for p, (_, name) in classes.items()]
    examples = _examples(root, files, images, captions)
    times_of = {_folder(path): times for path, (times, _) in classes.items()}
    said = [f"{times} times {name!r}" for name, times in times_of.items()]
    examples.notes.append(
        "An epoch shows the images of a folder as often as the number before "
        f"its name says: {', '.join(said)}."
    )
    return examples.repeated([times for times, _ in classes.values()])


def _masks_beside(images: list[str], files: list[str]) -> dict[str, str]:
    """Returns the masks by their images: "1-masklabel.png" for "1.jpg"."""
    masks = {stem(path): path for path in files if is_mask(path)}
    own = {path: masks.get(stem(path) + MASK_ENDING) for path in images}
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


def _folder(path: str) -> str:
    return path.partition(os.sep)[0]


def _class_of(path: str) -> tuple[int, str] | None:
    match = _CLASS_FOLDER.fullmatch(_folder(path)) if os.sep in path else None
    return (int(match[1]), match[2].strip()) if match else None


def _caption_files(root: str, files: list[str]) -> dict[str, Any]:
    """Maps an image's path without its extension to what its file says.

    That is one caption, or a tuple of several, each on a line.
    """
    paths: dict[str, str] = {}
    for path in files:
        if extension(path) not in CAPTION_EXTENSIONS:
            continue
        other = paths.setdefault(stem(path), path)
        if other != path:
            raise ValueError(
                "An image can have one caption file. Received both "
                f"{other!r} and {path!r}. Move one of the two kinds away."
            )
    # An image that cannot be read is told of elsewhere.
    stems = {stem(path) for path in files if is_photo(path)}
    stems |= set(map(stem, unread_images(files)))
    orphans = [path for name, path in paths.items() if name not in stems]
    if orphans:
        raise ValueError(
            f"{len(orphans)} caption files in {root} have no image: "
            f"{first_five(orphans)}. Add the images, or move these files away."
        )
    texts: dict[str, Any] = {}
    for name, path in paths.items():
        text = parsing.read_text(os.path.join(root, path), MAX_BYTES)
        lines = tuple(filter(None, map(str.strip, text.split("\n"))))
        texts[name] = lines if len(lines) > 1 else "".join(lines)
    return texts
