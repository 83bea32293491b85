"""Where results go: never over something else, and whole or not at all.

Must not know what is written.
"""

import contextlib
import os
from collections.abc import Collection
from collections.abc import Iterator
from pathlib import Path

from keras_sdft.files import files_in
from keras_sdft.files import staged_directory as staged


def check_file(path: str | Path, overwrite: bool) -> Path:
    """Refuses a file that exists, unless it may be replaced.

    Args:
        path: The file.
        overwrite: Boolean, whether an existing file is replaced.

    Returns:
        The path; its directory exists now.

    Raises:
        FileExistsError: If something is there.
    """
    path = Path(path)
    if path.is_dir() or (path.exists() and not overwrite):
        remedy = (
            "It is a directory; name a file."
            if path.is_dir()
            else "Pass `overwrite=True` (`--overwrite`) to replace it."
        )
        raise FileExistsError(f"The output {str(path)!r} exists. {remedy}")
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


@contextlib.contextmanager
def staged_directory(
    path: str | Path, overwrite: bool, entries: Collection[str]
) -> Iterator[Path]:
    """Context manager that yields a directory which then appears at `path`.

    Args:
        path: The directory to make.
        overwrite: Boolean, whether an earlier one is replaced, provided it
            holds nothing but `entries`.
        entries: Relative paths of the files that such a directory consists
            of.

    Raises:
        FileExistsError: If something is there that may not be replaced.
    """
    path = Path(os.path.abspath(path))
    _check_directory(path, overwrite, entries)
    with staged(path, lambda _: entries) as staging:
        yield staging


def _check_directory(
    path: Path, overwrite: bool, entries: Collection[str]
) -> None:
    if not path.exists():
        return
    if not path.is_dir():
        raise FileExistsError(
            f"The output {str(path)!r} exists and is a file. Name a directory."
        )
    foreign = sorted(set(files_in(path)) - set(entries))
    if foreign:
        raise FileExistsError(
            f"The output directory {str(path)!r} holds other files, so it is "
            f"never replaced: {foreign[:5]}. Choose another directory."
        )
    if any(path.iterdir()) and not overwrite:
        raise FileExistsError(
            f"The output directory {str(path)!r} exists and is not empty. "
            "Pass `overwrite=True` (`--overwrite`) to replace it."
        )
