"""What every measured process of `speed.py` shares: clock, memory, result.

Runs on both sides, so it imports nothing that must be installed.
"""

import contextlib
import importlib.metadata
import json
import platform
import sys
import time
from pathlib import Path


def memory_gb(field="VmHWM"):
    """This process's peak (or, by "VmRSS", present) memory in GB.

    Not `ru_maxrss`: that includes what the parent had before this program
    was loaded.
    """
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024 / 1e9
    raise OSError(f"/proc/self/status has no {field}.")


class Clock:
    """Moments of a job, in seconds since its process was started.

    Args:
        job: Dict with `started` (the parent's monotonic clock, which all
            processes share), `warmup` and `steps`.
        ready: Function that is called at the end of the warm-up, before the
            first step that counts, or `None`.
    """

    def __init__(self, job, ready=None):
        self.started = job["started"]
        self.warmup = job["warmup"]
        self.count = job["warmup"] + job["steps"]
        self.marks = []
        self._ready = ready

    def now(self):
        return time.monotonic() - self.started

    def tick(self):
        """Notes the end of a step; tells whether there are more."""
        if self._ready is not None and len(self.marks) == self.warmup - 1:
            self._ready()
        self.marks.append(self.now())
        return len(self.marks) < self.count

    def result(self, **more):
        """The seconds of each step, of the warm-up apart from the rest."""
        pairs = zip(self.marks, self.marks[1:], strict=False)
        seconds = [end - start for start, end in pairs]
        return {
            "first": self.marks[0],
            "warmup": seconds[: self.warmup - 1],
            "steps": seconds[self.warmup - 1 :],
            **more,
        }


def versions(names):
    """The versions of packages; of those that a backend has not, none."""
    found = {"python": platform.python_version()}
    for name in names:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def main(commands, packages):
    """Runs the job that the command line holds; writes its result.

    Args:
        commands: Dict of functions of a job by its `command`; each returns
            a dict of figures.
        packages: Names of packages whose versions are noted.

    What a side cannot do yet (`NotImplementedError`) is a result too, and
    no failure.
    """
    job = json.loads(sys.argv[1])
    try:
        result = commands[job["command"]](job)
    except NotImplementedError as error:
        result = {"missing": str(error)}
    result["peak"] = memory_gb()
    result["versions"] = versions(packages)
    Path(job["out"]).write_text(json.dumps(result), encoding="utf-8")
