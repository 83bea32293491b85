"""What can learn: a part of a model, its variables and how it is saved.

Must not know losses, steps or the command.
"""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

from keras_sdft import checks


@dataclasses.dataclass(frozen=True, eq=False)
class Group:
    """Variables that are updated in the same way.

    Attributes:
        variables: List of `keras.Variable`.
        learning_rate: Float, a rate in place of the main optimizer's, or
            `None`.
        optimizer: A Keras optimizer, its name, or `None` for the main one.
        stop_step: Integer >= 1, optimizer steps after which the variables
            stay as they are, or `None` for never.
    """

    variables: list[Any]
    learning_rate: float | None = None
    optimizer: Any = None
    stop_step: int | None = None


class Part:
    """Something that learns, an entry of `Trainer(train=...)`.

    Subclasses say what their variables are, and through which networks
    gradients must pass to reach them.

    Args:
        learning_rate: Float > 0, a rate in place of the main optimizer's,
            of which the part gets a copy; a schedule is scaled.
        optimizer: A Keras optimizer or its name, for this part alone.
        stop_step: Integer >= 1, optimizer steps after which the part stays
            as it is. `None` for never.

    Attributes:
        name: String, for messages.
        networks: Tuple of the names of the `StableDiffusion`'s networks
            that are run with gradients. What such a network encodes cannot
            come from a cache.
        keeps_base: Boolean, whether the networks' own weights stay as they
            are, so that `models.adapted.adapters_disabled` gives the base.
    """

    name = "part"
    networks: tuple[str, ...] = ()
    keeps_base = False

    def __init__(
        self,
        *,
        learning_rate: float | None = None,
        optimizer: Any = None,
        stop_step: int | None = None,
    ):
        if learning_rate is not None:
            checks.number("learning_rate", learning_rate, above=0)
        if stop_step is not None:
            checks.integer("stop_step", stop_step, 1)
        if learning_rate is not None and optimizer is not None:
            raise ValueError(
                f"Give {self.name!r} either an `optimizer` or a "
                "`learning_rate` for a copy of the main optimizer. Received: "
                f"learning_rate={learning_rate!r}, optimizer={optimizer!r}."
            )
        self.learning_rate = learning_rate
        self.optimizer = optimizer
        self.stop_step = stop_step

    def attach(self, stable_diffusion: Any) -> None:
        """Makes the part's variables, or finds them in the networks.

        A part that adds to the layers of a network does so here.

        Args:
            stable_diffusion: The `StableDiffusion` that is trained.
        """
        raise NotImplementedError

    def add_tokens(self, stable_diffusion: Any) -> None:
        """Adds the part's words to the tokenizer, before data is read.

        Args:
            stable_diffusion: The `StableDiffusion` that is trained.
        """

    def check_dataset(self, dataset: Any) -> None:
        """Refuses a dataset that the part cannot learn from.

        Args:
            dataset: A `tf.data.Dataset` of batches.

        Raises:
            ValueError: If there is nothing to learn in it.
        """

    def prepare(self, step: Any, training: bool) -> None:
        """Sets what the part's layers read in a step, in its graph.

        Args:
            step: Integer tensor, the optimizer step.
            training: Boolean, `False` in validation.
        """

    @property
    def variables(self) -> list[Any]:
        """The `keras.Variable`s that learn; known once it is attached."""
        raise NotImplementedError

    def groups(self) -> list[Group]:
        """Returns the variables by how they are updated; most have one."""
        group = Group(
            self.variables, self.learning_rate, self.optimizer, self.stop_step
        )
        return [group]

    def files(self) -> dict[str, Callable[[Path], None]]:
        """Returns what an export holds of it, beside whole networks.

        Returns:
            Dict of functions that write a path, by the name of the file.
        """
        return {}
