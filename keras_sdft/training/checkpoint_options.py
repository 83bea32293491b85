"""The options of checkpoints, checked in one place.

Needs no TensorFlow, so that `--help` is quick.
"""

import dataclasses

from keras_sdft import checks


@dataclasses.dataclass(frozen=True, kw_only=True)
class CheckpointOptions:
    """Checkpoints: what a run goes on from, interrupted or to be longer.

    Args:
        checkpoint_every_steps: Optimizer steps between two checkpoints, in
            place of a time.
        checkpoint_every_minutes: Minutes between two checkpoints; the end has
            one, too. 0 writes one only when the run is interrupted.
        keep_checkpoints: How many of the newest checkpoints stay.
        keep_best: Name of a value of each epoch, val_loss for example. The
            weights of the epoch with its lowest value are exported as well.

    Raises:
        ValueError: If an option is out of its range.
    """

    checkpoint_every_steps: int | None = None
    checkpoint_every_minutes: float = 10.0
    keep_checkpoints: int = 2
    keep_best: str | None = None

    def __post_init__(self) -> None:
        if self.checkpoint_every_steps is not None:
            checks.integer(
                "checkpoint_every_steps", self.checkpoint_every_steps, 1
            )
        checks.number(
            "checkpoint_every_minutes", self.checkpoint_every_minutes, 0
        )
        checks.integer("keep_checkpoints", self.keep_checkpoints, 1)
        if self.keep_best is not None and not self.keep_best:
            raise ValueError(
                "`keep_best` must be the name of a value of each epoch, "
                "'val_loss' for example. Received: keep_best=''."
            )

    def check_best(self, validates: bool) -> None:
        """Refuses a value of validation where there is none."""
        best = self.keep_best
        if best is not None and best.startswith("val_") and not validates:
            raise ValueError(
                f"`keep_best` is {best!r}, and the run validates on nothing. "
                "Give validation data, or leave `keep_best` out."
            )
