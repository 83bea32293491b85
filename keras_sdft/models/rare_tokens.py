"""Rare tokens: entries of a model's vocabulary that mean nothing yet.

A subject's token should be one of them. A vocabulary is in the order of its
merges: what was frequent where it was made stands first. Must not know
networks.
"""

from typing import Any

from keras_sdft import checks

# A word among this share of the vocabulary, the most frequent, has a meaning.
COMMON = 0.75
# What the field has used, suggested first where the vocabulary has it.
HABITS = ("sks", "ohwx")

_END = "</w>"
_VOWELS = frozenset("aeiouy")
# In a smaller vocabulary the order tells little of how frequent a word is.
_MANY_ENTRIES = 10_000
_NEVER = frozenset({"fck"})


def check_token(token: str, tokenizer: Any) -> str:
    """Looks a subject's token up in the vocabulary of a model's tokenizer.

    Args:
        token: String, `"sks"` for example.
        tokenizer: The tokenizer of the model, with its `encoder`.

    Returns:
        String, what speaks against the token, with others that are rare;
        `""` if it is one entry, and a rare one.

    Raises:
        ValueError: If `token` is no text.

    Example:

    ```python
    problem = keras_sdft.models.check_token("dog", stable_diffusion.tokenizer)
    print(problem or "a rare token")
    ```
    """
    checks.text("token", token)
    names = {number: name for name, number in tokenizer.encoder.items()}
    ids = list(tokenizer.encode(token))[1:-1]
    pieces = [names.get(number, f"<{number}>") for number in ids]
    if len(pieces) != 1:
        problem = (
            f"The token {token!r} is not one entry of the model's vocabulary "
            f"but {len(pieces)}: {pieces}. The subject is then tied to pieces "
            "that other words share."
        )
    elif not _is_rare(pieces[0], _ranks(tokenizer)):
        problem = (
            f"The token {token!r} is a common word of the model's vocabulary, "
            "so it has a meaning that the subject must first replace."
        )
    else:
        return ""
    suggestions = rare_tokens(tokenizer)
    if suggestions:
        return f"{problem} Rare tokens: {', '.join(suggestions)}."
    return f"{problem} This vocabulary has no rare token to suggest."


def rare_tokens(tokenizer: Any, count: int = 5) -> list[str]:
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
        is_one = fits and len(tokenizer.encode(word)) == 3
        if is_one and _is_rare(entry, ranks):
            found.append(word)
    return found


def _is_rare(entry: str, ranks: dict[str, float]) -> bool:
    if len(ranks) < _MANY_ENTRIES:
        return _is_short_consonants(entry.removesuffix(_END))
    return ranks.get(entry, 0.0) >= COMMON


def _is_short_consonants(word: str) -> bool:
    consonants = not _VOWELS & set(word) or word in HABITS
    return (
        word.isascii() and word.isalpha() and consonants and 3 <= len(word) <= 4
    )


def _ranks(tokenizer: Any) -> dict[str, float]:
    """Maps each merged entry to its place, from 0 to 1."""
    entries = [
        name
        for name in sorted(tokenizer.encoder, key=tokenizer.encoder.__getitem__)
        if len(name.removesuffix(_END)) > 1 and not name.startswith("<|")
    ]
    last = max(1, len(entries) - 1)
    return {name: place / last for place, name in enumerate(entries)}
