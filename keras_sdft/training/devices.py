"""What training on several devices changes; here, what one device does.

A backend whose program is of the whole batch, wherever its rows are computed,
needs nothing else.
"""

import contextlib
from typing import Any


class OneDevice:
    """Base of `Trainer`: what the step of a backend may override."""

    def devices_scope(self) -> Any:
        """Context manager in which what is made is on all devices."""
        return contextlib.nullcontext()

    def check_devices(self) -> None:
        """Raises `ValueError` if the model cannot be trained where it is."""

    @property
    def writes_files(self) -> bool:
        """Whether this process writes: of several workers, the first."""
        return True

    def check_workers(self, dataset: Any) -> None:
        """Raises `ValueError` if other workers train something else."""

    def distributed(self, dataset: Any, micro_batches: int = 1) -> Any:
        """Returns a dataset that gives each device its rows of a batch.

        Args:
            dataset: A `tf.data.Dataset` of batches.
            micro_batches: Integer >= 1, parts of a device's rows.
        """
        return dataset

    def is_distributed(self, dataset: Any) -> bool:
        """Returns whether a dataset is one of `distributed` already."""
        return False

    def mean_over_devices(
        self, losses: Any, weights: Any, sums: list[Any]
    ) -> tuple[Any, Any, list[Any]]:
        """Returns losses, weights and sums as `LossMetrics.update` counts.

        Args:
            losses: Float32 tensor `(B,)`.
            weights: Float32 tensor `(B,)`.
            sums: List of float32 scalars.
        """
        return losses, weights, sums
