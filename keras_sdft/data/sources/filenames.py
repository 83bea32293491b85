"""Files of a folder: which are images to train on, masks, or neither.

Knows names alone, and changes nothing in the folder.
"""

import os
from collections.abc import Iterable

from keras_sdft.data.images import HEIF_EXTENSIONS
from keras_sdft.data.images import reads_heif

IMAGE_EXTENSIONS = frozenset(
    ".avif .bmp .gif .jfif .jpeg .jpg .pgm .png .ppm .tif .tiff .webp".split()
)
# Images that no reader of ours opens; a folder that holds some is told so.
_OTHER_FORMATS = HEIF_EXTENSIONS | frozenset(
    ".arw .cr2 .cr3 .dng .eps .ico .j2k .jp2 .jxl .nef .orf .psd .raf .raw "
    ".rw2 .svg .tga".split()
)

# What a mask beside an image is called, after the image's own name.
MASK_ENDING = "-masklabel"


def stem(path: str) -> str:
    """Returns the path without its extension."""
    return os.path.splitext(path)[0]


def extension(path: str) -> str:
    """Returns the extension in lower case, with its dot."""
    return os.path.splitext(path)[1].lower()


def is_image(path: str) -> bool:
    """Tells whether the name ends like an image file that can be read."""
    ending = extension(path)
    is_heif = ending in HEIF_EXTENSIONS and reads_heif()
    return is_heif or ending in IMAGE_EXTENSIONS


def is_mask(path: str) -> bool:
    """Tells whether the name is a mask's: `"0001-masklabel.png"`."""
    return is_image(path) and stem(path).endswith(MASK_ENDING)


def is_photo(path: str) -> bool:
    """Tells whether the name is that of an image to train on, no mask."""
    return is_image(path) and not is_mask(path)


def is_hidden(name: str) -> bool:
    """Tells whether a system, not a person, put the file or folder there."""
    return name.startswith(".") or name in ("Thumbs.db", "__MACOSX")


def unread_images(files: Iterable[str]) -> list[str]:
    """Returns the files that are images in formats that are not read."""
    others = [path for path in files if extension(path) in _OTHER_FORMATS]
    return [path for path in others if not is_image(path)]


def format_advice(files: Iterable[str]) -> str:
    """Says how images in formats that are not read can be used."""
    endings = set(map(extension, files))
    heif = "`pip install pillow-heif` to read HEIC"
    if endings <= HEIF_EXTENSIONS:
        return heif
    others = "convert them to PNG or JPEG"
    return f"{heif}, {others}" if endings & HEIF_EXTENSIONS else others


def walk(root: str | os.PathLike, skip: Iterable[str] = ()) -> list[str]:
    """Lists the files under a folder, sorted, without hidden ones.

    Links to folders are followed. Folders directly under `root` that are in
    `skip` are left out. The paths are relative to `root`.
    """

    def refuse(error: OSError) -> None:
        raise error

    root, files = os.fspath(root), []
    for folder, names, entries in os.walk(root, True, refuse, True):
        names[:] = sorted(
            name
            for name in names
            if not is_hidden(name)
            and not (folder == root and name in skip)
            and not _is_loop(folder, name)
        )
        prefix = "" if folder == root else os.path.relpath(folder, root)
        shown = [entry for entry in sorted(entries) if not is_hidden(entry)]
        files += [os.path.join(prefix, entry) for entry in shown]
    return files


def _is_loop(folder: str, name: str) -> bool:
    path = os.path.join(folder, name)
    if not os.path.islink(path):
        return False
    here = os.path.realpath(folder) + os.sep
    return here.startswith(os.path.realpath(path) + os.sep)
