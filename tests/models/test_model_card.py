"""Model cards: what the Hub reads, and whose file it is."""

import pytest
import yaml
from PIL import Image

from keras_sdft.models import ModelCard
from keras_sdft.models.model_card import hub_name
from keras_sdft.models.model_card import is_free
from keras_sdft.models.model_card import read_card


def front_matter(directory):
    text = (directory / "README.md").read_text(encoding="utf-8")
    assert text.startswith("---\n")
    return yaml.safe_load(text.split("---\n")[1])


@pytest.fixture
def card():
    red = Image.new("RGB", (32, 16), (255, 0, 0))
    return ModelCard(
        license="openrail++",
        base_model="CompVis/stable-diffusion-v1-4",
        instance_prompt='a "sks" dog: {it}',
        images=(("a dog | [cat]", red), ("", red.rotate(90, expand=True))),
        details={"images": 12, "captions": "<one> | two"},
    )


def test_the_front_matter_is_the_hubs(card, tmp_path):
    card.write(tmp_path)
    assert front_matter(tmp_path) == {
        "license": "openrail++",
        "base_model": "CompVis/stable-diffusion-v1-4",
        "library_name": "keras_sdft",
        "pipeline_tag": "text-to-image",
        "tags": ["stable-diffusion", "text-to-image", "keras", "keras_sdft"],
        "instance_prompt": 'a "sks" dog: {it}',
        "widget": [
            {"text": "a dog | [cat]", "output": {"url": "image_0.png"}},
            {"text": "", "output": {"url": "image_1.png"}},
        ],
    }
    assert Image.open(tmp_path / "image_1.png").size == (16, 32)


def test_what_is_not_known_is_left_out(tmp_path):
    ModelCard().write(tmp_path)
    front = front_matter(tmp_path)
    assert front["license"] == "unknown"
    assert not {"base_model", "instance_prompt", "widget"} & set(front)
    text = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert "Nobody has stated one" in text and "## Training" not in text


@pytest.mark.parametrize("kind", ["model", "pipeline", "lora", "embedding"])
def test_the_code_of_each_kind_is_python(card, kind):
    text = ModelCard(kind=kind, images=card.images).text()
    code = text.split("```python\n")[1].split("```")[0]
    compile(code, kind, "exec")
    assert "'a dog | [cat]'" in code


def test_a_card_is_read_as_it_was_written(card, tmp_path):
    (tmp_path / "weights").mkdir()
    card.write(tmp_path / "weights")
    found = read_card(tmp_path)
    assert found.license == card.license
    assert found.base_model == card.base_model
    assert found.instance_prompt == card.instance_prompt
    assert found.details == {"images": "12", "captions": "<one> | two"}
    assert [prompt for prompt, _ in found.images] == ["a dog | [cat]", ""]
    # And written once more from there, it is the same.
    (tmp_path / "again").mkdir()
    found.write(tmp_path / "again")
    for name in ("README.md", "image_0.png", "image_1.png"):
        first = (tmp_path / "weights" / name).read_bytes()
        assert (tmp_path / "again" / name).read_bytes() == first


def test_a_card_of_somebody_else_is_read_and_never_replaced(card, tmp_path):
    theirs = "---\nlicense: mit\nwidget: [1]\n---\n| a | b |\n"
    (tmp_path / "README.md").write_text(theirs)
    assert read_card(tmp_path) == ModelCard(license="mit")
    assert not is_free(tmp_path) and card.files(tmp_path) == {}
    card.write(tmp_path)
    assert (tmp_path / "README.md").read_text() == theirs
    (tmp_path / "README.md").write_text("---\n: {\n---\n")
    assert read_card(tmp_path) == ModelCard()


def test_a_path_in_the_hubs_cache_has_a_name():
    assert hub_name("sd1.4") == "CompVis/stable-diffusion-v1-4"
    assert hub_name("tiny") is None
    path = "/x/models--some--thing-v2/snapshots/1a2b"
    assert hub_name("sd1.4", path) == "some/thing-v2"
    # Another model of the same size is not the preset.
    assert hub_name("sd1.4", "/my/model") is None
