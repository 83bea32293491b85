import gzip
import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

from keras_sdft.models import PRESETS
from keras_sdft.models import Tokenizer
from keras_sdft.models import check_token
from keras_sdft.models import rare_tokens
from tests.models.caption_samples import captions

GOLDEN = json.loads((Path(__file__).parent / "golden_tokens.json").read_text())


@pytest.fixture(scope="module")
def clip():
    return Tokenizer(PRESETS["sd1.4"].merges)


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
    assert tokenizer.vocabulary_size == spec.vocabulary_size
    assert sorted(tokenizer.decoder) == list(range(spec.vocabulary_size))


def test_ids_are_those_of_transformers(clip):
    """Of 10,000 captions of every kind, see benchmarks/_token_peer.py."""
    texts = captions()
    ids = [clip.encode(text) for text in texts]
    short = [row for row in ids[:300] if len(row) < 100][:200]
    assert short == GOLDEN["ids"]
    digests = [
        hashlib.sha256(json.dumps(ids[i : i + 100]).encode()).hexdigest()[:16]
        for i in range(0, len(ids), 100)
    ]
    assert len(texts) == 10_000 and digests == GOLDEN["digests"]
    assert clip.vocabulary_size == 49408


def test_composed_and_decomposed_letters_are_the_same_words(clip):
    assert clip.encode("cafe\u0301") == clip.encode("café")


def test_added_tokens_are_found_as_transformers_finds_them(clip):
    tokenizer = Tokenizer(PRESETS["sd1.4"].merges)
    numbers = tokenizer.add_tokens(GOLDEN["added"])
    assert numbers == list(range(49408, 49413))
    found = [tokenizer.encode(text) for text in GOLDEN["texts"]]
    assert found == GOLDEN["ids_with_added"]
    assert tokenizer.vocabulary_size == 49413
    assert tokenizer.add_tokens("<my-cat>") == [49408]
    assert tokenizer.decode([320, 49408]) == "a <my-cat> "
    # What was there before is as it was.
    assert tokenizer.encode("a cat") == clip.encode("a cat")
    again = Tokenizer(
        PRESETS["sd1.4"].merges, added_tokens=tokenizer.added_tokens
    )
    assert again.encoder == tokenizer.encoder


@pytest.mark.parametrize("token", ["", " a", 3, "<|endoftext|>"])
def test_tokens_that_cannot_be_added_are_refused(tokenizer, token):
    with pytest.raises(ValueError, match="An added token must be"):
        tokenizer.add_tokens(["<good>", token])
    assert "<good>" not in tokenizer.encoder


def test_the_advice_on_rare_tokens_holds_for_the_true_vocabulary(clip):
    for token in ("sks", "ohwx"):
        assert check_token(token, clip) == ""
    assert "is a common word" in check_token("dog", clip)
    assert "not one entry" in check_token("xyzzyq", clip)
    suggestions = rare_tokens(clip)
    assert len(suggestions) == 5
    assert not any(check_token(token, clip) for token in suggestions)


def test_a_very_long_word_takes_no_time(clip):
    ids = clip.encode("ab" * 500_000)
    assert 77 < len(ids) < 20_000
    assert ids[:77] == clip.encode("ab" * 5_000)[:77]


def test_bombs_and_damaged_files_are_refused(tmp_path):
    path = tmp_path / "merges.txt.gz"
    for data, message in (
        (
            gzip.compress(b"x y\n" * 10_000_000),
            "16,000,000 bytes when",
        ),
        (gzip.compress(b"#version\na b\na b c\n"), "pairs of symbols.*a b c"),
        (gzip.compress(b"\xff"), "is damaged, or no"),
        (b"not gzip", "is damaged, or no"),
        (
            gzip.compress(b"#version\na b\n")[:-9],
            "is damaged, or no",
        ),
    ):
        path.write_bytes(data)
        with pytest.raises(ValueError, match=message):
            Tokenizer(path)
