"""Pictures as latents, with the token ids of their captions.

Latents are encoded once and kept in files. Must not know the diffusion
model.
"""

import hashlib
import pathlib
from typing import Any

import numpy as np

from scripts.pretrain_tiny import autoencoder
from scripts.pretrain_tiny import dataset

CAPTION_DROPOUT = 0.1


class Examples:
    """Moments of pictures with the token ids of their captions.

    Args:
        moments: Float32 array `(N, h, w, 8)`.
        captions: List of `N` lists of strings.
        tokens: `dataset.Tokens`.
        chances: Float array `(N,)`, or `None` for all alike.
    """

    def __init__(
        self,
        moments: np.ndarray,
        captions: "list[list[str]]",
        tokens: dataset.Tokens,
        chances: "np.ndarray | None" = None,
    ):
        self.moments = np.asarray(moments, "float32")
        self.tokens = tokens
        self.captions = captions
        count = len(captions)
        self.chances = np.full(count, 1 / count) if chances is None else chances
        self._rows = [tokens.rows(texts) for texts in captions]
        self._empty = tokens.rows([""])[0]

    def __len__(self) -> int:
        return len(self.captions)

    def draw(self, batch_size: int, generator: np.random.Generator) -> dict:
        """A batch of pictures, each with one of its captions, or none."""
        indices = generator.choice(len(self), batch_size, p=self.chances)
        rows = [generator.choice(self._rows[index]) for index in indices]
        dropped = generator.random(batch_size) < CAPTION_DROPOUT
        rows = np.where(dropped, self._empty, rows)
        return {
            "moments": self.moments[indices],
            "token_ids": self.tokens.token_ids[rows],
        }

    def latents(self, scale: float) -> np.ndarray:
        """The scaled mean of the latents, `(N, h, w, 4)`."""
        return np.split(self.moments, 2, axis=-1)[0] * scale

    def first_token_ids(self) -> np.ndarray:
        """Token ids of the first caption of each, `(N, 77)`."""
        return self.tokens([texts[0] for texts in self.captions])


def encode_folder(
    name: str, icons: pathlib.Path, moments_model: Any, directory: pathlib.Path
) -> np.ndarray:
    """Moments of a folder's pictures, encoded once and kept in a file.

    Args:
        name: String, the folder's name.
        icons: Path of the directory that `icons.py` wrote.
        moments_model: The trained encoder.
        directory: Path of the autoencoder's run, which gets the file.

    Returns:
        Float32 array `(N, 16, 16, 8)`.
    """
    digest = hashlib.sha256((directory / "weights.npz").read_bytes())
    digest.update((icons / name / "metadata.jsonl").read_bytes())
    path = directory / f"moments-{name}-{digest.hexdigest()[:12]}.npy"
    if not path.is_file():
        images = dataset.read(name, icons).images
        np.save(path, autoencoder.encode(moments_model, images))
    return np.load(path)


def read_examples(
    weights: "dict[str, float]",
    icons: pathlib.Path,
    moments_model: Any,
    directory: pathlib.Path,
    tokens: dataset.Tokens,
    names: "set[str]",
) -> Examples:
    """The pictures of several folders that are taught, encoded.

    Args:
        weights: Dictionary of folder names to how often a picture of it is
            drawn, relative to the others.
        icons: As for `encode_folder`.
        moments_model: As for `encode_folder`.
        directory: As for `encode_folder`.
        tokens: `dataset.Tokens`.
        names: Set of strings, the names to keep.

    Returns:
        `Examples`.
    """
    moments = [
        encode_folder(name, icons, moments_model, directory) for name in weights
    ]
    pictures, chances = dataset.read_weighted(weights, icons)
    kept = np.array([row["name"] in names for row in pictures.rows])
    chances = chances[kept] / chances[kept].sum()
    captions = [
        row["text"]
        for row, keep in zip(pictures.rows, kept, strict=True)
        if keep
    ]
    return Examples(np.concatenate(moments)[kept], captions, tokens, chances)
