"""Whether there is memory for a run: of the GPU, or of this machine."""

from typing import Any

from keras_sdft import devices
from keras_sdft import distribution
from keras_sdft.host_memory import available_on_host
from keras_sdft.runs.fitting import RunData
from keras_sdft.runs.options import RunOptions


def check_memory(trainer: Any, data: RunData, options: RunOptions) -> None:
    """Prints what training needs and what there is, and refuses too much.

    Where the estimate's figures were not measured, too little is a warning.

    Args:
        trainer: A compiled `keras_sdft.Trainer`.
        data: `RunData`.
        options: `RunOptions`, which say whether it refuses.

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
    if distribution.is_chief():
        print(estimate, flush=True)
        print(f"  {_available_text(where, available)}", flush=True)
    if available is None:
        return
    if needed <= available or not options.check_memory:
        return
    remedies = _remedies(trainer, estimate, options)
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


def _available_text(where: str, available: int | None) -> str:
    if available is None:
        return f"what the {where} has is not known"
    return f"{f'the {where} has':<30}{available / 1e9:8.2f} GB"


def _remedies(trainer: Any, estimate: Any, options: RunOptions) -> str:
    """Returns what is left to change, what saves most first."""
    size, parts = options.batch_size, options.gradient_accumulation_steps
    half = size // 2
    others = [part.name.replace("_", " ") for part in trainer.parts[1:]]
    found = {
        f"`--batch_size {half} --gradient_accumulation_steps "
        f"{parts * size // max(half, 1)}`, the same step in smaller parts": (
            size > 1 and size % 2 == 0
        ),
        "a smaller `--batch_size`": size > 1 and size % 2 == 1,
        "`--remat`, which computes activations twice": not options.remat,
        "a smaller `--resolution`": True,
        "`--mixed_precision bf16`": trainer.compute_dtype == "float32",
        "`--optimizer lion`, which keeps half of AdamW's state": (
            estimate.optimizer_state > 1.5 * estimate.gradients
        ),
        "no `--ema_decay`": options.ema_decay is not None,
        f"without the {' and the '.join(others)}": bool(others),
        "no `--gradient_accumulation_steps`": size == 1 and parts > 1,
    }
    return "; ".join(text for text, applies in found.items() if applies)


def available_memory() -> tuple[str, int | None]:
    """Returns `"GPU"` or `"CPU"`, and the bytes that training may take there.

    What this process has taken already is among them. `None` is not known.
    """
    if not devices.accelerators():
        return "CPU", available_on_host()
    return "GPU", devices.accelerator_memory()
