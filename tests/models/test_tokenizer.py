import numpy as np
import pytest

from keras_sdft.models import PRESETS
from keras_sdft.models import Tokenizer


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer(PRESETS["tiny"].merges)


def test_captions_are_framed_and_filled_up(tokenizer):
    ids = tokenizer.encode("a red heart")
    row = tokenizer.pad(ids)
    assert row.dtype == np.int32 and row.shape == (77,)
    assert row[0] == tokenizer.start_of_text
    assert row[: len(ids)].tolist() == ids
    assert set(row[len(ids) - 1 :]) == {tokenizer.end_of_text}


def test_long_captions_keep_their_end(tokenizer):
    ids = tokenizer.encode("heart " * 100)
    row = tokenizer.pad(ids)
    assert len(ids) > 77 and row.shape == (77,)
    assert row[:76].tolist() == ids[:76]
    assert row[76] == tokenizer.end_of_text


def test_another_pad_token(tokenizer):
    zero = Tokenizer(PRESETS["tiny"].merges, pad_token=0)
    row = zero.pad(zero.encode(""))
    assert row[:2].tolist() == [zero.start_of_text, zero.end_of_text]
    assert set(row[2:]) == {0}


@pytest.mark.parametrize("text", ["a red heart", "größer", "日本", "🙂 ok"])
def test_any_text_comes_back(tokenizer, text):
    ids = tokenizer.encode(text)
    assert len(ids) > 2
    assert max(ids) < PRESETS["tiny"].spec.text_encoder.vocabulary_size
    assert tokenizer.decode(ids[1:-1]).strip().replace(" ", "") == (
        text.replace(" ", "")
    )


def test_vocabulary_fills_the_embedding(tokenizer):
    spec = PRESETS["tiny"].spec.text_encoder
    assert len(tokenizer.vocab) == spec.vocabulary_size
