"""Whether the disk has the space for all that a run will write."""

import math
from typing import Any

import numpy as np

from keras_sdft import disk
from keras_sdft.runs.directory import RunDirectory
from keras_sdft.training import CheckpointOptions


def check_space(
    run: RunDirectory,
    trainer: Any,
    checkpoints: CheckpointOptions,
    num_previews: int = 0,
) -> str:
    """Refuses to begin a run that the disk has too little space for.

    A checkpoint or an export is written beside the one that it replaces.

    Args:
        run: `RunDirectory`.
        trainer: A compiled `Trainer`.
        checkpoints: `CheckpointOptions`.
        num_previews: Integer, images of all previews together.

    Returns:
        String, when checkpoints are written, and what the run may take.

    Raises:
        OSError: If it is more than is free.
    """
    # Keras takes seconds to import, and the command's help needs none.
    from keras_sdft.training.checkpoint import snapshot

    checkpoint = snapshot(trainer).num_bytes
    export = sum(
        math.prod(variable.shape) * np.dtype(variable.dtype).itemsize
        for variable in trainer.trainable_variables
    )
    sd = trainer.stable_diffusion
    needed = (
        (checkpoints.keep_checkpoints + 1) * checkpoint
        + (3 if checkpoints.keep_best else 2) * export
        + num_previews * sd.img_height * sd.img_width * 3
    )
    disk.check_space(
        run.path,
        needed,
        f"The run {str(run.path)!r}",
        f"A checkpoint takes {disk.size_text(checkpoint)}; a smaller "
        "`keep_checkpoints` needs less.",
    )
    when = "a checkpoint only when interrupted"
    if checkpoints.checkpoint_every_steps:
        steps = f"{checkpoints.checkpoint_every_steps:,} steps"
        when = f"checkpoints every {steps} and at the end"
    elif checkpoints.checkpoint_every_minutes:
        minutes = f"{checkpoints.checkpoint_every_minutes:g} minutes"
        when = f"checkpoints every {minutes} and at the end"
    return (
        f"{when}; a checkpoint takes {disk.size_text(checkpoint)}, the run at "
        f"most {disk.size_text(needed)} of the disk"
    )
