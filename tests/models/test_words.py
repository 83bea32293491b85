import json

import pytest

from keras_sdft.data import Report
from keras_sdft.data.examples import Columns
from keras_sdft.data.examples import Examples
from keras_sdft.models import PRESETS
from keras_sdft.models import StableDiffusion
from keras_sdft.models import describe
from keras_sdft.models import words
from keras_sdft.runs import unknown_words


@pytest.fixture
def path(tmp_path):
    path = tmp_path / words.FILE
    content = {"things": ["fire truck", "cat"], "others": ["a", "in"]}
    path.write_text(json.dumps(content))
    return path


def test_words_are_known_whatever_phrase_they_are_in(path):
    texts = ["A Truck, a gourd", "zebra in <my-cat>", "a gourd 2"]
    assert words.unknown(texts, path, ["<My-Cat>"]) == ["gourd", "zebra"]
    assert words.unknown(["", "12:30 ?"], path) == []


def test_the_sentence_offers_what_is_near(path):
    assert words.sentence(["gourd"], "it", path) == (
        "'gourd' is not among the words of it"
    )
    many = words.sentence(["trucks", *"bcdefghij"], "it", path)
    assert many.startswith("'trucks' (near: 'truck'), 'b', 'c'")
    assert many.endswith("'h' and 2 more are not among the words of it")


def test_the_packaged_words_are_described():
    found = describe("tiny")["words"]
    assert {"cat", "apple", "octopus"} <= set(found["things"])
    for group in found.values():
        assert group == sorted(set(group))
        assert all(text == text.lower() for text in group)
    assert "words" not in describe("sd1.4") or not describe("sd1.4")["words"]


def test_prompts_tell_each_unknown_word_once(monkeypatch, caplog):
    sd = StableDiffusion.from_preset("tiny")
    monkeypatch.setattr(sd, "encode_tokens", lambda token_ids: token_ids)
    sd.encode_text(["a cat", "a gourd", "a gourd, a zeppelin"])
    sd.encode_text("a gourd")
    (record,) = caplog.records
    assert record.getMessage() == (
        "'gourd', 'zeppelin' are not among the words of tiny. `keras-sdft "
        "inspect tiny` lists those that it knows."
    )
    sd.tokenizer.add_tokens("<thing>")
    assert sd.unknown_words(["a <thing>"]) == []
    assert sd.unknown_words(["a gourd"]) == ["gourd"]
    sd.trained_parts.add("diffusion_model")
    assert sd.unknown_words(["a gourd"]) == []
    sd.trained_parts.clear()
    monkeypatch.setattr(sd, "describe_adapters", lambda: "ink x 1")
    assert sd.unknown_words(["a gourd"]) == []


def test_models_that_list_no_words_know_all(micro_spec):
    assert PRESETS["sd1.4"].words is None
    random = StableDiffusion(
        64, 64, spec=micro_spec, base="tiny", random_weights=True
    )
    assert random.unknown_words(["a gourd"]) == []


def test_captions_teach_what_prompts_alone_do_not():
    sd, report = StableDiffusion.from_preset("tiny"), Report()
    records = Columns("", ["1.png", "2.png"], ["a gourd", ("a cat", "an ebb")])
    report.add_source("photos", Examples(records))
    assert unknown_words(sd, report, ["a gourd", "an ebb"]) == (
        "'gourd', 'ebb' are not among the words of tiny: what they mean is "
        "learned from these images"
    )
    assert unknown_words(sd, Report(), ["a zeppelin"]) == (
        "'zeppelin' is not among the words of tiny, and no caption has them"
    )
    assert unknown_words(sd, Report(), ["a cat"]) is None
