"""`keras-sdft cache`: lists what runs keep for the next, and removes it."""

import dataclasses
import os

from keras_sdft import checks
from keras_sdft import disk
from keras_sdft import runs
from keras_sdft.cli.command import Command
from keras_sdft.cli.command import Options


@dataclasses.dataclass(frozen=True)
class CacheFolderOptions:
    """The caches: where they are, and which to remove.

    Args:
        folder: Folder of caches. Defaults to every keras_sdft_cache here
            and in the folders here, unpacked parquet files, and programs
            that JAX compiled.
        max_days: Remove caches that no run has used for so many days.
        max_gb: Remove the caches used longest ago until the rest is smaller.
        clear: Remove all caches.
    """

    folder: str | None = None
    max_days: float | None = None
    max_gb: float | None = None
    clear: bool = False

    def __post_init__(self) -> None:
        for name in ("max_days", "max_gb"):
            if getattr(self, name) is not None:
                checks.number(name, getattr(self, name), 0)


def cache(options: Options) -> None:
    """Lists caches, or removes them by age and size."""
    folders = [options.folder]
    if options.folder is None:
        folders = runs.cache_folders()
    elif not os.path.isdir(options.folder):
        raise FileNotFoundError(f"There is no folder {options.folder!r}.")
    most = 0.0 if options.clear else options.max_gb and options.max_gb * 1e9
    for folder in folders:
        for one in runs.prune_caches(folder, most, options.max_days):
            print(f"removed {one.path} ({disk.size_text(one.num_bytes)})")
        left = runs.find_caches(folder)
        total = disk.size_text(sum(one.num_bytes for one in left))
        print(f"{folder}: {total}; unused for")
        for one in left:
            size = disk.size_text(one.num_bytes)
            days = f"{one.days:>4.0f} days{', in use' * one.is_busy}"
            print(f"  {one.path!s:<50} {size:>10} {days}")
    if not folders:
        print(f"There is no {runs.CACHE_FOLDER} here. Name one: cache FOLDER.")


COMMAND = Command(
    run=cache,
    groups=(CacheFolderOptions,),
    positionals=("folder",),
    example="keras-sdft cache runs/keras_sdft_cache --max_days 30",
)
