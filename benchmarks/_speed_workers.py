"""Several processes that train together, each on a core of its own.

The first is the measured one; it starts the others with the same job.
"""

import contextlib
import json
import os
import socket
import subprocess
import sys


@contextlib.contextmanager
def joined(job):
    """Context manager in which this process is one of the job's workers.

    Before anything of TensorFlow, which counts the cores that it may use.

    Args:
        job: Dict with `workers`, how many processes there are. Those that
            are started here have `addresses`, `cores` and `index` too.
    """
    count, index = job["workers"], job.get("index", 0)
    cores = job.get("cores") or sorted(os.sched_getaffinity(0))
    if len(cores) < count:
        raise NotImplementedError(f"{count} cores, and there are {len(cores)}")
    addresses = job.get("addresses") or free_addresses(count)
    cluster = {"worker": addresses}
    task = {"type": "worker", "index": index}
    if count > 1:
        config = {"cluster": cluster, "task": task}
        os.environ["TF_CONFIG"] = json.dumps(config)
    whole = job | {"addresses": addresses, "cores": cores}
    others = []
    if not index:
        others = [_start(whole | {"index": one}) for one in range(1, count)]
    os.sched_setaffinity(0, {cores[index]})
    try:
        yield
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


def _start(job):
    # What it measures is that of the first one, but for its memory.
    job = job | {"out": f"{job['out']}.{job['index']}"}
    module = "benchmarks._speed_ours"
    return subprocess.Popen([sys.executable, "-m", module, json.dumps(job)])
