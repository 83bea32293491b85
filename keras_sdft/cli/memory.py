"""Whether there is memory for a run: told, and checked, before it begins."""

from __future__ import annotations

from typing import Any

from keras_sdft import runs
from keras_sdft.cli.command import Options
from keras_sdft.cli.training import parts_of
from keras_sdft.cli.training_data import Data


def check_memory(options: Options, trainer: Any, data: Data) -> None:
    """Prints what training needs and what there is, and refuses too much.

    Where the estimate's figures were not measured, too little is a warning.
    """
    import tensorflow as tf

    spec = {
        name: tf.TensorSpec((data.images_per_step, *one.shape[1:]), one.dtype)
        for name, one in data.training.element_spec.items()
    }
    estimate = trainer.memory_estimate(spec)
    where, available = runs.available_memory()
    needed = estimate.on_device if where == "GPU" else estimate.total
    print(estimate, flush=True)
    if available is None:
        print(f"  what the {where} has is not known", flush=True)
        return
    print(f"  {f'the {where} has':<30}{available / 1e9:8.2f} GB", flush=True)
    if needed <= available or not options.check_memory:
        return
    message = (
        f"Training needs about {needed / 1e9:.1f} GB, and the {where} has "
        f"{available / 1e9:.1f} GB for it."
    )
    if estimate.measured:
        raise ValueError(
            f"{message} Try {_remedies(options)}. To begin all the same, add "
            "`--check_memory false`."
        )
    print(
        f"Warning: {message} This is an estimate that was measured on CPUs "
        f"alone. If memory runs out: {_remedies(options)}.",
        flush=True,
    )


def _remedies(options: Options) -> str:
    """Returns what is left to change, what saves most first."""
    size, parts = options.batch_size, options.gradient_accumulation_steps
    half = size // 2
    others = [part.name.replace("_", " ") for part in parts_of(options)[1:]]
    found = {
        f"`--batch_size {half} --gradient_accumulation_steps "
        f"{parts * size // max(half, 1)}`, the same step in smaller parts": (
            size > 1 and size % 2 == 0
        ),
        "a smaller `--batch_size`": size > 1 and size % 2 == 1,
        "`--remat`, which computes activations twice": not options.remat,
        "a smaller `--resolution`": True,
        "`--mixed_precision bf16`": options.mixed_precision == "no",
        "`--optimizer lion`, which keeps half of AdamW's state": (
            options.optimizer != "lion"
        ),
        "no `--ema_decay`": options.ema_decay is not None,
        f"without the {' and the '.join(others)}": bool(others),
        "no `--gradient_accumulation_steps`": size == 1 and parts > 1,
    }
    return "; ".join(text for text, applies in found.items() if applies)
