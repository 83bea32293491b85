"""Environments of processes that train together."""

import json
import os
from pathlib import Path

from benchmarks._speed_workers import free_addresses

ROOT = Path(__file__).parent.parent


def environments(count):
    """Returns that of each worker; of one process, without `TF_CONFIG`."""
    found, addresses = [], free_addresses(count)
    for index in range(count):
        task = {"type": "worker", "index": index}
        config = {"cluster": {"worker": addresses}, "task": task}
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        environment.pop("TF_CONFIG", None)
        if count > 1:
            environment["TF_CONFIG"] = json.dumps(config)
        found.append(environment)
    return found
