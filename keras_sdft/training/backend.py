"""What each backend of Keras has of its own, under `training/<backend>/`."""

import importlib
from typing import Any

import keras

BACKENDS = ("jax", "tensorflow")


def module(name: str) -> Any:
    """Returns a module of the backend that Keras uses.

    Args:
        name: String, `"train_step"` for example.

    Raises:
        ValueError: If nothing can be trained with the backend.
    """
    backend = keras.backend.backend()
    if backend not in BACKENDS:
        raise ValueError(
            f"Training needs one of Keras' backends {list(BACKENDS)}. "
            f"Received: {backend!r}. Set KERAS_BACKEND in the environment, "
            "before Keras is imported."
        )
    return importlib.import_module(f"{__package__}.{backend}.{name}")
