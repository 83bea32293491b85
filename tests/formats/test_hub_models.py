"""Models by their address on the Hub, and what is built upon them."""

import json
import shutil

import pytest

from keras_sdft import formats
from keras_sdft import hub
from keras_sdft.cli import main
from keras_sdft.models import StableDiffusion
from keras_sdft.models import describe
from keras_sdft.models.exported import write_export
from keras_sdft.models.model_card import hub_name
from keras_sdft.weight_variants import STEMS
from tests.hub_server import commit_of

ADDRESS = f"hf://me/tiny@{commit_of('models/me/tiny')}"


def test_one_variant_is_downloaded(saved, hub_server, tmp_path, capsys):
    folder = shutil.copytree(saved["diffusers"], tmp_path / "tiny")
    names = [f"{n}/{stem}.safetensors" for n, stem in STEMS.items()]
    fp16 = [name.replace(".safe", ".fp16.safe") for name in names]
    for name, other in zip(names, fp16, strict=True):
        shutil.copy(folder / name, folder / other)
    hub_server.repos["models/me/tiny"] = folder
    output = tmp_path / "tiny.safetensors"
    arguments = ["convert", "--model=hf://me/tiny", "--format=ldm"]
    arguments += [f"--output={output}", "--variant"]
    assert main([*arguments, "fp8"]) == 2
    told = capsys.readouterr().err
    assert "variants [None, 'fp16']" in told and "'fp8'" in told
    assert hub_server.asked == []
    assert main([*arguments, "fp16"]) == 0 and output.is_file()
    asked = [n for n in hub_server.asked if n.endswith(".safetensors")]
    assert sorted(asked) == sorted(fp16)
    hub_server.stop()
    hub.forget()
    with pytest.raises(FileNotFoundError, match=r"'\*/model.bf16.safetensors'"):
        hub.local("hf://me/other", variant="bf16")


@pytest.fixture
def served(saved, hub_server):
    hub_server.repos["models/me/tiny"] = saved["diffusers"]
    return hub_server


def test_a_model_of_the_hub_and_an_export_that_builds_upon_it(
    tiny, served, assert_same_weights, tmp_path
):
    sd = StableDiffusion.from_preset("hf://me/tiny")
    assert_same_weights(sd, tiny)
    assert (sd.origin, hub_name("", sd.origin)) == (ADDRESS, "me/tiny")
    sd.trained_parts.add("text_encoder")
    export = write_export(tmp_path / "export", sd, steps=1)
    metadata = json.loads((export / "keras_sdft.json").read_text())
    assert metadata["origin"] == ADDRESS
    served.repos["models/me/mine"] = export
    served.stop()
    hub.forget()
    again = StableDiffusion.from_preset(export)
    assert_same_weights(again, tiny)
    assert again.origin == ADDRESS
    with pytest.raises(FileNotFoundError, match="hf download me/mine"):
        StableDiffusion.from_preset("hf://me/mine")


def test_every_reader_of_models_takes_an_address(served, saved, tmp_path):
    assert describe("hf://me/tiny")["kind"] == "diffusers folder"
    assert formats.describe("hf://me/tiny")["kind"] == "diffusers folder"
    assert formats.detect("hf://me/tiny") == "diffusers"
    assert formats.load("hf://me/tiny").card.base_model == "me/tiny"
    other = StableDiffusion.from_preset("tiny", vae="hf://me/tiny")
    assert other.vae == ADDRESS
    path = tmp_path / "one.safetensors"
    formats.convert("hf://me/tiny", path, "ldm")
    served.repos["models/me/one"] = path.parent
    found = StableDiffusion.from_preset("hf://me/one/one.safetensors")
    assert found.origin == (
        f"hf://me/one@{commit_of('models/me/one')}/one.safetensors"
    )
