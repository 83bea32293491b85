"""Several processes of JAX that train together: how they find each other.

The machines are those of JAX's own cluster detection, or of environment
variables. Keras and JAX are imported only where they are needed.
"""

import importlib.util
import os
import sys
import threading
import time
from collections.abc import Mapping
from typing import Any

ADDRESSES = "KERAS_DISTRIBUTION_JOB_ADDRESSES"
NUMBER = "KERAS_DISTRIBUTION_NUM_PROCESSES"
INDEX = "KERAS_DISTRIBUTION_PROCESS_ID"
COORDINATOR = "JAX_COORDINATOR_ADDRESS"
EXPECTED = (
    f"{ADDRESSES}=HOST-A:12345,HOST-B:12345 and {INDEX}=0 in the "
    "environment, another index on each machine"
)
_SECONDS_TO_WRITE = 30.0
# What JAX says when a process, or the way to it, is gone.
_LOST = (
    "Gloo",
    "NCCL",
    "closed by peer",
    "coordination service",
    "heartbeat",
    "UNAVAILABLE",
    "DEADLINE_EXCEEDED",
)


def are_named(environment: Mapping[str, str] = os.environ) -> bool:
    """Returns whether the environment names several processes.

    By Keras' or JAX's variables, or by those that JAX reads under SLURM, Open
    MPI, Kubernetes and on Cloud TPU.

    Args:
        environment: Dict of environment variables.
    """

    def count(name: str) -> int:
        text = environment.get(name, "")
        return int(text) if text.isdecimal() else 1

    if environment.get(ADDRESSES) or environment.get(COORDINATOR):
        return True
    hosts = environment.get(
        "TPU_PROCESS_ADDRESSES", environment.get("TPU_WORKER_HOSTNAMES", "")
    )
    in_pod = {"KUBERNETES_SERVICE_HOST", "JOB_COMPLETION_INDEX"}
    return (
        # Of a step that `srun` began, not of the script around it.
        ("SLURM_STEP_NODELIST" in environment and count("SLURM_NTASKS") > 1)
        or count("OMPI_COMM_WORLD_SIZE") > 1
        or "," in hosts
        or (
            in_pod <= set(environment)
            and importlib.util.find_spec("kubernetes") is not None
        )
    )


def others(environment: Mapping[str, str] = os.environ) -> list[str]:
    """Returns the addresses of the other processes, where they are known."""
    found = environment.get(ADDRESSES, "").split(",")
    own = environment.get(INDEX, "")
    return [one for i, one in enumerate(found) if one.strip() and str(i) != own]


def start() -> None:
    """Connects this process with the others that the environment names.

    Does nothing if there are none, or if they are connected already.

    Raises:
        ValueError: If the environment does not say enough, if JAX was used
            before, or if the others did not begin.
    """
    import jax
    import keras

    if jax.distributed.is_initialized() or not are_named():
        return
    # Its handler of TERM would take the place of the command's.
    jax.config.update("jax_enable_preemption_service", False)
    count = None
    if NUMBER not in os.environ and "," in os.environ.get(ADDRESSES, ""):
        count = len(os.environ[ADDRESSES].split(","))
    try:
        keras.distribution.initialize(num_processes=count)
    except (RuntimeError, TypeError, ValueError) as error:
        if "must be called before" in str(error):
            raise ValueError(
                "Several processes must be connected before anything else of "
                "JAX is used. Call `keras_sdft.distribution.use()` first in "
                "the program."
            ) from error
        text = str(error).strip() or type(error).__name__
        raise ValueError(
            "JAX could not connect the processes that the environment names: "
            f"{text.splitlines()[0][:300].rstrip('.')}. Expected {EXPECTED}, "
            "or what JAX finds out by itself under SLURM, Open MPI, "
            "Kubernetes and on Cloud TPU."
        ) from error


def place() -> tuple[int, int]:
    """Returns this process' number, and how many there are."""
    import jax

    return jax.process_index(), jax.process_count()


def gathered(text: str) -> list[str]:
    """Returns the text of each process, in their order; all must call it."""
    import numpy as np
    from jax.experimental import multihost_utils

    def of_each(row: Any) -> Any:
        return np.asarray(multihost_utils.process_allgather(row))

    values = np.frombuffer(text.encode(), np.uint8)
    lengths = of_each(np.array([len(values)], np.int32))[:, 0]
    padded = np.zeros([max(1, lengths.max())], np.uint8)
    padded[: len(values)] = values
    rows = of_each(padded)
    return [
        bytes(row[:length]).decode()
        for row, length in zip(rows, lengths, strict=True)
    ]


def tells_of_loss(error: BaseException) -> bool:
    """Returns whether an error of JAX says that a process was lost."""
    import jax

    is_jax = isinstance(error, jax.errors.JaxRuntimeError)
    return is_jax and any(word in str(error) for word in _LOST)


def leave(code: int) -> None:
    """Ends this process without waiting for the others, once it has written.

    Args:
        code: Integer, the exit code.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    # Some threads of pools never end by themselves.
    last = time.monotonic() + _SECONDS_TO_WRITE
    for thread in threading.enumerate():
        if thread is not threading.current_thread() and not thread.daemon:
            thread.join(max(0.0, last - time.monotonic()))
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
