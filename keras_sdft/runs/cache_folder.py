"""A folder of caches: what is in it, and which of them to remove.

A cache holds what encoders made, the images of parquet files, or what JAX
compiled. Must not know what it was made from.
"""

import dataclasses
import glob
import os
import re
import time
from collections.abc import Collection
from pathlib import Path

from keras_sdft import devices
from keras_sdft import files
from keras_sdft.data.sources import parquet

#: Of a run, the folder of its caches.
CACHE_FOLDER = "keras_sdft_cache"
_DAY = 86_400
# What JAX calls a program and the time of its last use.
_BY_JAX = re.compile(r".+-(?:cache|atime)")
_LOCK_OF_JAX = ".lockfile"


@dataclasses.dataclass(frozen=True)
class StoredCache:
    """A cache on the disk.

    Attributes:
        path: `Path` of its directory.
        num_bytes: Integer, what it takes.
        last_used: Float, seconds since the epoch, when it was filled or read
            last.
        is_busy: Boolean, whether a process fills it now, or reads images
            from it.
    """

    path: Path
    num_bytes: int
    last_used: float
    is_busy: bool

    @property
    def days(self) -> float:
        """Days since it was used."""
        return (time.time() - self.last_used) / _DAY

    def remove(self) -> None:
        """Removes its files; others in the directory stay."""
        files.remove_files(self.path, _find(self.path)[0])


def cache_folders() -> list[str]:
    """Returns the folders that have caches: here, one below, and the user's."""
    own = parquet.unpacked_folder(), _compiled().parent
    return [
        *sorted(glob.glob(CACHE_FOLDER) + glob.glob(f"*/{CACHE_FOLDER}")),
        *(str(folder) for folder in own if find_caches(folder)),
    ]


def _compiled() -> Path:
    return Path(devices.COMPILED).expanduser()


def find_caches(folder: str | os.PathLike) -> list[StoredCache]:
    """Returns the caches in a folder, the one used last first.

    Args:
        folder: Path of the folder; it need not exist.
    """
    found = filter(None, map(_look, Path(folder).glob("*")))
    return sorted(found, key=lambda one: -one.last_used)


def prune_caches(
    folder: str | os.PathLike,
    max_bytes: float | None = None,
    max_days: float | None = None,
    keep: Collection[str | os.PathLike] = (),
) -> list[StoredCache]:
    """Removes caches that are old, and the oldest while they are too large.

    What a process fills now, or reads images from, stays. What dead processes
    left unfinished goes too.

    Args:
        folder: Path of the folder.
        max_bytes: Float, what all of them may take, or `None`.
        max_days: Float, days since a cache was used, or `None`.
        keep: Paths of caches that stay.

    Returns:
        List of the `StoredCache`s that were removed.
    """
    if max_bytes is not None or max_days is not None:
        files.remove_abandoned(folder)
    kept = {os.path.realpath(path) for path in keep}
    removed, total = [], 0.0
    for one in find_caches(folder):
        total += one.num_bytes
        too_old = max_days is not None and one.days > max_days
        too_large = max_bytes is not None and total > max_bytes
        stays = one.is_busy or os.path.realpath(one.path) in kept
        if (too_old or too_large) and not stays:
            one.remove()
            removed.append(one)
            total -= one.num_bytes
    return removed


def _look(directory: Path) -> StoredCache | None:
    names, lock = _find(directory)
    if not names:
        return None
    # The lock's time is that of the last process that read or filled it.
    found = [(directory / name).stat() for name in names]
    return StoredCache(
        directory,
        sum(each.st_size for each in found),
        max(each.st_mtime for each in found),
        files.is_locked(directory / lock),
    )


def _find(directory: Path) -> tuple[list[str], str]:
    """Returns a cache's files in order of removal, and which is the lock."""
    # Keras takes seconds to import, and the command's help needs none.
    from keras_sdft.encoding import store

    if directory == _compiled() and directory.is_dir():
        found = os.listdir(directory)
        return list(filter(_BY_JAX.fullmatch, found)), _LOCK_OF_JAX
    unpacked = parquet.unpacked_files(directory)
    if unpacked:
        return unpacked, parquet.LOCK
    try:
        is_cache = store.read_state(str(directory)) is not None
    except (OSError, ValueError):
        # Damaged, or a file of that name that is somebody else's.
        is_cache = False
    if not is_cache:
        return [], store.LOCK
    ours = re.compile(
        # Its validation data's too.
        rf"(?:{store.VALIDATION}/)?"
        rf"(?:[\w-]+\.(?:rows|npy)|{store.LOCK}|{re.escape(store.STATE)})"
    )
    names = filter(ours.fullmatch, files.files_in(directory))
    # The states last.
    return sorted(names, key=lambda n: n.endswith(store.STATE)), store.LOCK
