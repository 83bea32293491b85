"""The state of a cache's folder: whose it is, what it holds, who fills it.

One JSON file says all: `filling.json` while a cache is filled, renamed to
`cache.json` when it is complete. This file must not know images, captions,
encoders or TensorFlow.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
from collections.abc import Iterator
from typing import Any

from keras_sdft.data.cache_shards import write_whole
from keras_sdft.files import existing_directory
from keras_sdft.files import free_bytes
from keras_sdft.version import __version__

FORMAT_VERSION = 1

COMPLETE = "cache.json"
FILLING = "filling.json"
LOCK = "lock"
IMAGES = "images.npy"
# The cache of validation data, where the command keeps it.
VALIDATION = "validation"

_MARK = "keras_sdft_cache"
# What is not written under its own name.
_OWN = ("complete", "format_version", "written_by")
_FOLDERS = ("moments-", "masks-", "contexts")


def read_state(directory: str) -> dict[str, Any] | None:
    """Returns what a cache's folder says of itself; `None` if it is empty.

    Args:
        directory: String; it need not exist.

    Returns:
        Dict, with the keys `complete` and `format_version`; of another
        version, the other keys may be missing.

    Raises:
        NotADirectoryError: If it is a file.
        FileExistsError: If it holds something else than a cache.
        ValueError: If it is damaged.
    """
    if not os.path.lexists(directory):
        return None
    if not os.path.isdir(directory):
        raise NotADirectoryError(
            "A cache needs a directory of its own. Received a file: "
            f"{directory!r}."
        )
    for name in (COMPLETE, FILLING):
        path = os.path.join(directory, name)
        if os.path.isfile(path):
            return {**_parsed(path), "complete": name == COMPLETE}
    own = {LOCK, VALIDATION, FILLING + ".part"}
    found = sorted(set(os.listdir(directory)) - own)
    if found:
        raise FileExistsError(
            f"{directory!r} is not empty and holds no cache of keras_sdft, so "
            f"nothing is written into it. It holds: {found[:5]}. Name "
            "another directory."
        )
    return None


def write_state(directory: str, state: dict[str, Any]) -> None:
    """Writes the state of a cache that is being filled, or is complete.

    Args:
        directory: String, which exists.
        state: Dict that JSON can hold.
    """
    content = {
        _MARK: FORMAT_VERSION,
        "written_by": __version__,
        **{name: value for name, value in state.items() if name not in _OWN},
    }
    text = json.dumps(content, indent=1) + "\n"
    filling = os.path.join(directory, FILLING)
    write_whole(filling, lambda file: file.write(text.encode("utf-8")))
    if state["complete"]:
        os.replace(filling, os.path.join(directory, COMPLETE))


def remove(directory: str) -> None:
    """Removes what a cache has written, and nothing else.

    Args:
        directory: String, a cache's folder, locked.
    """
    # Cut short, it leaves a cache that is not complete, and known as ours.
    complete, filling = (
        os.path.join(directory, name) for name in (COMPLETE, FILLING)
    )
    with contextlib.suppress(FileNotFoundError):
        os.replace(complete, filling)
    for name in os.listdir(directory):
        path = os.path.join(directory, name)
        if name.startswith(_FOLDERS) and os.path.isdir(path):
            shutil.rmtree(path)
        elif name.removesuffix(".part") == IMAGES:
            os.unlink(path)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(filling)


@contextlib.contextmanager
def locked(directory: str) -> Iterator[None]:
    """Inside, no other process fills the cache.

    Args:
        directory: String; it is made if it is missing.

    Raises:
        BlockingIOError: If another process fills it.
        OSError: If the directory cannot be written to.
    """
    # Not on every system, and of no use to those who only read.
    import fcntl

    with writing(directory):
        os.makedirs(directory, exist_ok=True)
        file = open(os.path.join(directory, LOCK), "a+", encoding="utf-8")
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            holder = file.read().strip() or "unknown"
            raise BlockingIOError(
                errno.EWOULDBLOCK,
                f"Another process (id {holder}) is filling the cache. Wait "
                "until it is done and run this again, which will then find "
                "the cache complete; or name another directory",
                directory,
            ) from None
        with writing(directory):
            file.seek(0)
            file.truncate()
            file.write(str(os.getpid()))
            file.flush()
        # The file stays: removing it would race with who waits for it.
        yield


@contextlib.contextmanager
def writing(directory: str) -> Iterator[None]:
    """Inside, errors of the disk say what to do about them."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            remedy = (
                "The disk is full. What is encoded so far is kept; free some "
                "space and run this again, and it goes on from there"
            )
        elif error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            remedy = (
                "The cache's directory cannot be written to. Name another "
                "one, or train without a cache"
            )
        else:
            raise
        raise type(error)(error.errno, remedy, directory) from error


def check_space(directory: str, needed: int) -> None:
    """Refuses to begin what the disk has no room for, or does not allow.

    Args:
        directory: String; it need not exist.
        needed: Integer, bytes that are still to be written.

    Raises:
        PermissionError: If the directory cannot be written to.
        ValueError: If more bytes are needed than are free.
    """
    folder = existing_directory(directory)
    with writing(directory):
        if not os.access(folder, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    free = free_bytes(directory)
    if needed > free:
        raise ValueError(
            f"The cache still needs {size_text(needed)}, and "
            f"{size_text(free)} are free in {folder!r}. Free some space, "
            "name a directory on another disk, or train without a cache."
        )


def size_text(count: float) -> str:
    """Returns bytes in the unit that fits: `"1.2 GB"`."""
    units = ["bytes", "kB", "MB", "GB", "TB"]
    while count >= 1000 and len(units) > 1:
        count /= 1000
        units.pop(0)
    digits = 0 if units[0] == "bytes" else 1
    return f"{count:.{digits}f} {units[0]}"


def _parsed(path: str) -> dict[str, Any]:
    folder = os.path.dirname(path)
    try:
        with open(path, encoding="utf-8") as file:
            state = json.load(file)
        state["format_version"] = state.pop(_MARK)
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path!r} is damaged or was not written by keras_sdft: "
            f"{error!r}. Remove {folder!r}, or name another directory."
        ) from error
    return state
