"""Whole files and directories, and locks.

A file or directory is written beside its path and renamed to it, so that it is
whole or absent there at any moment, also after a kill. What a dead process
left beside it is removed or put back by the next write to the same path.
Imports nothing of this library; every package may import it.
"""

import contextlib
import ctypes
import errno
import fcntl
import itertools
import os
import re
import shutil
import socket
from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Iterator
from pathlib import Path
from typing import IO
from typing import Any

Written = Callable[[Path], Iterable[str]]

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2
_HOST = re.sub(r"[^A-Za-z0-9.]", "_", socket.gethostname())[:64] or "unknown"
# Unfinished; finished, and about to change places; replaced.
_NEW, _SWAP, _OLD, _PART = "new", "swap", "old", "part"
_count = itertools.count()
_marked: dict[str, IO[str]] = {}


@contextlib.contextmanager
def atomic_file(
    path: str | os.PathLike, mode: str = "wb", **kwargs: Any
) -> Iterator[IO[Any]]:
    """Context manager that opens a file which appears at `path` when closed.

    The content is on the disk before it takes the place of an earlier file,
    whose permissions it keeps. A symbolic link is followed.

    Args:
        path: The file; its directory is made if it is missing.
        mode: `"w"` or `"wb"`. Defaults to `"wb"`.
        **kwargs: As for `open`.

    Raises:
        OSError: If it cannot be written; `path` is then as it was.
    """
    target = Path(os.path.realpath(path))
    target.parent.mkdir(parents=True, exist_ok=True)
    for _, part in _left_behind(target, _PART):
        part.unlink(missing_ok=True)
    part = _beside(target, _PART)
    try:
        with open(part, mode.replace("w", "x"), **kwargs) as file:
            _lock(file.fileno())
            if target.exists():
                shutil.copymode(target, part)
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, target)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    sync_directory(target.parent)


@contextlib.contextmanager
def atomic_path(path: str | os.PathLike) -> Iterator[Path]:
    """Context manager like `atomic_file` for writers that want a path.

    Yields a path in a directory of its own, with the file's own name.

    Args:
        path: The file; its directory is made if it is missing.

    Raises:
        OSError: If it cannot be written; `path` is then as it was.
    """
    target = Path(os.path.realpath(path))
    target.parent.mkdir(parents=True, exist_ok=True)
    for _, left in _left_behind(target, _NEW):
        shutil.rmtree(left, ignore_errors=True)
    new = _beside(target, _NEW)
    new.mkdir()
    handle = os.open(new, os.O_RDONLY)
    try:
        _lock(handle)
        yield new / target.name
        if target.exists():
            shutil.copymode(target, new / target.name)
        sync_tree(new)
        os.replace(new / target.name, target)
        sync_directory(target.parent)
    finally:
        os.close(handle)
        shutil.rmtree(new, ignore_errors=True)


def write_text(path: str | os.PathLike, text: str) -> None:
    """Writes a text file in UTF-8, whole or not at all.

    Args:
        path: The file; an earlier one is replaced.
        text: String.
    """
    with atomic_file(path, "w", encoding="utf-8") as file:
        file.write(text)


