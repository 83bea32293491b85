"""DreamBooth's prompts: templates, and whether they tell subject from class.

The subject's token should be one entry of the vocabulary that means nothing
yet. A vocabulary is in the order of its merges: what was frequent where it was
made stands first. Must not know files, pixels or TensorFlow.
"""

from __future__ import annotations

import re
from typing import Any

from keras_sdft import checks

# The paper's own brackets beside Python's braces.
_TOKEN_FIELDS = ("{token}", "[token]", "[v]", "[identifier]")
_CLASS_FIELDS = ("{class}", "[class]", "[class noun]", "[class_noun]")
_FIELD = re.compile(r"\{[^{}]*\}|\[[^\[\]]*\]")
_WORD = re.compile(r"[^\W_]+(?:['-][^\W_]+)*")

# A word among this share of the vocabulary, the most frequent, has a meaning.
COMMON = 0.75
# What the field has used, suggested first where the vocabulary has it.
HABITS = ("sks", "ohwx")

_END = "</w>"
_VOWELS = frozenset("aeiouy")
# In a smaller vocabulary the order tells little of how frequent a word is.
_MANY_ENTRIES = 10_000
_NEVER = frozenset({"fck"})


def fill_prompt(
    template: str, token: str | None = "", class_noun: str | None = None
) -> str:
    """Puts a subject's token and class into a prompt's template.

    Args:
        template: String, `"a photo of {token} {class}"` or
            `"a photo of [token] [class noun]"`.
        token: String, `"sks"` for example. `""` leaves it out, which makes
            the class prompt; `None` refuses a template that holds it.
        class_noun: String, `"dog"` for example.

    Returns:
        String, with single spaces.

    Raises:
        ValueError: If the template has another field, or one without a value.

    Example:

    ```python
    template = "a photo of {token} {class}"
    keras_sdft.data.fill_prompt(template, "sks", "dog")  # a photo of sks dog
    ```
    """

    def value(match: re.Match) -> str:
        field = match[0].lower()
        if field in _TOKEN_FIELDS and token is not None:
            return token
        if field not in _TOKEN_FIELDS + _CLASS_FIELDS:
            near = checks.did_you_mean(field, _TOKEN_FIELDS + _CLASS_FIELDS)
            raise ValueError(
                "A prompt's template may hold {token} and {class}. "
                f"Received: {match[0]!r} in {template!r}.{near}"
            )
        kind, example = "token", "'sks'"
        if field in _CLASS_FIELDS:
            if class_noun and class_noun.strip():
                return class_noun
            kind, example = "class", "the class noun, 'dog'"
        raise ValueError(
            f"The template {template!r} holds {match[0]!r}, and no {kind} "
            f"was given. Give {example} for example."
        )

    return " ".join(_FIELD.sub(value, template).split())


def check_dreambooth_prompts(
    instance_prompt: Any, class_prompt: Any = None, token: str | None = None
) -> str | None:
    """Refuses prompts that do not tell the subject from its class.

    Args:
        instance_prompt: String, `"a photo of sks dog"`.
        class_prompt: String, `"a photo of dog"`, or `None`.
        token: String, the subject's token. `None` (the default) finds it.

    Returns:
        The token: `token`, or the first word that only the instance prompt
        has. `None` if there is no class prompt to find it by.

    Raises:
        ValueError: If a prompt is empty or an unfilled template, or if the
            token is in both or in none of them.
    """
    _check_text("instance_prompt", instance_prompt)
    if class_prompt is not None:
        _check_text("class_prompt", class_prompt)
    if token is not None:
        _check_given(instance_prompt, class_prompt, token)
    elif class_prompt is not None:
        others = _words(class_prompt)
        own = [word for word in _words(instance_prompt) if word not in others]
        if not own:
            raise ValueError(
                "`instance_prompt` must name the subject with a rare token "
                "that `class_prompt` does not have. Received: "
                f"instance_prompt={instance_prompt!r} and "
                f"class_prompt={class_prompt!r}, which has every word of it. "
                "For example: 'a photo of sks dog' and 'a photo of dog'."
            )
        return own[0]
    return token


def _check_given(
    instance_prompt: str, class_prompt: str | None, token: str
) -> None:
    if not _holds(instance_prompt, token):
        raise ValueError(
            "`instance_prompt` must hold the subject's token. Received: "
            f"instance_prompt={instance_prompt!r} and token={token!r}. For "
            f"example: 'a photo of {token} dog'."
        )
    if class_prompt is not None and _holds(class_prompt, token):
        raise ValueError(
            "`class_prompt` must not hold the subject's token: it is what all "
            f"of the class have in common. Received: "
            f"class_prompt={class_prompt!r} and token={token!r}. Leave the "
            "token out of it."
        )


def _check_text(argument: str, prompt: Any) -> None:
    if not isinstance(prompt, str) or not prompt.strip():
        raise ValueError(
            f"`{argument}` must be a string that is not empty. "
            f"Received: {argument}={prompt!r}."
        )
    for field in _FIELD.findall(prompt):
        if field.lower() in (*_TOKEN_FIELDS, *_CLASS_FIELDS):
            raise ValueError(
                f"`{argument}` is a template that nothing was put into: "
                f"{prompt!r} holds {field!r}. Fill it with "
                "`keras_sdft.data.fill_prompt(template, token, class_noun)`."
            )


def _words(text: str) -> list[str]:
    return _WORD.findall(text.lower())


def _holds(prompt: str, token: str) -> bool:
    wanted = " ".join(_words(token))
    if not wanted:
        # A token of signs alone, as "<*>".
        return token.strip() in prompt
    return f" {wanted} " in f" {' '.join(_words(prompt))} "


# === Rare tokens ===


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
    problem = keras_sdft.data.check_token("dog", stable_diffusion.tokenizer)
    print(problem or "a rare token")
    ```
    """
    if not isinstance(token, str) or not token.strip():
        raise ValueError(
            "`token` must be a string that is not empty, 'sks' for example. "
            f"Received: {token!r}."
        )
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
