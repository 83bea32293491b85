"""What a disk has room for, and where it may be written to.

Imports nothing of this library; every package may import it.
"""

import errno
import os
import shutil


def existing_directory(path: str | os.PathLike) -> str:
    """Returns the path, or the nearest directory above it that exists."""
    folder = os.path.abspath(path)
    while not os.path.isdir(folder):
        folder = os.path.dirname(folder)
    return folder


def free_bytes(path: str | os.PathLike) -> int:
    """Returns the bytes that are free where a path is, or will be."""
    return shutil.disk_usage(existing_directory(path)).free


def size_text(count: float) -> str:
    """Returns bytes in the unit that fits: `"1.2 GB"`."""
    units = ["bytes", "kB", "MB", "GB", "TB"]
    while count >= 1000 and len(units) > 1:
        count /= 1000
        units.pop(0)
    digits = 0 if units[0] == "bytes" else 1
    return f"{count:.{digits}f} {units[0]}"


def check_space(
    path: str | os.PathLike, needed: int, what: str, remedy: str
) -> None:
    """Refuses to begin what the disk has no room for.

    Args:
        path: Where it will be written; it need not exist.
        needed: Integer, bytes that are still to be written.
        what: String that begins the error: `"The cache"`.
        remedy: String that ends it: `"Name another `--cache`."`.

    Raises:
        OSError: If more bytes are needed than are free.
    """
    free = free_bytes(path)
    if needed > free:
        folder = existing_directory(path)
        raise OSError(
            errno.ENOSPC,
            f"{what} needs {size_text(needed)}, and {size_text(free)} are "
            f"free in {folder!r}. Free some space, or write to another "
            f"disk. {remedy}".rstrip(),
        )


def writable(path: str | os.PathLike) -> bool:
    """Returns whether a path can be written to, or made. Writes nothing."""
    if os.path.exists(path) and not os.path.isdir(path):
        return os.access(path, os.W_OK)
    folder = existing_directory(path)
    return os.access(folder, os.W_OK | os.X_OK)


def check_writable(path: str | os.PathLike, name: str) -> None:
    """Refuses a path that cannot be written to, before work begins.

    Args:
        path: The path; it need not exist.
        name: String, the argument's name for the error.

    Raises:
        PermissionError: If it cannot be written to.
    """
    if not writable(path):
        raise PermissionError(
            errno.EACCES,
            f"`{name}` cannot be written to (no permission in "
            f"{existing_directory(path)!r}, or a filesystem that is "
            "read-only). Choose another path",
            os.fspath(path),
        )
