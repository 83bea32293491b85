"""Photos and tables of them for `speed.py`, the same for everyone."""

import json
import os
import shutil

import numpy as np
from PIL import Image

PHOTO_SIZE = (1000, 750)
# Standard deviation of a sensor's noise, of 255, with which files are as large
# as a camera's.
NOISE = 8.0
# Links to one file stay below what ext4 allows (65,000).
MOST_LINKS = 50_000
FOLDER_SIZE = 1000


def photo(seed, size=PHOTO_SIZE):
    """Something that compresses as a photo does: soft, sharp and noisy.

    Args:
        seed: Integer >= 0.
        size: `(width, height)`, pixels.

    Returns:
        A `PIL.Image.Image`, RGB.
    """
    generator = np.random.default_rng([7, seed])
    width, height = size
    total = np.zeros((height, width, 3), "float32")
    # Amplitudes fall with frequency, as in photos.
    for cells in (2, 5, 12, 30, 75, 190):
        coarse = generator.integers(0, 256, (cells, cells, 3), dtype="uint8")
        layer = Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)
        total += (np.asarray(layer, "float32") - 127.5) / cells**0.8
    total *= 60.0 / total.std()
    total += generator.normal(0.0, NOISE, total.shape)
    return Image.fromarray(np.clip(total + 127.5, 0, 255).astype("uint8"))


def caption(index):
    """A caption; no two of one set are the same."""
    colours = ("red", "green", "blue", "yellow", "black", "white")
    things = ("house", "tree", "boat", "dog", "heart", "chair", "cloud")
    return (
        f"a photo of a {colours[index % 6]} {things[index % 7]} beside a "
        f"{things[index // 42 % 7]}, number {index}"
    )


def make_photos(folder, kind, count):
    """Writes photos and their `metadata.jsonl`, unless they are there.

    Args:
        folder: Path.
        kind: `"jpeg"` or `"png"`.
        count: Integer >= 1.
    """
    if (folder / "metadata.jsonl").exists():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    names = [f"{index:04}.{kind}" for index in range(count)]
    for index, name in enumerate(names):
        options = {"quality": 90} if kind == "jpeg" else {}
        photo(index).save(folder / name, **options)
    _write_table(folder, names)
    return folder


def make_many(folder, photos, count):
    """A large set of few photos: each name is a link of its own."""
    if (folder / "metadata.jsonl").exists():
        return folder
    shutil.rmtree(folder, ignore_errors=True)
    sources = sorted(photos.glob("*.jpeg"))
    if len(sources) * MOST_LINKS < count:
        raise ValueError(
            f"{count:,} names need at least {-(-count // MOST_LINKS)} photos. "
            f"Received: {len(sources)} in {photos}. Remove that folder, and "
            "do not combine this case with --quick."
        )
    names = []
    for index in range(count):
        name = f"{index // FOLDER_SIZE:04}/{index:07}.jpeg"
        if index % FOLDER_SIZE == 0:
            (folder / name).parent.mkdir(parents=True)
        os.link(sources[index % len(sources)], folder / name)
        names.append(name)
    _write_table(folder, names)
    return folder


def _write_table(folder, names):
    # Last, and at once: a set that has its table is complete.
    staged = folder / ".metadata"
    with open(staged, "w", encoding="utf-8") as file:
        for index, name in enumerate(names):
            row = {"file_name": name, "text": caption(index)}
            file.write(json.dumps(row) + "\n")
    staged.replace(folder / "metadata.jsonl")
