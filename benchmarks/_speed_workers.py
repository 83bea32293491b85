"""Several processes that train at once, each on a core of its own.

Together, or each by itself. The first is the measured one; it starts the
others with the same job.
"""

import contextlib
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

# What a process prints when it waits for the others.
_HERE = "here"


@contextlib.contextmanager
def joined(job):
    """Context manager in which this process is one of the job's workers.

    Before anything of TensorFlow, which counts the cores that it may use.

    Args:
        job: Dict with `workers`, how many processes there are, and `apart`
            if each trains by itself. Those that are started here have
            `addresses`, `cores` and `index` too.

    Yields:
        Function that waits until all workers have called it.
    """
    count, index = job["workers"], job.get("index", 0)
    cores = job.get("cores") or sorted(os.sched_getaffinity(0))
    if len(cores) < count:
        raise NotImplementedError(f"{count} cores, and there are {len(cores)}")
    addresses = job.get("addresses") or free_addresses(count)
    cluster = {"worker": addresses}
    task = {"type": "worker", "index": index}
    if count > 1 and not job.get("apart"):
        config = {"cluster": cluster, "task": task}
        os.environ["TF_CONFIG"] = json.dumps(config)
    whole = job | {"addresses": addresses, "cores": cores}
    others = []
    if not index:
        others = [_start(whole | {"index": one}) for one in range(1, count)]
    os.sched_setaffinity(0, {cores[index]})
    try:
        yield lambda: _meet(index, others)
        for other in others:
            if other.wait(timeout=600):
                raise RuntimeError(f"Another worker ended: {other.args[-1]}")
    finally:
        for other in others:
            other.kill()


def free_addresses(count):
    """Returns addresses of this machine at which nothing listens."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [f"127.0.0.1:{one.getsockname()[1]}" for one in sockets]


def results(job):
    """Returns what the others measured, once `joined` has ended."""
    if job.get("index"):
        return []
    paths = [_out(job, index) for index in range(1, job["workers"])]
    return [json.loads(Path(path).read_text("utf-8")) for path in paths]


def _out(job, index):
    return f"{job['out']}.{index}"


def _start(job):
    job = job | {"out": _out(job, job["index"])}
    return subprocess.Popen(
        _command(job), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def _command(job):
    return [sys.executable, "-m", "benchmarks._speed_ours", json.dumps(job)]


def _meet(index, others):
    """Waits for all: the first worker hears of each other, then answers."""
    if index:
        print(_HERE, flush=True)
        input()
    for other in others:
        while (line := other.stdout.readline()).strip() != _HERE:
            if not line:
                raise RuntimeError(f"Another worker ended: {other.args[-1]}")
    for other in others:
        print(file=other.stdin, flush=True)
