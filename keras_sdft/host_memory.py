"""The machine's memory: how much there is for this process, and how it is kept.

Within the limits of control groups, as containers have. Imports nothing of
this library; every package may import it.
"""

import ctypes
import os
from collections.abc import Iterator
from pathlib import Path

# Files of a control group: its limit, what it uses, and the name that its
# statistics have for files that can be dropped. Version 2, then 1.
_GROUP_FILES = (
    ("memory.max", "memory.current", "inactive_file"),
    ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)


# Parameters of glibc's `mallopt`: from which size on a buffer is mapped by
# itself, and how much may be free at the heap's end before it is given back.
# The values are those that glibc comes to when large buffers are freed.
_MMAP_THRESHOLD, _TRIM_THRESHOLD = -3, -1
_KEPT = {_MMAP_THRESHOLD: 32 * 2**20, _TRIM_THRESHOLD: 64 * 2**20}
_BY_USER = (
    "GLIBC_TUNABLES",
    "MALLOC_MMAP_THRESHOLD_",
    "MALLOC_TRIM_THRESHOLD_",
)


def keep_freed_memory() -> None:
    """Has the C library keep freed memory for what is allocated next.

    It does so by itself, until TensorFlow switches that off where a dataset
    is made of a Python generator, as several devices' are: from then on each
    temporary buffer of a kernel is new memory of the operating system. Does
    nothing where the user has set one of the parameters, or without glibc.
    """
    if any(name in os.environ for name in _BY_USER):
        return
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return
    for parameter, value in _KEPT.items():
        mallopt(parameter, value)


def available_on_host(root: Path = Path("/")) -> int | None:
    """Returns the bytes that this process may take of the machine's memory.

    Within the limits of the control groups that it is in, and with what it
    holds already. `None` where the operating system is not Linux.

    Args:
        root: Path under which `proc` and `sys` are.
    """
    free = free_on_host(root)
    try:
        resident = _bytes_by_name(root / "proc/self/status")["VmRSS"]
    except (OSError, KeyError):
        return None
    return None if free is None else resident + free


def free_on_host(root: Path = Path("/")) -> int | None:
    """Returns the bytes that this process may take beside what it has.

    Args:
        root: As for `available_on_host`.
    """
    try:
        machine = _bytes_by_name(root / "proc/meminfo")["MemAvailable"]
    except (OSError, KeyError):
        return None
    return min([machine, *_left_in_groups(root)])


def _bytes_by_name(path: Path) -> dict[str, int]:
    """Returns the lines `name: number kB` of a file, in bytes."""
    rows = (line.split() for line in path.read_text().splitlines())
    return {
        row[0].rstrip(":"): int(row[1]) * 1024
        for row in rows
        if len(row) == 3 and row[2] == "kB"
    }


def _left_in_groups(root: Path) -> Iterator[int]:
    """Yields the bytes that each control group of the process has left."""
    for directory in _groups(root):
        for limit, used, files in _GROUP_FILES:
            try:
                most = (directory / limit).read_text().strip()
                taken = int((directory / used).read_text())
                stat = (directory / "memory.stat").read_text()
            except OSError:
                continue
            if most != "max":
                droppable = dict(line.split() for line in stat.splitlines())
                yield int(most) - taken + int(droppable.get(files, 0))


def _groups(root: Path) -> Iterator[Path]:
    """Yields the directories of the process's groups, and their parents."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers not in ("", "memory"):
            continue
        top = root / "sys/fs/cgroup" / controllers
        # In a container the path may be the host's; its top is the group.
        inner = top / path.strip("/")
        yield top
        while inner != top:
            yield inner
            inner = inner.parent
