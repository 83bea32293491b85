"""Exported directories: writing them.

An exported directory holds `diffusion_model.weights.h5` and a small
`keras_sdft.json`. Must not know how a model was trained.
"""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from keras_sdft.disk import check_space
from keras_sdft.files import staged_directory
from keras_sdft.models.model_card import CARD_FILE
from keras_sdft.models.model_card import is_free
from keras_sdft.version import __version__

FORMAT_VERSION = 1


METADATA_FILE = "keras_sdft.json"


DIFFUSION_MODEL_FILE = "diffusion_model.weights.h5"


# What an export may hold; the names become names of files.
PARTS = ("text_encoder", "image_encoder", "decoder", "diffusion_model")


def write_export(
    directory: str | Path,
    stable_diffusion: Any,
    steps: int = 0,
    overwrite: bool = False,
    extra: dict[str, Callable[[Path], None]] | None = None,
) -> Path:
    """Writes the trained parts' weights and what is needed to use them.

    Everything is written beside the target and renamed into place, so the
    directory is either whole or absent. Of an earlier export only the files
    that it lists are replaced; other files in the directory stay.

    Args:
        directory: Path to create.
        stable_diffusion: A `keras_sdft.StableDiffusion`.
        steps: Integer, optimizer steps the weights were trained for.
        overwrite: Boolean, whether an earlier export there is replaced.
        extra: Dict of functions that write a path, by the name of the file:
            what the export holds beside networks.

    Returns:
        The directory.

    Raises:
        FileExistsError: If something is there that may not be replaced.
        OSError: If the disk has no room for it.
        ValueError: If a weight is NaN or infinite.
    """
    directory = Path(directory)
    _check_target(directory, overwrite)
    files = _trained_files(stable_diffusion)
    parts = {part: getattr(stable_diffusion, part) for part in files}
    check_finite({part: model.weights for part, model in parts.items()})
    check_space(directory, export_bytes(stable_diffusion), "The export", "")
    with staged_directory(directory, _written) as staging:
        for part, model in parts.items():
            model.save_weights(staging / files[part])
        for name, write in (extra or {}).items():
            write(staging / name)
        metadata = _metadata(stable_diffusion, steps)
        metadata["extra_files"] = sorted(extra or {})
        text = json.dumps(metadata, indent=2)
        (staging / METADATA_FILE).write_text(text + "\n", encoding="utf-8")
    return directory


def export_bytes(stable_diffusion: Any) -> int:
    """Returns about how many bytes an export takes on the disk."""
    return sum(
        math.prod(weight.shape) * np.dtype(weight.dtype).itemsize
        for part in stable_diffusion.trained_parts
        for weight in getattr(stable_diffusion, part).weights
    )


def check_finite(parts: dict[str, list[Any]]) -> None:
    """Refuses weights that are NaN or infinite.

    Args:
        parts: Lists of variables by the name of what they belong to.

    Raises:
        ValueError: If there are any, with their names.
    """
    # Resolving a path must not wait for Keras.
    from keras import ops

    bad = [
        f"{part}: {weight.path}"
        for part, weights in parts.items()
        for weight in weights
        if not ops.all(ops.isfinite(weight))
    ]
    if bad:
        total = sum(map(len, parts.values()))
        raise ValueError(
            f"{len(bad)} of {total} weights are NaN or infinite, so nothing "
            f"was written ({bad[0]!r} is the first). Earlier weights on the "
            "disk are as they were. Train again with a lower learning rate, "
            "or in float32."
        )


def _written(directory: Path) -> list[str]:
    """The files of an export, the one that lists them last."""
    try:
        text = (directory / METADATA_FILE).read_text(encoding="utf-8")
        metadata = json.loads(text)
        names = list(metadata["files"].values())
        names += list(metadata.get("extra_files", ()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        # What does not say what belongs to it keeps everything.
        return []
    ours = [n for n in names if isinstance(n, str) and Path(n).name == n]
    if not is_free(directory):
        # Somebody has changed it since.
        ours = [name for name in ours if name != CARD_FILE]
    return [*ours, METADATA_FILE]


def _check_target(directory: Path, overwrite: bool) -> None:
    if not directory.exists():
        return
    if directory.is_dir() and not any(directory.iterdir()):
        return
    ours = bool(_written(directory))
    if overwrite and ours:
        return
    remedy = (
        "Pass `overwrite=True` to replace it."
        if ours
        else "It holds no earlier export, so it is never replaced: choose "
        "another directory."
    )
    raise FileExistsError(
        f"The export directory {str(directory)!r} exists and is not empty. "
        f"{remedy}"
    )


def _metadata(stable_diffusion: Any, steps: int) -> dict[str, Any]:
    return {
        "format_version": FORMAT_VERSION,
        "keras_sdft_version": __version__,
        "base": stable_diffusion.base,
        "origin": stable_diffusion.origin,
        "vae": stable_diffusion.vae,
        "spec": stable_diffusion.spec.to_dict(),
        "prediction_type": stable_diffusion.spec.prediction_type,
        "files": _trained_files(stable_diffusion),
        "trained_parts": sorted(stable_diffusion.trained_parts),
        "steps": int(steps),
    }


def _trained_files(stable_diffusion: Any) -> dict[str, str]:
    """Names of the weight files of an export, by part."""
    parts = sorted(stable_diffusion.trained_parts)
    return {part: f"{part}.weights.h5" for part in parts}
