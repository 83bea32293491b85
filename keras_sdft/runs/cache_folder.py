"""A folder of caches: what is in it, and which of them to remove.

Must not know what a cache was made from.
"""

from __future__ import annotations

import dataclasses
import os
import re
import time
from collections.abc import Collection
from pathlib import Path

from keras_sdft import files

_DAY = 86_400


@dataclasses.dataclass(frozen=True)
class StoredCache:
    """A cache on the disk.

    Attributes:
        path: `Path` of its directory.
        num_bytes: Integer, what it takes.
        last_used: Float, seconds since the epoch, when it was filled or read
            last.
        is_busy: Boolean, whether a process fills it now.
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
        files.remove_files(self.path, _names(self.path))


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

    What a process fills now stays.

    Args:
        folder: Path of the folder.
        max_bytes: Float, what all of them may take, or `None`.
        max_days: Float, days since a cache was used, or `None`.
        keep: Paths of caches that stay.

    Returns:
        List of the `StoredCache`s that were removed.
    """
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
    # Keras takes seconds to import, and the command's help needs none.
    from keras_sdft.encoding import store

    try:
        if store.read_state(str(directory)) is None:
            return None
    except (OSError, ValueError):
        # Damaged, or a file of that name that is somebody else's.
        return None
    # The lock's time is that of the last process that read or filled it.
    found = [(directory / name).stat() for name in _names(directory)]
    return StoredCache(
        directory,
        sum(each.st_size for each in found),
        max(each.st_mtime for each in found),
        files.is_locked(directory / store.LOCK),
    )


def _names(directory: Path) -> list[str]:
    """Returns a cache's files and its validation data's, the states last."""
    from keras_sdft.encoding import store

    ours = re.compile(
        rf"(?:{store.VALIDATION}/)?"
        rf"(?:[\w-]+\.(?:rows|npy)|{store.LOCK}|{re.escape(store.STATE)})"
    )
    names = filter(ours.fullmatch, files.files_in(directory))
    return sorted(names, key=lambda name: name.endswith(store.STATE))
