"""The frozen encoders: where their weights come from, and letting go of them.

Must not know what is encoded, or what an encoding is kept for.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Iterable
from typing import Any

from keras_sdft.models import packaged

# Attributes of a `StableDiffusion` that hold each encoder.
_HOLDERS = {
    "image_encoder": ("_image_encoder", "_moments_model"),
    "text_encoder": ("_text_encoder",),
}


def encoder_sources(stable_diffusion: Any) -> dict[str, str]:
    """Says where the encoders' weights come from, without reading them.

    Args:
        stable_diffusion: A `keras_sdft.StableDiffusion`.

    Returns:
        Dict of a text for each of `"image_encoder"` and `"text_encoder"`
        that changes when the weights do. One that is in memory already is
        left out, since its weights may have been changed there, and so is
        one whose file cannot be told.
    """
    found = {}
    for part, (holder, *_) in _HOLDERS.items():
        if getattr(stable_diffusion, holder) is None:
            source = _source(stable_diffusion, part)
            if source is not None:
                kind = (stable_diffusion.dtype, stable_diffusion._numerics)
                found[part] = f"{source}; dtype and numerics {kind}"
    return found


def _source(sd: Any, part: str) -> str | None:
    if sd._is_random(part):
        parts = (sd.spec.text_encoder, sd.spec.autoencoder)
        return f"drawn from seed {sd._seed} for {parts}"
    file = sd._file(part)
    if getattr(file, "func", None) is packaged.read:
        directory, name = file.args
        return f"packaged {packaged.checksum(directory, name)}"
    if callable(file):
        file = file.describe()["file"]
    if not os.path.isfile(file):
        return None
    status = os.stat(file)
    path = os.path.abspath(file)
    return f"{path}, {status.st_size} bytes of {status.st_mtime_ns}"


def release(stable_diffusion: Any, parts: Iterable[str]) -> None:
    """Lets go of encoders, to free their memory.

    One that is asked for again, by a preview for example, is built again
    and loaded from its file.

    Args:
        stable_diffusion: A `keras_sdft.StableDiffusion`.
        parts: Names of encoders: `"image_encoder"`, `"text_encoder"`.

    Raises:
        ValueError: If a part is no encoder, or is being trained: its file
            does not hold what it has learned.
    """
    for part in parts:
        if part not in _HOLDERS:
            raise ValueError(
                f"`parts` must be of {sorted(_HOLDERS)}. Received: {part!r}."
            )
        if part in stable_diffusion.trained_parts:
            raise ValueError(
                f"{part!r} is being trained, so it cannot be released: what "
                "it has learned is nowhere else."
            )
        for holder in _HOLDERS[part]:
            setattr(stable_diffusion, holder, None)
    # Layers and their model hold each other.
    gc.collect()
