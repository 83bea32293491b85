import itertools
import string

import pytest

from keras_sdft.models import check_token
from keras_sdft.models import rare_tokens

END = "</w>"


class ListedVocabulary:
    """One id for each word that is listed, else one for each letter."""

    def __init__(self, words):
        letters = list(string.ascii_lowercase)
        entries = letters + [letter + END for letter in letters]
        entries += [word + END for word in words]
        entries += ["<|startoftext|>", "<|endoftext|>"]
        self.encoder = {entry: index for index, entry in enumerate(entries)}

    def encode(self, text):
        ids = []
        for word in text.lower().split():
            if word + END in self.encoder:
                ids.append(self.encoder[word + END])
            else:
                ids += [self.encoder[letter] for letter in word[:-1]]
                ids.append(self.encoder[word[-1] + END])
        start, end = list(self.encoder.values())[-2:]
        return [start, *ids, end]


def large_vocabulary():
    """ "dog" first, then 12,000 words that are too long, "rsx" and "qqk"."""
    letters = itertools.product(string.ascii_lowercase, repeat=5)
    many = ["".join(word) for word in itertools.islice(letters, 12_000)]
    return ListedVocabulary(["dog", *many, "akita", "rsx", "sks", "abe", "qqk"])


@pytest.fixture(scope="module")
def large():
    return large_vocabulary()


def test_a_rare_token_has_no_problem(large):
    assert check_token("sks", large) == ""


@pytest.mark.parametrize("token", ["dog", "x"])
def test_a_common_word_is_told_with_suggestions(large, token):
    problem = check_token(token, large)
    assert f"'{token}' is a common word" in problem
    assert problem.endswith("Rare tokens: sks, qqk, rsx.")


def test_a_split_token_is_told_with_its_pieces(large):
    problem = check_token("zwx", large)
    assert "not one entry" in problem
    assert "but 3: ['z', 'w', 'x</w>']" in problem
    assert "but 2" in check_token("sks dog", large)


def test_suggestions_are_rare_words_of_consonants(large):
    assert rare_tokens(large) == ["sks", "qqk", "rsx"]
    assert rare_tokens(large, count=2) == ["sks", "qqk"]
    assert rare_tokens(large, count=0) == []


def test_in_a_small_vocabulary_the_order_says_little():
    small = ListedVocabulary(["sks", "dog", "clock", "rhm"])
    assert rare_tokens(small) == ["sks"]
    assert check_token("sks", small) == ""
    assert "common word" in check_token("clock", small)
    none = ListedVocabulary(["dog"])
    assert "no rare token to suggest" in check_token("dog", none)


@pytest.mark.parametrize("token", ["", "  ", None, 7])
def test_a_token_must_be_text(large, token):
    with pytest.raises(ValueError, match="`token` must be a string"):
        check_token(token, large)