@contextlib.contextmanager
def staged_directory(
    path: str | os.PathLike, written: Written
) -> Iterator[Path]:
    """Context manager that yields a directory which then appears at `path`.

    An earlier directory there is replaced in one step where the filesystem
    can exchange two names. Of it, only the files that `written` names are
    removed; all others stay, at the same place in the new directory.

    Args:
        path: The directory; its parents are made. A symbolic link is
            followed.
        written: Function of a directory that returns the files in it that
            this library wrote, as relative paths, in the order in which they
            may be removed (a file that lists the others comes last).

    Raises:
        FileExistsError: If a file that this library did not write has the
            name of a new one.
        NotADirectoryError: If `path` is a file.
        OSError: If it cannot be written; `path` is then as it was.
    """
    target = Path(os.path.realpath(path))
    if target.exists() and not target.is_dir():
        raise NotADirectoryError(
            f"A directory is to be written to {str(target)!r}, which is a "
            "file. Name another path."
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    recover_directory(target, written)
    new = _beside(target, _NEW)
    new.mkdir()
    handle = os.open(new, os.O_RDONLY)
    try:
        _lock(handle)
        yield new
        if target.exists():
            _refuse_collisions(new, target, written)
            shutil.copymode(target, new)
        sync_tree(new)
        _put_in_place(new, target, written)
    except BaseException:
        os.close(handle)
        recover_directory(target, written)
        raise
    os.close(handle)


def recover_directory(path: str | os.PathLike, written: Written) -> None:
    """Puts back or removes what a dead process left beside a directory.

    Args:
        path: The directory; it need not exist.
        written: As for `staged_directory`.
    """
    target = Path(os.path.realpath(path))
    for state, left in _left_behind(target, _NEW, _SWAP, _OLD):
        if state == _NEW:
            shutil.rmtree(left, ignore_errors=True)
        elif not target.exists():
            os.rename(left, target)
        else:
            _retire(left, target, written)


def remove_abandoned(directory: str | os.PathLike) -> None:
    """Removes what dead processes left unfinished in a directory.

    Args:
        directory: Path of the directory; it need not exist.
    """
    pattern = re.compile(rf"\..+\.(.+)-(\d+)-\d+\.(?:{_NEW}|{_PART})")
    for path in Path(directory).glob(".*"):
        match = pattern.fullmatch(path.name)
        if match is None or not _is_abandoned(path, match[1], int(match[2])):
            continue
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def remove_files(directory: str | os.PathLike, names: Iterable[str]) -> bool:
    """Removes files of a directory, and directories that are empty then.

    Args:
        directory: Path of the directory.
        names: Relative paths of files, removed in this order. What is
            missing, outside, or behind a symbolic link, is passed over; of a
            link, the link alone is removed.

    Returns:
        Boolean, whether nothing is left of the directory.
    """
    directory = Path(directory)
    for name in names:
        path = directory / name
        parents = [
            parent
            for parent in path.parents
            if parent != directory and parent.is_relative_to(directory)
        ]
        outside = ".." in path.parts or not path.is_relative_to(directory)
        if outside or any(parent.is_symlink() for parent in parents):
            continue
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            path.unlink()
        for parent in parents:
            with contextlib.suppress(OSError):
                parent.rmdir()
    with contextlib.suppress(OSError):
        directory.rmdir()
    return not directory.exists()


def files_in(directory: str | os.PathLike) -> list[str]:
    """Returns the relative paths of all files in a directory, sorted.

    Symbolic links count as files and are not followed.
    """
    found = []
    for root, folders, names in os.walk(os.fspath(directory)):
        links = [n for n in folders if os.path.islink(os.path.join(root, n))]
        for name in names + links:
            path = os.path.relpath(os.path.join(root, name), directory)
            found.append(Path(path).as_posix())
    return sorted(found)


def sync_directory(directory: str | os.PathLike) -> None:
    """Makes names in a directory as lasting as the files' content."""
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        # Some network filesystems know no such call for directories.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(handle)


def sync_tree(directory: str | os.PathLike) -> None:
    """Waits until every file below a directory is on the disk."""
    for root, _, names in os.walk(os.fspath(directory)):
        for name in names:
            path = os.path.join(root, name)
            if not os.path.islink(path):
                sync_directory(path)
        sync_directory(root)


class Lock:
    """A lock between processes, held until `release` or the process' end.

    Args:
        path: Path of the lock's file, which is made and stays.
        what: String, what the holder is busy with, for the error:
            `"trains into 'run'"`.
        wait: Boolean, whether to wait while another process holds it.

    Raises:
        BlockingIOError: If another process holds it; with its id and host.
        OSError: If the file cannot be written, or cannot be locked.
    """

    def __init__(
        self, path: str | os.PathLike, what: str, wait: bool = False
    ) -> None:
        self.path = Path(path)
        self._acquire(what, wait)
        while not self._is_at_path():
            # Its last holder removed the file in between.
            self._file.close()
            self._acquire(what, wait)
        self._file.seek(0)
        self._file.truncate()
        self._file.write(f"id {os.getpid()} on {socket.gethostname()}\n")
        self._file.flush()

    def _acquire(self, what: str, wait: bool) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._file = open(self.path, "a+", encoding="utf-8")
        try:
            _flock(self._file.fileno(), wait)
        except BlockingIOError:
            holder = self.holder()
            self._file.close()
            raise BlockingIOError(
                errno.EWOULDBLOCK,
                f"Another process ({holder}) {what}. Wait until it has "
                "ended, or choose another directory",
                str(self.path),
            ) from None
        except OSError:
            self._file.close()
            raise

    def _is_at_path(self) -> bool:
        try:
            there = os.stat(self.path)
        except FileNotFoundError:
            return False
        return os.path.samestat(os.fstat(self._file.fileno()), there)

    def holder(self) -> str:
        """Returns the id and host of the process that locked it last."""
        self._file.seek(0)
        return self._file.read().strip() or "unknown"

    def release(self) -> None:
        """Lets other processes have it. The file stays: one may wait."""
        self._file.close()

    def __enter__(self) -> "Lock":
        return self

    def __exit__(self, *error: object) -> None:
        self.release()


def mark_used(path: str | os.PathLike) -> None:
    """Marks a file as in use by this process, until the process ends.

    `is_locked` is true of it meanwhile, and its time is that of the last
    mark. Several processes may mark the same file. Where it cannot be written
    or the filesystem has no locks, nothing is marked.

    Args:
        path: Path of the file, which is made and stays.
    """
    with contextlib.suppress(OSError):
        # Held here until then; one of the same path is in its place.
        file = open(path, "a", encoding="utf-8")
        _marked[os.path.abspath(path)] = file
        os.utime(path)
        fcntl.flock(file.fileno(), fcntl.LOCK_SH | fcntl.LOCK_NB)


def is_locked(path: str | os.PathLike) -> bool:
    """Returns whether a process holds the `Lock` of a path. Writes nothing."""
    return _lock_state(path) == "held"


def _beside(target: Path, state: str) -> Path:
    """A hidden path beside the target that says whose it is."""
    owner = f"{_HOST}-{os.getpid()}-{next(_count)}"
    return target.with_name(f".{target.name}.{owner}.{state}")


def _left_behind(target: Path, *states: str) -> list[tuple[str, Path]]:
    """What dead processes left beside a target, in the order of states."""
    pattern = re.compile(
        rf"\.{re.escape(target.name)}\.(.+)-(\d+)-\d+\.({'|'.join(states)})"
    )
    found = []
    with contextlib.suppress(FileNotFoundError):
        for name in sorted(os.listdir(target.parent)):
            match = pattern.fullmatch(name)
            if match is None:
                continue
            path = target.with_name(name)
            if _is_abandoned(path, match[1], int(match[2])):
                found.append((match[3], path))
    return sorted(found, key=lambda item: states.index(item[0]))


def _is_abandoned(path: Path, host: str, pid: int) -> bool:
    """Whether no process writes it any more.

    A container that was started again may have the same host and the same
    process id, so its writer's lock decides.
    """
    if host == _HOST and pid != os.getpid() and _is_running(pid):
        return False
    state = _lock_state(path)
    if state == "unknown":
        return host == _HOST and pid != os.getpid()
    return state == "free"


def _lock_state(path: str | os.PathLike) -> str:
    """Returns `"missing"`, `"held"`, `"free"` or `"unknown"`."""
    try:
        handle = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return "missing"
    except OSError:
        return "unknown"
    try:
        _flock(handle)
    except BlockingIOError:
        return "held"
    # Some filesystems have no locks.
    except OSError:
        return "unknown"
    finally:
        os.close(handle)
    return "free"


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def _flock(handle: int, wait: bool = False) -> None:
    fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))


