"""Reads and checks `TF_CONFIG`, which describes the machines that train.

Must not know devices, nor an engine.
"""

import errno
import json
import os
import socket
from typing import Any
from typing import NamedTuple

VARIABLE = "TF_CONFIG"
# Of which processes that train may be, the one that writes first.
_JOBS = ("chief", "worker")
EXAMPLE = (
    '{"cluster": {"worker": ["HOST-A:12345", "HOST-B:12345"]}, '
    '"task": {"type": "worker", "index": 0}}'
)


class Cluster(NamedTuple):
    """The machines of `TF_CONFIG`.

    Attributes:
        addresses: Tuple of strings, `host:port` of each worker, the chief's
            first.
        task: Integer, which of them this process is.
    """

    addresses: tuple[str, ...]
    task: int


def read_cluster() -> Cluster | None:
    """Returns the machines of `TF_CONFIG`, or `None` if it is not set.

    Raises:
        ValueError: If it is no such description.
    """
    text = os.environ.get(VARIABLE)
    if not text:
        return None
    try:
        config = json.loads(text)
        jobs, task = dict(config["cluster"]), dict(config["task"])
        addresses = {job: list(jobs[job]) for job in jobs}
        kind, index = task["type"], int(task["index"])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{VARIABLE} is no description of machines: "
            f"{type(error).__name__}: {error}. Received: {text[:200]}. "
            f"Expected: {EXAMPLE}"
        ) from error
    if set(jobs) - set(_JOBS) or kind not in jobs:
        raise ValueError(
            f"{VARIABLE} must have the jobs {list(_JOBS)} alone, and the "
            f"task's type among them. Received: jobs {sorted(jobs)}, type "
            f"{kind!r}. Expected: {EXAMPLE}"
        )
    tasks = tasks_of(jobs)
    if (kind, index) not in tasks:
        raise ValueError(
            f"{VARIABLE} names a task that its cluster has not. Received: "
            f"index {index} of {len(jobs[kind])} {kind!r}. Expected 0 to "
            f"{len(jobs[kind]) - 1}, another one on each machine."
        )
    found = tuple(str(addresses[job][i]) for job, i in tasks)
    for address in found:
        host, _, port = address.rpartition(":")
        if not host or not port.isdecimal():
            raise ValueError(
                f"{VARIABLE} must name each machine as HOST:PORT. Received: "
                f"{address!r}."
            )
        if found.count(address) > 1:
            raise ValueError(
                f"{VARIABLE} must name each machine once, or with another "
                f"port. Received: {address!r} twice."
            )
    return Cluster(found, tasks.index((kind, index)))


def tasks_of(jobs: dict[str, Any]) -> list[tuple[str, int]]:
    """Returns all jobs' names and numbers, in the order of the workers."""
    return [(job, i) for job in _JOBS for i in range(len(jobs.get(job, ())))]


def check_port(cluster: Cluster) -> None:
    """Raises `ValueError` if this process cannot listen where it should."""
    address = cluster.addresses[cluster.task]
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(("", int(address.rpartition(":")[2])))
    except (OSError, OverflowError) as error:
        if getattr(error, "errno", None) == errno.EADDRINUSE:
            reason = "another process uses that port"
        else:
            reason = str(error)
        raise ValueError(
            f"This process cannot listen at {address!r} of {VARIABLE}: "
            f"{reason}. Choose another port, or end what uses it (a run that "
            "was not ended?)."
        ) from error
