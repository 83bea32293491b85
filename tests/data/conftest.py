"""A tokenizer that hashes words, and folders of small pictures."""

import json
import sys
import zlib

import numpy as np
import pytest
from PIL import Image

from keras_sdft.data import images


class WordTokenizer:
    """One id a word, between a start and an end token."""

    max_length = 77
    start_of_text = 49406
    end_of_text = 49407
    pad_token = 49407

    def __init__(self):
        self.encoded = []

    def encode(self, text):
        self.encoded.append(text)
        words = [zlib.crc32(word.encode()) % 49000 for word in text.split()]
        return [self.start_of_text, *words, self.end_of_text]

    def pad(self, ids):
        if len(ids) > self.max_length:
            raise ValueError(f"{len(ids)} ids")
        rest = [self.pad_token] * (self.max_length - len(ids))
        return np.array([*ids, *rest], np.int32)


@pytest.fixture
def tokenizer():
    return WordTokenizer()


@pytest.fixture
def write_image():
    """Writes a picture of one grey (or colour), by default 64x64."""

    def write(path, value=128, size=(64, 64), mode="RGB"):
        path.parent.mkdir(parents=True, exist_ok=True)
        if mode == "RGB" and isinstance(value, int):
            value = (value,) * 3
        Image.new(mode, size, value).save(path)
        return path

    return write


@pytest.fixture
def write_jsonl():
    def write(path, rows):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return path

    return write


@pytest.fixture
def numbered(tmp_path, write_image, write_jsonl):
    """A folder of ten pictures; picture i is grey 10*i, caption "number i"."""
    root = tmp_path / "numbered"
    rows = []
    for i in range(10):
        write_image(root / f"{i}.png", 10 * i)
        rows.append({"file_name": f"{i}.png", "text": f"number {i}"})
    write_jsonl(root / "metadata.jsonl", rows)
    return root


@pytest.fixture
def without_heif(monkeypatch):
    """As where `pillow-heif` is not installed."""
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    images.reads_heif.cache_clear()
    yield
    images.reads_heif.cache_clear()
