"""What the commands stand on, faked where the real one is slow."""

import numpy as np
import pytest
from PIL import Image

import keras_sdft
from keras_sdft import models


class FakeStableDiffusion:
    """Paints each image in one colour that tells what it was asked for."""

    img_height = img_width = 64
    spec = models.PRESETS["tiny"].spec

    def __init__(self):
        self.calls = []

    def text_to_image(self, prompt, **arguments):
        self.calls.append((prompt, arguments))
        images = np.zeros((len(arguments["seed"]), 64, 64, 3), np.uint8)
        images[..., 0] = np.reshape(arguments["seed"], (-1, 1, 1))
        return images


@pytest.fixture
def fake_model(monkeypatch):
    """Lets `keras-sdft generate` load a fake; returns it."""
    model = FakeStableDiffusion()
    model.loaded = []

    def load(name, **arguments):
        model.loaded.append((name, arguments))
        return model

    monkeypatch.setattr(keras_sdft.StableDiffusion, "from_preset", load)
    return model


@pytest.fixture
def photos(tmp_path):
    """A folder of eight captioned images of 96 x 80 pixels."""
    folder = tmp_path / "photos"
    folder.mkdir()
    random = np.random.default_rng(0)
    for number in range(8):
        colour = random.integers(0, 256, 3, dtype=np.uint8)
        pixels = np.broadcast_to(colour, (80, 96, 3))
        Image.fromarray(pixels).save(folder / f"{number}.png")
        (folder / f"{number}.txt").write_text(f"a square, number {number}")
    return folder
