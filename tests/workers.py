"""Processes that train together, and their environments."""

import json
import os
import subprocess
import sys
from pathlib import Path

from benchmarks._speed_workers import free_addresses

ROOT = Path(__file__).parent.parent
# What each process writes, in the folder that it was given.
OUTPUT = "output-{}.txt"


def run(folder, module, case, environments, timeout=600):
    """Runs a module in several processes at once, and waits for all.

    Args:
        folder: Path of a directory, the module's first argument.
        module: String, as for `python -m`.
        case: String, the module's second argument.
        environments: List of dicts, one for each process.
        timeout: Seconds that each may take.

    Returns:
        Tuple of the list of exit codes, and that of what each wrote.
    """
    processes = []
    for index, environment in enumerate(environments):
        with open(folder / OUTPUT.format(index), "w") as output:
            processes.append(
                subprocess.Popen(
                    [
                        *(sys.executable, "-W", "ignore", "-m", module),
                        *(str(folder), case),
                    ],
                    cwd=ROOT,
                    env=environment,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                )
            )
    try:
        codes = [process.wait(timeout=timeout) for process in processes]
    finally:
        for process in processes:
            process.kill()
    outputs = [
        (folder / OUTPUT.format(index)).read_text()
        for index in range(len(processes))
    ]
    return codes, outputs


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
