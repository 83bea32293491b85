"""Our networks against diffusers' own numbers, without torch.

The folders under `golden` were written by `benchmarks/parity.py --golden`
with the versions named in each `reference.npz`.
"""

import json

import numpy as np
import pytest

from benchmarks import _parity_ours as parity
from keras_sdft import formats
from keras_sdft.models import StableDiffusion
from tests.formats.reference import ARCHITECTURES
from tests.formats.reference import GOLDEN
from tests.formats.reference import golden_numbers

# Measured 1e-6 and below; KerasCV's own numerics are past 1e-5.
TOLERANCE = 5e-6


def error(ours, theirs):
    ours = np.asarray(ours, "float64")
    return np.linalg.norm(ours - theirs) / np.linalg.norm(theirs)


@pytest.fixture(params=ARCHITECTURES)
def golden(request):
    inputs, numbers = golden_numbers(request.param)
    # The image was generated at 64 x 64 pixels.
    model = StableDiffusion.from_preset(GOLDEN / request.param, 64, 64)
    return model, inputs, numbers


def test_each_network_computes_what_diffusers_computes(golden):
    model, inputs, numbers = golden
    errors = {
        name: error(output, numbers[name.replace(" ", "_")])
        for name, output in parity.run(model, inputs).items()
    }
    assert max(errors.values()) < TOLERANCE, errors


def test_the_tokenizer_gives_the_same_ids(golden):
    model, inputs, numbers = golden
    ids = model.tokenizer([str(inputs["prompt"])])[0]
    np.testing.assert_array_equal(ids, numbers["ids"])


def test_ddim_generates_the_same_image(golden):
    model, inputs, numbers = golden
    image = parity.generate(model, inputs, 4)["image"]
    assert error(image, numbers["image"]) < 1e-4


def test_conventions_come_from_the_folder(golden):
    model, _, _ = golden
    second = model.spec.text_encoder.activation == "gelu"
    expected = ("v_prediction", 0) if second else ("epsilon", "end")
    assert (model.spec.prediction_type, model.spec.pad_token) == expected
    assert model.spec.diffusion_model.linear_projection == second


def test_keras_cvs_numerics_differ():
    """The corrections are seen by these tests."""
    numbers = np.load(GOLDEN / "sd2" / "reference.npz")
    model = StableDiffusion.from_preset(
        GOLDEN / "sd2", 64, 64, numerics="keras_cv"
    )
    image = numbers["input_image"]
    moments = error(model.moments_model(image), numbers["image_encoder"])
    positions = np.repeat(np.arange(77, dtype="int32")[None], 2, axis=0)
    tokens = {"tokens": numbers["input_ids"], "positions": positions}
    context = error(model.text_encoder(tokens), numbers["text_encoder"])
    assert moments > TOLERANCE and context > TOLERANCE


@pytest.mark.parametrize("architecture", ["sd1", "sd2"])
def test_written_keys_are_those_of_diffusers(architecture, tmp_path):
    """Ours again, key by key; transformers 5 drops `text_model.`."""
    from keras_sdft.formats.safetensors_files import read_header

    source, path = GOLDEN / architecture, tmp_path / "again"
    formats.convert(source, path, "diffusers", "float16")
    for file in source.glob("[tuv]*/*.safetensors"):
        theirs = read_header(file).tensors
        ours = read_header(path / file.relative_to(source)).tensors
        assert {
            key.removeprefix("text_model."): entry[:2]
            for key, entry in ours.items()
        } == {key: entry[:2] for key, entry in theirs.items()}
    config = json.loads((path / "unet" / "config.json").read_text())
    known = json.loads((source / "unet" / "config.json").read_text())
    for key, value in config.items():
        assert known[key] == value or key == "attention_head_dim", key