def _lock(handle: int) -> None:
    """Marks what is being written, where the filesystem has locks."""
    with contextlib.suppress(OSError):
        _flock(handle)


def _refuse_collisions(new: Path, target: Path, written: Written) -> None:
    foreign = set(files_in(target)) - set(written(target))
    taken = sorted(foreign & set(files_in(new)))
    if taken:
        raise FileExistsError(
            f"{str(target)!r} holds {', '.join(map(repr, taken[:5]))}, which "
            "this library did not write, so nothing there is replaced. Move "
            "it away, or choose another directory."
        )


def _put_in_place(new: Path, target: Path, written: Written) -> None:
    if not target.exists() or not any(target.iterdir()):
        os.rename(new, target)
        sync_directory(target.parent)
        return
    swap, old = new.with_suffix(f".{_SWAP}"), new.with_suffix(f".{_OLD}")
    os.rename(new, swap)
    if not _exchange(swap, target):
        # Killed in between, the next write finds both and goes on.
        os.rename(target, old)
        os.rename(swap, target)
        swap = old
    sync_directory(target.parent)
    _retire(swap, target, written)


def _exchange(first: Path, second: Path) -> bool:
    """Exchanges two names in one step, where the system can."""
    libc = ctypes.CDLL(None, use_errno=True)
    if not hasattr(libc, "renameat2"):
        return False
    failed = libc.renameat2(
        _AT_FDCWD,
        os.fsencode(first),
        _AT_FDCWD,
        os.fsencode(second),
        _RENAME_EXCHANGE,
    )
    if not failed:
        return True
    code = ctypes.get_errno()
    if code in (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP):
        return False
    raise OSError(code, os.strerror(code), str(second))


def _retire(old: Path, target: Path, written: Written) -> None:
    """Removes our files of a replaced directory, and moves the others."""
    if not remove_files(old, written(old)):
        _merge(old, target)


def _merge(source: Path, target: Path) -> None:
    for entry in sorted(source.iterdir()):
        goal = target / entry.name
        if not os.path.lexists(goal):
            os.rename(entry, goal)
        elif entry.is_dir() and goal.is_dir() and not entry.is_symlink():
            _merge(entry, goal)
    with contextlib.suppress(OSError):
        source.rmdir()
