"""Pictures and token ids for training, as arrays.

Reads what `icons.py` wrote. Token ids are computed once where keras_cv is
installed and kept in a file, so that a machine without it can train:
`python -m scripts.pretrain_tiny.dataset`. Must not know networks.
"""

import argparse
import json
import pathlib
import zlib
from typing import NamedTuple

import numpy as np
from PIL import Image

from scripts.pretrain_tiny import ink

ICONS = pathlib.Path("build/icons")
TOKENS = pathlib.Path("build/pretrain/tokens.npz")
BASE = "noto"
#: Names kept from the autoencoder: one in twenty.
HELD_OUT_ONE_IN = 20


class Pictures(NamedTuple):
    """Pictures of a folder, or of several in a row.

    Attributes:
        images: uint8 array `(N, 128, 128, 3)`.
        rows: List of `N` dictionaries, the lines of `metadata.jsonl`.
    """

    images: np.ndarray
    rows: list

    def where(self, keep) -> "Pictures":
        """The pictures for which `keep(row)` is true."""
        indices = [i for i, row in enumerate(self.rows) if keep(row)]
        return Pictures(self.images[indices], [self.rows[i] for i in indices])

    @property
    def captions(self) -> "list[str]":
        """The first, plainest caption of each."""
        return [row["text"][0] for row in self.rows]


def read(name: str, icons: pathlib.Path = ICONS) -> Pictures:
    """Reads one folder of pictures.

    Args:
        name: String, the folder's name ("noto").
        icons: Path of the directory that `icons.py` wrote.

    Returns:
        `Pictures`, in the order of `metadata.jsonl`.
    """
    rows = read_rows(name, icons)
    images = [_pixels(icons / name / row["file_name"]) for row in rows]
    return Pictures(np.stack(images), rows)


def read_rows(name: str, icons: pathlib.Path = ICONS) -> "list[dict]":
    """The lines of a folder's `metadata.jsonl`."""
    folder = icons / name
    if not (folder / "metadata.jsonl").is_file():
        raise FileNotFoundError(
            f"No metadata.jsonl in {folder}. Run "
            "`python -m scripts.pretrain_tiny.icons` first."
        )
    lines = (folder / "metadata.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in lines.splitlines()]


def _pixels(path):
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def read_weighted(
    weights: "dict[str, float]", icons: pathlib.Path = ICONS
) -> "tuple[Pictures, np.ndarray]":
    """Reads several folders and the chance of each picture to be drawn.

    Args:
        weights: Dictionary of folder names to how often a picture of it is
            seen, relative to the others.
        icons: Path of the directory that `icons.py` wrote.

    Returns:
        Tuple of `Pictures` and a float64 array `(N,)` with sum 1.
    """
    parts = {name: read(name, icons) for name in weights}
    images = np.concatenate([part.images for part in parts.values()])
    rows = [row for part in parts.values() for row in part.rows]
    chances = np.concatenate(
        [
            np.full(len(part.rows), float(weights[name]))
            for name, part in parts.items()
        ]
    )
    return Pictures(images, rows), chances / chances.sum()


def parse_weights(text: str) -> "dict[str, float]":
    """Reads `"noto:1,noto-recoloured:0.5"`; a weight left out is 1."""
    result = {}
    for item in text.split(","):
        name, _, weight = item.partition(":")
        result[name] = float(weight or 1.0)
    return result


def held_out(row: dict) -> bool:
    """Whether a picture's name is kept from the autoencoder, in all sets."""
    return zlib.crc32(row["name"].encode()) % HELD_OUT_ONE_IN == 0


def taught(row: dict) -> bool:
    """Whether text to image may be taught a picture: names learned well.

    Names of one word, and those of the demo. Faces are left out: there are
    a hundred, they differ by a line, and their names are long.
    """
    words = row["thing"].split()
    return "face" not in words and (len(words) == 1 or _of_demo(row["name"]))


def taught_names(
    icons: pathlib.Path = ICONS, count: "int | None" = None
) -> "set[str]":
    """The names that text to image is taught, those of the demo first.

    Args:
        icons: Path of the directory that `icons.py` wrote.
        count: Integer, at most so many; `None` for all.

    Returns:
        Set of strings, as in `row["name"]`.
    """
    rows = [row for row in read_rows(BASE, icons) if taught(row)]
    names = sorted(
        {row["name"] for row in rows},
        key=lambda name: (not _of_demo(name), zlib.crc32(name.encode())),
    )
    return set(names[:count])


def _of_demo(name):
    return name in {*ink.SPLITS["train"], *ink.SPLITS["validation"]}


def to_float(images: np.ndarray) -> np.ndarray:
    """uint8 images to float32 in [-1, 1]."""
    return images.astype("float32") / 127.5 - 1.0


# === Token ids ===


class Tokens:
    """Token ids of captions, by their text.

    Args:
        texts: List of strings.
        token_ids: Int array `(len(texts), 77)`.
    """

    def __init__(self, texts: "list[str]", token_ids: np.ndarray):
        self.token_ids = np.asarray(token_ids, "int32")
        self._rows = {text: index for index, text in enumerate(texts)}

    def rows(self, texts: "list[str]") -> np.ndarray:
        """The rows of `token_ids` that hold these texts, int64."""
        unknown = [text for text in texts if text not in self._rows]
        if unknown:
            raise ValueError(
                f"No token ids of {unknown[:3]} ({len(unknown)} texts). Run "
                "`python -m scripts.pretrain_tiny.dataset` again, where "
                "keras_cv is installed."
            )
        return np.array([self._rows[text] for text in texts], "int64")

    def __call__(self, texts: "list[str]") -> np.ndarray:
        """Token ids `(len(texts), 77)`, int32."""
        return self.token_ids[self.rows(texts)]


def write_tokens(
    texts: "list[str]", tokenizer, path: pathlib.Path = TOKENS
) -> Tokens:
    """Tokenizes texts, and writes them with their token ids.

    Args:
        texts: List of strings.
        tokenizer: A `keras_sdft` tokenizer.
        path: Path of the `.npz` file.

    Returns:
        `Tokens`.
    """
    texts = sorted({"", *texts})
    token_ids = tokenizer(texts).astype("uint16")
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(path, texts=np.array(texts), token_ids=token_ids)
    return Tokens(texts, token_ids)


def read_tokens(path: pathlib.Path = TOKENS) -> Tokens:
    """Reads what `write_tokens` wrote."""
    if not path.is_file():
        raise FileNotFoundError(
            f"There is no {path}. Run `python -m "
            "scripts.pretrain_tiny.dataset` where keras_cv is installed."
        )
    with np.load(path) as archive:
        return Tokens(list(map(str, archive["texts"])), archive["token_ids"])


def main(arguments=None) -> None:
    from keras_sdft.models import PRESETS
    from keras_sdft.models.tokenizer import Tokenizer
    from scripts.pretrain_tiny import prompts

    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--icons", type=pathlib.Path, default=ICONS)
    parser.add_argument("--output", type=pathlib.Path, default=TOKENS)
    options = parser.parse_args(arguments)
    preset = PRESETS["tiny"]
    length = preset.spec.text_encoder.max_length
    texts = list(prompts.ALL)
    for metadata in sorted(options.icons.glob("*/metadata.jsonl")):
        for line in metadata.read_text(encoding="utf-8").splitlines():
            texts += json.loads(line)["text"]
    tokens = write_tokens(
        texts, Tokenizer(preset.merges, length), options.output
    )
    print(f"{len(tokens.token_ids)} texts: {options.output}")


if __name__ == "__main__":
    main()
