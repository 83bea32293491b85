"""What `fit` shows: the loss, and its two parts under prior preservation.

Must not know how losses are computed.
"""

from typing import Any

import keras
from keras import ops


class _Mean(keras.metrics.Mean):
    """Mean of what all devices count together.

    Keras' own adds up what each of them counts.
    """

    def add_variable(
        self,
        shape: Any,
        initializer: Any,
        dtype: Any = None,
        aggregation: Any = None,
        name: str | None = None,
    ) -> Any:
        return keras.Variable(
            initializer, shape, dtype, trainable=False, name=name
        )


class LossMetrics:
    """Running means of `loss`, `instance_loss` and `prior_loss`.

    The last two are of batches with the key `prior`, and unweighted: the
    mean over the instance examples, and over the class examples.
    """

    def __init__(self) -> None:
        names = ("loss", "instance_loss", "prior_loss")
        self.trackers = [_Mean(name=name) for name in names]

    def sums(self, losses: Any, batch: dict[str, Any]) -> list[Any]:
        """Returns sums and counts of a part of a batch; they add up.

        Args:
            losses: Float32 tensor `(B,)`.
            batch: The batch.

        Returns:
            List of float32 scalars: the instance examples' sum and count,
            then the class examples'; empty without the key `prior`.
        """
        if "prior" not in batch:
            return []
        # Examples that only fill up a batch have no weight.
        counted = ops.cast(batch["example_weight"] > 0, "float32")
        prior = ops.cast(batch["prior"], "float32") * counted
        instance = counted - prior
        return [
            ops.sum(losses * instance),
            ops.sum(instance),
            ops.sum(losses * prior),
            ops.sum(prior),
        ]

    def update(self, loss: Any, weight: Any, sums: list[Any]) -> dict[str, Any]:
        """Updates the running means with a batch.

        Args:
            loss: Float32 scalar, or `(B,)`.
            weight: How much it counts, of the same shape, or `None`.
            sums: What `sums` returned, over the whole batch.

        Returns:
            Dict of the running means, for Keras to show.
        """
        self.trackers[0].update_state(loss, sample_weight=weight)
        used = self.trackers if sums else self.trackers[:1]
        for index, tracker in enumerate(used[1:]):
            total, count = sums[2 * index : 2 * index + 2]
            mean = total / ops.maximum(count, 1.0)
            tracker.update_state(mean, sample_weight=count)
        return {tracker.name: tracker.result() for tracker in used}
