"""Rare tokens: whether a word is one vocabulary entry that means nothing yet.

This file knows a tokenizer's vocabulary, whose order is that of its merges:
what was frequent where it was made stands first. It must not know prompts,
files or TensorFlow.
"""

from __future__ import annotations

import dataclasses
from typing import Any
from typing import Protocol

# A word among this share of the vocabulary, the most frequent, has a meaning.
COMMON = 0.75
# What the field has used, suggested first where the vocabulary has it.
HABITS = ("sks", "ohwx")

_END = "</w>"
_VOWELS = frozenset("aeiouy")
_MOST_LETTERS = 4
# In a smaller vocabulary the order tells little of how frequent a word is.
_MANY_ENTRIES = 10_000
_NEVER = frozenset({"fck"})


class VocabularyTokenizer(Protocol):
    """What this file asks of a tokenizer."""

    encoder: dict[str, int]

    def encode(self, text: str) -> list[int]:
        """Returns the ids from the start to the end token."""


@dataclasses.dataclass(frozen=True)
class TokenReport:
    """What a tokenizer makes of a subject's token.

    Attributes:
        token: String, the token.
        pieces: Tuple of strings, the vocabulary entries that it becomes.
        rank: Float in `[0, 1]`, where the entry stands in the vocabulary, 0
            for the most frequent; `None` if it is not one entry.
        is_common: Boolean, whether it is one entry, and one that is frequent.
        suggestions: Tuple of strings, rare tokens of this vocabulary.
    """

    token: str
    pieces: tuple[str, ...]
    rank: float | None
    is_common: bool
    suggestions: tuple[str, ...]

    @property
    def is_single(self) -> bool:
        """Whether the token is one entry of the vocabulary."""
        return len(self.pieces) == 1

    @property
    def problem(self) -> str:
        """Returns what speaks against the token; `""` if nothing does."""
        if not self.is_single:
            what = (
                f"The token {self.token!r} is not one entry of the model's "
                f"vocabulary but {len(self.pieces)}: {list(self.pieces)}. "
                "The subject is then tied to pieces that other words share."
            )
        elif self.is_common:
            what = (
                f"The token {self.token!r} is a common word of the model's "
                "vocabulary, so it has a meaning that the subject must first "
                "replace."
            )
        else:
            return ""
        if self.suggestions:
            return f"{what} Rare tokens: {', '.join(self.suggestions)}."
        return f"{what} This vocabulary has no rare token to suggest."


def check_token(token: str, tokenizer: VocabularyTokenizer) -> TokenReport:
    """Looks a subject's token up in the vocabulary of a model's tokenizer.

    Returns:
        `TokenReport`, whose `problem` is a text for a person.

    Raises:
        ValueError: If `token` is no text.

    Example:

    ```python
    report = keras_sdft.data.check_token("dog", stable_diffusion.tokenizer)
    print(report.problem or "a rare token")
    ```
    """
    if not isinstance(token, str) or not token.strip():
        raise ValueError(
            "`token` must be a string that is not empty, 'sks' for example. "
            f"Received: {token!r}."
        )
    names = {number: name for name, number in tokenizer.encoder.items()}
    ids = list(tokenizer.encode(token))[1:-1]
    pieces = tuple(names.get(number, f"<{number}>") for number in ids)
    ranks = _ranks(tokenizer)
    rank = ranks.get(pieces[0], 0.0) if len(ids) == 1 else None
    common = len(ids) == 1 and not _is_rare(pieces[0], ranks)
    return TokenReport(
        token, pieces, rank, common, tuple(rare_tokens(tokenizer))
    )


def rare_tokens(tokenizer: VocabularyTokenizer, count: int = 5) -> list[str]:
    """Returns words of the vocabulary that mean as little as can be.

    They are what the field has used, as far as it is one entry and rare here,
    and then whole words of the last merges, of three or four letters without
    a vowel.

    Args:
        tokenizer: The tokenizer of the model.
        count: Integer, the most tokens to return. Defaults to `5`.

    Returns:
        List of strings, the best known and then the rarest first.
    """
    ranks = _ranks(tokenizer)
    late = [entry for entry in ranks if ranks[entry] >= COMMON]
    candidates = [name + _END for name in HABITS if name + _END in ranks]
    candidates += reversed(late) if len(ranks) >= _MANY_ENTRIES else []
    found: list[str] = []
    for entry in candidates:
        word = entry.removesuffix(_END)
        fits = entry != word and _is_short_consonants(word)
        if word in found or word in _NEVER or len(found) == count:
            continue
        if fits and _is_rare(entry, ranks) and _is_one(word, tokenizer):
            found.append(word)
    return found


def _is_rare(entry: str, ranks: dict[str, float]) -> bool:
    if len(ranks) < _MANY_ENTRIES:
        return _is_short_consonants(entry.removesuffix(_END))
    return ranks.get(entry, 0.0) >= COMMON


def _is_short_consonants(word: str) -> bool:
    plain = word.isascii() and word.isalpha()
    consonants = not _VOWELS & set(word) or word in HABITS
    return plain and consonants and 3 <= len(word) <= _MOST_LETTERS


def _is_one(word: str, tokenizer: VocabularyTokenizer) -> bool:
    return len(tokenizer.encode(word)) == 3


def _ranks(tokenizer: Any) -> dict[str, float]:
    """Maps each merged entry to its place, from 0 to 1."""
    entries = [
        name
        for name in sorted(tokenizer.encoder, key=tokenizer.encoder.get)
        if len(name.removesuffix(_END)) > 1 and not name.startswith("<|")
    ]
    last = max(1, len(entries) - 1)
    return {name: place / last for place, name in enumerate(entries)}
