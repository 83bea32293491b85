"""The words that a packaged model was trained on, and those it was not.

Must not know networks or tokenizers.
"""

import functools
from collections.abc import Iterable
from pathlib import Path

import regex

from keras_sdft import checks
from keras_sdft.parsing import read_json

FILE = "words.json"
_WORDS = regex.compile(r"\p{L}+")


@functools.cache
def read(path: Path) -> dict[str, list[str]]:
    """Reads what the captions that a model was trained on can say.

    Args:
        path: A JSON file: lists of words or phrases by what they name,
            `"things"` for example.

    Returns:
        Dict of these lists; not to be changed.
    """
    return read_json(path)


def words_of(text: str) -> list[str]:
    """Splits a text into its words, lower case, in order."""
    return _WORDS.findall(text.lower())


@functools.cache
def _known(path: Path) -> frozenset[str]:
    phrases = (phrase for group in read(path).values() for phrase in group)
    return frozenset(word for p in phrases for word in words_of(p))


def unknown(
    texts: Iterable[str], path: Path, added: Iterable[str] = ()
) -> list[str]:
    """Finds the words of texts that no caption of the training had.

    Args:
        texts: Strings.
        path: As for `read`.
        added: Strings, tokens that were added to the vocabulary. They are
            known.

    Returns:
        List of words, each once, in order.
    """
    known, tokens = _known(path), [token.lower() for token in added]
    found: dict[str, None] = {}
    for text in texts:
        text = text.lower()
        for token in tokens:
            text = text.replace(token, " ")
        found |= dict.fromkeys(w for w in words_of(text) if w not in known)
    return list(found)


def sentence(words: list[str], name: str, path: Path) -> str:
    """Returns a sentence that says which words a model does not know.

    Args:
        words: List of at least one word, of `unknown`.
        name: String, the preset's name.
        path: As for `read`.
    """
    near = {word: checks.nearest(word, _known(path), 0.8) for word in words}
    told = ", ".join(
        f"{word!r}" + (f" (near: {near[word]!r})" if near[word] else "")
        for word in words[:8]
    )
    if len(words) > 8:
        told += f" and {len(words) - 8} more"
    verb = "is" if len(words) == 1 else "are"
    return f"{told} {verb} not among the words of {name}"
