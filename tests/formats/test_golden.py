"""Our networks against diffusers' own numbers, without torch.

The folders under `golden` were written by `benchmarks/parity.py --golden`
with the versions named in each `reference.npz`.
"""

import json
from pathlib import Path

import numpy as np
import pytest
from keras import ops

from keras_sdft import diffusion
from keras_sdft import formats
from keras_sdft.models import StableDiffusion
from keras_sdft.models.generation import guided_prediction

GOLDEN = Path(__file__).parent / "golden"
# Measured 1e-6 and below; KerasCV's own numerics are past 1e-5.
TOLERANCE = 5e-6


def error(ours, theirs):
    ours = np.asarray(ours, "float64")
    return np.linalg.norm(ours - theirs) / np.linalg.norm(theirs)


@pytest.fixture(params=["sd1", "sd2"])
def golden(request):
    folder = GOLDEN / request.param
    # The image was drawn at 64 x 64 pixels.
    model = StableDiffusion.from_preset(folder, 64, 64)
    return model, dict(np.load(folder / "reference.npz"))


def test_each_network_computes_what_diffusers_computes(golden):
    model, numbers = golden
    width = model.spec.diffusion_model.timestep_width
    timesteps = numbers["input_timesteps"]
    positions = np.repeat(np.arange(77, dtype="int32")[None], 2, axis=0)
    outputs = {
        "text_encoder": model.text_encoder(
            {"tokens": numbers["input_ids"], "positions": positions}
        ),
        "image_encoder": model.moments_model(numbers["input_image"]),
        "diffusion_model": model.diffusion_model(
            {
                "latent": ops.convert_to_tensor(numbers["input_latents"]),
                "timestep_embedding": diffusion.timestep_embedding(
                    timesteps, width
                ),
                "context": ops.convert_to_tensor(numbers["input_context"]),
            }
        ),
        "decoder": model.decoder(numbers["input_latents"][:1]),
    }
    errors = {name: error(o, numbers[name]) for name, o in outputs.items()}
    assert max(errors.values()) < TOLERANCE, errors


def test_the_tokenizer_gives_the_same_ids(golden):
    model, numbers = golden
    ids = model.tokenizer([str(numbers["input_prompt"])])[0]
    np.testing.assert_array_equal(ids, numbers["ids"])


def test_ddim_draws_the_same_image(golden):
    model, numbers = golden
    predict = guided_prediction(
        model.diffusion_model,
        model.spec.diffusion_model.timestep_width,
        np.asarray(model.encode_text(str(numbers["input_prompt"]))),
        np.asarray(model.encode_text("")),
        7.5,
    )
    latents = diffusion.ddim(
        predict,
        ops.convert_to_tensor(numbers["input_noise"]),
        model.schedule,
        diffusion.sampling_timesteps(4, spacing="leading"),
        model.spec.prediction_type,
        final_alpha=model.schedule.alphas_cumprod[0],
    )
    image = np.clip(np.asarray(model.decoder(latents)) / 2 + 0.5, 0, 1)
    assert error(image, numbers["image"]) < 1e-4


def test_conventions_come_from_the_folder(golden):
    model, _ = golden
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
    for file in source.rglob("*.safetensors"):
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
