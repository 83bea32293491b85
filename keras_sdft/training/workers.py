"""What several workers check of each other, whichever engine joins them."""

import contextlib
from typing import Any

from keras_sdft import distribution
from keras_sdft.training import checkpoint
from keras_sdft.training import state


def check_alike(trainer: Any, dataset: Any, devices: int) -> None:
    """Raises `ValueError` if other workers train something else.

    Args:
        trainer: A compiled `Trainer`.
        dataset: A `tf.data.Dataset` of batches.
        devices: Integer, those of this worker.
    """
    if distribution.worker()[1] == 1:
        return
    # For what the first worker does alone, previews for example.
    trainer.stable_diffusion.build_parts()
    distribution.check_alike(
        {
            **state.configuration(trainer),
            **checkpoint.versions(),
            "devices": devices,
            "frozen weights": checkpoint.frozen_checksums(trainer),
            "weights": checkpoint.checksum(trainer.trainable_variables),
            "batches": str(dataset.element_spec),
            "batches of an epoch": int(dataset.cardinality()),
        }
    )


def check_rows(dataset: Any, index: int, count: int) -> None:
    """Raises `ValueError` if a dataset has the rows of another worker.

    Args:
        dataset: A `tf.data.Dataset` of batches, whose first one is read if
            they are a part of the whole ones.
        index: Integer, this process' number among the workers.
        count: Integer, how many there are.
    """
    if "place" not in dataset.element_spec:
        return
    passes = getattr(dataset, "passes", None)
    # A look at it is no epoch.
    with passes.validating() if passes else contextlib.nullcontext():
        batch = next(iter(dataset.take(1)), None)
    if batch is None:
        return
    rows, first = len(batch["place"]), int(batch["place"][0])
    whole = int(batch["whole"][0])
    if (first, whole) == (index * rows, count * rows):
        return
    raise ValueError(
        "The dataset was loaded for another worker or number of workers than "
        f"train here. Expected: worker=({index}, {count}). Received: rows "
        f"{first} to {first + rows - 1} of {whole}. Load it with "
        "`worker=keras_sdft.distribution.worker()`, or without `worker`."
    )
