"""Whether there is memory for a run: of the GPU, or of this machine."""

from __future__ import annotations

from typing import Any

from keras_sdft import devices
from keras_sdft import distribution
from keras_sdft.host_memory import available_on_host
from keras_sdft.runs.fitting import RunData


def check_memory(
    trainer: Any, data: RunData, remedies: str, refuse: bool = True
) -> None:
    """Prints what training needs and what there is, and refuses too much.

    Where the estimate's figures were not measured, too little is a warning.

    Args:
        trainer: A compiled `keras_sdft.Trainer`.
        data: `RunData`.
        remedies: String, what would need less.
        refuse: Boolean, whether it refuses.

    Raises:
        ValueError: If there is too little.
    """
    import tensorflow as tf

    # Each GPU has memory of its own; the CPUs of a machine share it.
    workers = distribution.worker()[1]
    shares = distribution.num_devices() if devices.accelerators() else workers
    rows = -(-data.images_per_step // shares)
    spec = {
        name: tf.TensorSpec((rows, *one.shape[1:]), one.dtype)
        for name, one in data.training.element_spec.items()
    }
    estimate = trainer.memory_estimate(spec)
    where, available = available_memory()
    needed = estimate.on_device if where == "GPU" else estimate.total
    print(estimate, flush=True)
    if available is None:
        print(f"  what the {where} has is not known", flush=True)
        return
    print(f"  {f'the {where} has':<30}{available / 1e9:8.2f} GB", flush=True)
    if needed <= available or not refuse:
        return
    message = (
        f"Training needs about {needed / 1e9:.1f} GB, and the {where} has "
        f"{available / 1e9:.1f} GB for it."
    )
    if estimate.measured:
        raise ValueError(
            f"{message} Try {remedies}. To begin all the same, add "
            "`--check_memory false`."
        )
    print(
        f"Warning: {message} This is an estimate that was measured on CPUs "
        f"alone. If memory runs out: {remedies}.",
        flush=True,
    )


def available_memory() -> tuple[str, int | None]:
    """Returns `"GPU"` or `"CPU"`, and the bytes that training may take there.

    What this process has taken already is among them. `None` is not known.
    """
    if not devices.accelerators():
        return "CPU", available_on_host()
    return "GPU", devices.accelerator_memory()
