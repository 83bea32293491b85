"""The rows of a batch: which of them are a process' own, and their signal.

Must not know what a step computes.
"""

from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_sdft import distribution

# A signal that a process received, as a key of a batch and of the logs.
SIGNAL = "signal"


def check_divides(dataset: Any, micro_batches: int = 1) -> None:
    """Checks that devices can share the rows of each micro-batch.

    Args:
        dataset: A `tf.data.Dataset` of whole batches, or of those of
            `keras_sdft.data.load(worker=)`.
        micro_batches: Integer >= 1, of a batch.

    Raises:
        ValueError: If a batch has a number of rows that does not divide.
    """
    devices = keras.distribution.distribution()
    size = dataset.element_spec["example_weight"].shape[0]
    if devices is None or size is None:
        return
    if "place" in dataset.element_spec:
        size *= distribution.worker()[1]
    step = devices.num_model_replicas * micro_batches
    if size % step:
        raise ValueError(
            "The rows of a batch must be a multiple of the devices times "
            f"`gradient_accumulation_steps`, {devices.num_model_replicas} * "
            f"{micro_batches}. Received: batch size {size}. Take "
            f"{max(1, round(size / step)) * step}."
        )


def of_worker(dataset: Any, index: int, count: int) -> Any:
    """Returns a worker's rows of each batch.

    Args:
        dataset: A `tf.data.Dataset` of whole batches, or of those of
            `keras_sdft.data.load(worker=)`.
        index: Integer, which worker.
        count: Integer, of how many.

    Returns:
        A `tf.data.Dataset` of as many batches.

    Raises:
        ValueError: If the number of rows of a batch is not known.
    """
    if count == 1:
        return dataset
    size = dataset.element_spec["example_weight"].shape[0]
    if size is None:
        raise ValueError(
            "Several processes need batches whose number of rows is known. "
            "Batch the dataset with `drop_remainder=True`, or load it with "
            "`keras_sdft.data.load`."
        )
    first, last = 0, size
    if "place" not in dataset.element_spec:
        first, last = index * size // count, (index + 1) * size // count

    def rows(batch: dict[str, Any]) -> dict[str, Any]:
        return {
            name: value[first:last]
            for name, value in batch.items()
            if name not in ("place", "whole")
        }

    found = dataset.map(rows).prefetch(1)
    # As long as `data.load` says, which a map does not know.
    length = dataset.cardinality()
    found.cardinality = lambda: length
    found.passes = getattr(dataset, "passes", None)
    found.is_of_worker = True
    return found


def with_signal(iterator: Any, signal: int) -> Iterator[Any]:
    """Yields batches with the signal that this process received."""
    for batch in iterator:
        size = len(batch["example_weight"])
        yield {**batch, SIGNAL: np.full(size, signal, "int32")}


def without_signal(data: dict[str, Any]) -> tuple[dict[str, Any], Any]:
    """Returns the logs of the processes' signals, and the batch itself."""
    if SIGNAL not in data:
        return {}, data
    rest = {name: x for name, x in data.items() if name != SIGNAL}
    # TERM, where some received that and some INT: the larger number.
    return {SIGNAL: ops.max(data[SIGNAL])}, rest
