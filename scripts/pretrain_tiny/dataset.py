"""The rendered data set, as arrays.

Reads what `pictures.py` wrote. Must not know networks.
"""

import json
import pathlib
import zlib
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from PIL import Image

ROOT = pathlib.Path("build/tiny")
#: Names kept from the autoencoder: one in twenty.
HELD_OUT_ONE_IN = 20


class Pictures(NamedTuple):
    """Pictures of a table, or of several in a row.

    Attributes:
        images: uint8 array `(N, 128, 128, 3)`.
        rows: List of `N` dictionaries, the lines of the table.
    """

    images: np.ndarray
    rows: list

    def where(self, keep: Callable[[dict], bool]) -> "Pictures":
        """The pictures for which `keep(row)` is true."""
        indices = [i for i, row in enumerate(self.rows) if keep(row)]
        return Pictures(self.images[indices], [self.rows[i] for i in indices])

    @property
    def captions(self) -> "list[str]":
        """The first, plainest caption of each."""
        return [row["text"][0] for row in self.rows]


def read_rows(table: str, root: pathlib.Path = ROOT) -> "list[dict]":
    """The lines of a table.

    Args:
        table: String, its name: `"train"`.
        root: Path of the directory that `pictures.py` wrote.

    Returns:
        List of dictionaries.
    """
    path = root / f"{table}.jsonl"
    if not path.is_file():
        raise FileNotFoundError(
            f"There is no {path}. Run `python -m "
            "scripts.pretrain_tiny.pictures` first."
        )
    lines = path.read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines if line]


def read(
    table: str,
    root: pathlib.Path = ROOT,
    keep: "Callable[[dict], bool] | None" = None,
) -> Pictures:
    """Reads the pictures of a table.

    Args:
        table: As for `read_rows`.
        root: As for `read_rows`.
        keep: Function of a row, whether it is read. Defaults to all.

    Returns:
        `Pictures`, in the order of the table.
    """
    rows = [r for r in read_rows(table, root) if keep is None or keep(r)]
    return Pictures(read_images(rows, root), rows)


def read_images(rows: "list[dict]", root: pathlib.Path = ROOT) -> np.ndarray:
    """The pictures of rows, uint8 `(N, 128, 128, 3)`."""
    images = [_pixels(root / row["file_name"]) for row in rows]
    return np.stack(images) if images else np.zeros((0, 128, 128, 3), "uint8")


def _pixels(path):
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def some(rows: "list[dict]", count: int, seed: int = 0) -> "list[dict]":
    """At most so many rows, drawn without order, the same each time."""
    order = np.random.default_rng(seed).permutation(len(rows))[:count]
    return [rows[index] for index in sorted(order)]


def held_out(row: dict) -> bool:
    """Whether a picture's thing is kept from the autoencoder, in all looks."""
    return zlib.crc32(row["name"].encode()) % HELD_OUT_ONE_IN == 0


def to_float(images: np.ndarray) -> np.ndarray:
    """uint8 images to float32 in [-1, 1]."""
    return images.astype("float32") / 127.5 - 1.0
