"""DreamBooth's prompts: templates, and whether they tell subject from class.

Must not know files, pixels, tokenizers or TensorFlow.
"""

import re
from typing import Any

from keras_sdft import checks

# The paper's own brackets beside Python's braces.
_TOKEN_FIELDS = ("{token}", "[token]", "[v]", "[identifier]")
_CLASS_FIELDS = ("{class}", "[class]", "[class noun]", "[class_noun]")
_FIELD = re.compile(r"\{[^{}]*\}|\[[^\[\]]*\]")
_WORD = re.compile(r"[^\W_]+(?:['-][^\W_]+)*")


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
    if token is not None and not _holds(instance_prompt, token):
        raise ValueError(
            "`instance_prompt` must hold the subject's token. Received: "
            f"instance_prompt={instance_prompt!r} and token={token!r}. For "
            f"example: 'a photo of {token} dog'."
        )
    if class_prompt is None:
        return token
    if token is not None and _holds(class_prompt, token):
        raise ValueError(
            "`class_prompt` must not hold the subject's token: it is what all "
            f"of the class have in common. Received: "
            f"class_prompt={class_prompt!r} and token={token!r}. Leave the "
            "token out of it."
        )
    if token is None:
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


def _check_text(argument: str, prompt: Any) -> None:
    checks.text(argument, prompt)
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
