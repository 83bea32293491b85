"""Textual inversion files: diffusers' and A1111's embeddings.

Must not know tokenizers or networks.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from keras_sdft import checks
from keras_sdft.formats import safetensors_files

DIALECTS = ("diffusers", "a1111")
# A1111's and kohya's key, and OneTrainer's spelling of it.
_NAMELESS = ("emb_params", "emp_params")


def read(path: str | Path, token: str | None = None) -> dict[str, np.ndarray]:
    """Reads the embeddings of new tokens.

    Args:
        path: A `.safetensors` file of diffusers or A1111.
        token: The token, where the file does not name it. Defaults to the
            file's name.

    Returns:
        A dict by token of float32 arrays `(vectors, width)`.

    Raises:
        ValueError: If it is a pickle, damaged, or no embedding.
    """
    path = Path(path)
    if path.suffix in (".pt", ".bin", ".pkl", ".ckpt"):
        raise ValueError(
            f"{str(path)!r} is a pickle, which can run code when it is read, "
            "and is never opened. Convert it to `.safetensors` with the tool "
            "that wrote it."
        )
    tensors = safetensors_files.open_tensors(path)
    keys = set(tensors)
    if keys & {"clip_l", "clip_g"}:
        raise ValueError(
            f"{str(path)!r} is an embedding for SDXL. Expected one for Stable "
            "Diffusion 1.x or 2.x."
        )
    if any("lora" in key for key in keys):
        raise ValueError(
            f"{str(path)!r} is a LoRA, not an embedding. Load it with "
            "`load_adapter` (`--lora`)."
        )
    found = {}
    for key, tensor in tensors.items():
        if len(tensor.shape) not in (1, 2) or not all(tensor.shape):
            raise ValueError(
                f"{str(path)!r} is no embedding: {key!r} has shape "
                f"{tensor.shape}. Expected (vectors, width)."
            )
        array = np.atleast_2d(tensor.read())
        if not np.isfinite(array).all():
            raise ValueError(
                f"{str(path)!r} holds NaN or infinite values in {key!r}."
            )
        name = (token or path.stem) if key in _NAMELESS else key
        found[token if token and len(keys) == 1 else name] = array
    if not found:
        raise ValueError(f"{str(path)!r} holds no tensor.")
    return found


def is_embedding(path: str | Path) -> bool:
    """Returns whether a path is a file of a few vectors of one width."""
    path = Path(path)
    if path.suffix != ".safetensors" or not path.is_file():
        return False
    shapes = [
        e[1] for e in safetensors_files.read_header(path).tensors.values()
    ]
    widths = {shape[-1] for shape in shapes if len(shape) in (1, 2)}
    return len(widths) == 1 and all(len(s) in (1, 2) for s in shapes)


def describe(path: str | Path) -> dict[str, Any]:
    """Returns what an embedding file holds: tokens and their shapes."""
    found = read(path)
    return {
        "kind": "embedding (textual inversion)",
        "tokens": {token: array.shape for token, array in found.items()},
    }


def write(
    path: str | Path,
    embeddings: Mapping[str, np.ndarray],
    dialect: str = "diffusers",
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Writes the embeddings of new tokens.

    Args:
        path: The `.safetensors` file; replaced if it exists.
        embeddings: Dict by token of float32 arrays `(vectors, width)`.
        dialect: `"diffusers"` (named by the token) or `"a1111"` (one token
            alone, named by the file).
        metadata: Dict of strings.

    Raises:
        ValueError: If there are several tokens for `"a1111"`.
    """
    checks.one_of("dialect", dialect, DIALECTS)
    if dialect == "a1111":
        if len(embeddings) != 1:
            raise ValueError(
                "A1111's files hold one token each. Received: "
                f"{sorted(embeddings)}. Write each to a file of its own."
            )
        embeddings = {_NAMELESS[0]: next(iter(embeddings.values()))}
    tensors = safetensors_files.tensors_of(embeddings)
    safetensors_files.write(path, tensors, "float32", metadata)
