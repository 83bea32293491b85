"""A signal to one worker becomes known to all of them, by a step they take.

Each adds what it has received to a sum over all replicas, so that all end
after the same step. Must not know what a step computes.
"""

import signal
from typing import Any

import tensorflow as tf

# Their sum tells which of them any worker has received: whole numbers that
# float32 holds for up to 4,000 replicas.
_VALUES: dict[int, float] = {signal.SIGINT: 1.0, signal.SIGTERM: 4096.0}


def received(progress: Any) -> Any:
    """Returns a float32 scalar of the signal that this process received.

    Args:
        progress: The trainer's `checkpoint.Progress`.
    """
    return tf.constant(_VALUES.get(progress.received, 0.0), tf.float32)


def tell(progress: Any, total: Any) -> None:
    """Notes the signal that any worker had received before a step.

    Args:
        progress: The trainer's `checkpoint.Progress`.
        total: Float32 scalar, the sum of `received` over all replicas.
    """
    found = [n for n, value in _VALUES.items() if float(total) >= value]
    if found and progress.told is None:
        progress.told = int(found[-1])
