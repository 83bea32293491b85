"""Models on disk in every format, written once."""

import numpy as np
import pytest

from keras_sdft import formats
from keras_sdft.models import StableDiffusion

NETWORKS = ("text_encoder", "image_encoder", "decoder", "diffusion_model")


@pytest.fixture(scope="session")
def tiny(perturb):
    """The preset, every weight moved so that none is zero or one."""
    model = StableDiffusion.from_preset("tiny")
    for number, name in enumerate(NETWORKS):
        perturb(getattr(model, name), number)
    return model


@pytest.fixture(scope="session")
def saved(tiny, tmp_path_factory):
    """Paths of `tiny` by format."""
    folder = tmp_path_factory.mktemp("formats")
    paths = {
        "diffusers": folder / "pipeline",
        "ldm": folder / "single.safetensors",
        "keras_cv": folder / "keras",
    }
    for name, path in paths.items():
        formats.save(tiny, path, name)
    return paths


@pytest.fixture(scope="session")
def assert_same_weights():
    """Asserts that two models hold equal bits."""

    def check(a, b):
        for name in NETWORKS:
            pairs = zip(
                getattr(a, name).weights, getattr(b, name).weights, strict=True
            )
            for x, y in pairs:
                np.testing.assert_array_equal(
                    np.asarray(x), np.asarray(y), err_msg=x.path
                )

    return check
