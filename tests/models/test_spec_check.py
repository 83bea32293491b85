"""Specs from files: nothing is built, listed or counted by a wild number."""

import json

import pytest

from keras_sdft.models import PRESETS
from keras_sdft.models import StableDiffusionSpec
from keras_sdft.models import resolve
from keras_sdft.models.spec_check import check_spec

WRONG = {
    "text_encoder.depth": [10**9, 0, -1, "x", 1.0, True],
    "text_encoder.width": [None, 10**12],
    "text_encoder.num_heads": [7, 0],
    "text_encoder.activation": ["relu", None],
    "text_encoder.max_length": [10**9],
    "text_encoder.vocabulary_size": [0],
    "diffusion_model.widths": [[], [8], [64] * 10**5, 3, [64, 97]],
    "diffusion_model.num_heads": [[8], [0, 8, 8, 8], [7, 8, 8, 8], 8],
    "diffusion_model.groups": [0, "4"],
    "diffusion_model.blocks": [10**9],
    "diffusion_model.context_width": ["768"],
    "diffusion_model.linear_projection": [1],
    "diffusion_model.latent_channels": [0],
    "autoencoder.encoder_blocks": [10**9],
    "autoencoder.decoder_blocks": [0],
    "autoencoder.encoder_widths": [[128, 256, 512]],
    "autoencoder.decoder_widths": [[128, 256, 512, 100]],
    "autoencoder.groups": [0],
    "autoencoder.latent_channels": [10**9],
    "autoencoder.latent_scale": ["a", 0.0, float("nan")],
    "name": [5],
    "resolution": [-512, 10**9, 100],
    "prediction_type": ["sample", 7],
    "pad_token": [[1], -1, "start", None],
    "zero_terminal_snr": [1],
    "timestep_spacing": ["even", 1],
    "steps_offset": [-1, 1000, 1.0],
    "clip_skip": [0, 13, "2"],
    "num_steps": [0, 1001, 25.0, True],
    "guidance_scale": [-1, "3", None, float("nan"), float("inf"), True],
}


def changed(spec, field, value):
    config = spec.to_dict()
    *parts, name = field.split(".")
    part = config
    for key in parts:
        part = part[key]
    assert name in part
    part[name] = value
    return config


@pytest.mark.parametrize(
    "field, value",
    [(field, value) for field, values in WRONG.items() for value in values],
    ids=lambda value: str(value)[:30],
)
def test_what_cannot_be_built_is_named(field, value):
    config = changed(PRESETS["sd1.4"].spec, field, value)
    spec = StableDiffusionSpec.from_dict(config)
    with pytest.raises(ValueError, match=f"It describes no.*{field}=") as found:
        check_spec(spec, "It")
    assert len(str(found.value)) < 600


def test_every_field_is_checked():
    config = PRESETS["tiny"].spec.to_dict()
    fields = set()
    for name, value in config.items():
        nested = value if isinstance(value, dict) else None
        fields |= {f"{name}.{key}" for key in nested} if nested else {name}
    assert fields == set(WRONG)


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_the_presets_pass(name):
    spec = PRESETS[name].spec
    assert check_spec(spec, "It") is spec


def test_exports_are_checked(tmp_path):
    spec = changed(PRESETS["tiny"].spec, "text_encoder.depth", 10**9)
    metadata = {"format_version": 1, "base": "tiny", "files": {}, "spec": spec}
    (tmp_path / "keras_sdft.json").write_text(json.dumps(metadata))
    with pytest.raises(ValueError, match="damaged.*depth=1000000000"):
        resolve(tmp_path)
