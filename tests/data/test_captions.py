import logging

import numpy as np
import pytest
import tensorflow as tf

from keras_sdft.data.captions import CaptionTokens
from keras_sdft.data.captions import choose_caption
from keras_sdft.data.captions import shuffle_tags
from keras_sdft.data.captions import warn_about_captions
from keras_sdft.data.examples import Columns
from keras_sdft.data.examples import Examples
from keras_sdft.data.options import LoadOptions
from keras_sdft.data.options import SourceOptions

PLAIN = ("{caption}",)


def examples_of(captions):
    paths = [f"{i}.png" for i in range(len(captions))]
    return Examples(Columns("/data", paths, captions))


def chosen(captions, draws, **options):
    def tag_draws():
        return np.random.default_rng(3)

    return choose_caption(captions, LoadOptions(**options), draws, tag_draws)


@pytest.mark.parametrize(
    ("draw", "expected"), [(0.0, "a"), (0.34, "b"), (0.67, "c"), (0.999, "c")]
)
def test_one_of_several_captions_is_drawn(draw, expected):
    assert chosen(("a", "b", "c"), (draw, 0.5, 0.5)) == expected


def test_template_is_filled_and_braces_of_the_caption_stay():
    given = ["a photo of {caption}", "{caption}, {x}"]
    first = chosen(("a {b}",), (0.0, 0.2, 0.0), caption_template=given)
    second = chosen(("dog",), (0.0, 0.7, 0.0), caption_template=given)
    assert (first, second) == ("a photo of a {b}", "dog, {x}")


@pytest.mark.parametrize(
    ("dropout", "draw", "expected"),
    [
        (0.0, 0.0, "x a"),
        (0.3, 0.29, ""),
        (0.3, 0.3, "x a"),
        (1.0, 0.99, ""),
    ],
)
def test_dropout_leaves_the_empty_caption(dropout, draw, expected):
    options = {"caption_template": "x {caption}", "caption_dropout": dropout}
    assert chosen(("a",), (0.0, 0.0, draw), **options) == expected


@pytest.mark.parametrize("template", ["a photo of {}", "sks dog", [], [3]])
def test_template_without_its_place_is_refused(template):
    with pytest.raises(ValueError, match="caption_template"):
        SourceOptions(caption_template=template)


def test_tokens_are_padded_and_made_once(tokenizer):
    tokens = CaptionTokens(tokenizer)
    ids = tokens("a red dog")
    assert ids.shape == (77,) and ids.dtype == np.int32
    assert ids[0] == 49406 and (ids[4:] == 49407).all()
    assert tokens("a red dog") is ids
    assert tokenizer.encoded == ["a red dog"]


@pytest.mark.parametrize(
    ("words", "cut"), [(0, False), (75, False), (76, True), (300, True)]
)
def test_long_captions_keep_the_end_token(tokenizer, words, cut):
    tokens = CaptionTokens(tokenizer)
    text = " ".join(f"w{i}" for i in range(words))
    ids = tokens(text)
    assert tokens.is_cut(text) is cut
    assert ids.shape == (77,) and ids[0] == 49406 and ids[76] == 49407
    kept = min(words, 75)
    assert (ids[1 : 1 + kept] != 49407).all()
    assert (ids[1 + kept :] == 49407).all()


def test_one_warning_counts_the_captions_that_are_cut(tokenizer, caplog):
    long = "w " * 80
    examples = examples_of(["short", long, (long + "x", "b"), "c"])
    counts = warn_about_captions(examples, CaptionTokens(tokenizer), PLAIN)
    assert counts == (0, 2)
    assert len(caplog.records) == 1
    assert "2 of 5 captions are longer" in caplog.text
    assert "not counted" not in caplog.text


def test_a_template_that_makes_a_caption_too_long_is_counted(tokenizer):
    examples = examples_of(["w " * 75, "dog"])
    tokens = CaptionTokens(tokenizer)
    templates = ("{caption}", "one more {caption}")
    assert warn_about_captions(examples, tokens, PLAIN) == (0, 0)
    assert warn_about_captions(examples, tokens, templates) == (0, 1)


def test_captions_beyond_the_limit_are_left_for_later(
    tokenizer, caplog, monkeypatch
):
    monkeypatch.setattr("keras_sdft.data.captions.COUNT_LIMIT", 3)
    examples = examples_of(["w " * 80, "b", "c", "w " * 90])
    warn_about_captions(examples, CaptionTokens(tokenizer), PLAIN)
    assert "1 of 3 captions are longer" in caplog.text
    assert "The others are not counted" in caplog.text
    assert len(tokenizer.encoded) == 3


def test_empty_captions_are_counted(tokenizer, caplog):
    examples = examples_of(["", "  ", "c"])
    tokens = CaptionTokens(tokenizer)
    assert warn_about_captions(examples, tokens, PLAIN) == (2, 0)
    assert "2 of 3 captions are empty" in caplog.text


def test_captions_of_images_that_are_left_out_do_not_count(tokenizer, caplog):
    examples = examples_of(["", "w " * 80, "c"]).without([0])
    tokens = CaptionTokens(tokenizer)
    assert warn_about_captions(examples, tokens, PLAIN) == (0, 1)
    assert "1 of 2 captions are longer" in caplog.text
    assert "not counted" not in caplog.text


def test_good_captions_need_no_warning(tokenizer, caplog):
    with caplog.at_level(logging.WARNING):
        warn_about_captions(
            examples_of(["a", "b"]), CaptionTokens(tokenizer), PLAIN
        )
    assert not caplog.records


def test_inside_dataset_map_as_eagerly(tokenizer):
    tokens = CaptionTokens(tokenizer)
    captions = ["a dog", "a cat", "", "w " * 90]
    dataset = tf.data.Dataset.from_tensor_slices(captions).map(
        lambda text: tf.numpy_function(
            lambda raw: tokens(raw.decode()), [text], tf.int32
        ),
        num_parallel_calls=2,
    )
    for caption, ids in zip(captions, dataset, strict=True):
        assert (ids.numpy() == tokens(caption)).all()


def shuffled(caption, separator=",", keep=0, seed=0):
    options = LoadOptions(
        shuffle_tags=True, tag_separator=separator, keep_tokens=keep
    )
    return shuffle_tags(caption, options, np.random.default_rng(seed))


def test_tags_change_places_behind_those_that_stay():
    caption = "sks dog, sofa ,indoors,, red,1girl"
    tags = ["sks dog", "sofa", "indoors", "red", "1girl"]
    seen = set()
    for seed in range(50):
        text = shuffled(caption, keep=2, seed=seed)
        parts = text.split(", ")
        assert parts[:2] == tags[:2] and sorted(parts) == sorted(tags)
        seen.add(text)
    assert len(seen) == 6


@pytest.mark.parametrize(
    ("caption", "options", "expected"),
    [
        ("a, b", {"keep": 2}, "a, b"),
        ("a, b", {"keep": 9}, "a, b"),
        ("a photo of a dog", {}, "a photo of a dog"),
        ("", {}, ""),
        ("a|b", {"separator": "|", "keep": 2}, "a| b"),
        ("a b", {"separator": " ", "keep": 2}, "a b"),
    ],
)
def test_tags_at_the_edges(caption, options, expected):
    assert shuffled(caption, **options) == expected


def test_tags_are_shuffled_inside_the_template():
    options = {"caption_template": "the {caption}, fine", "keep_tokens": 1}
    text = chosen(["a,b,c"], (0.0, 0.0, 0.5), shuffle_tags=True, **options)
    assert text == "the a, c, b, fine"
