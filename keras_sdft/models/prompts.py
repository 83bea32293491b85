"""Prompts to token ids, and what of a prompt is not understood.

Must not know networks.
"""

import logging
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

_logger = logging.getLogger(__name__)

# What other tools read as instructions: `(word:1.3)`, `<lora:name:0.8>`.
_SYNTAX = re.compile(r"\([^()]*:\s*\d*\.?\d+\s*\)|<\w+:[^<>]+>")


def tokenize_prompts(tokenizer: Any, prompt: str | Sequence[str]) -> np.ndarray:
    """Tokenizes prompts, and warns of what is left out or read as text.

    Args:
        tokenizer: A `Tokenizer`.
        prompt: String, or a list of at least one.

    Returns:
        Int32 array `(prompts, tokenizer.max_length)`.

    Raises:
        ValueError: If it is neither.
    """
    prompts = [prompt] if isinstance(prompt, str) else prompt
    is_list = isinstance(prompts, (Sequence, np.ndarray)) and len(prompts) > 0
    if not is_list or not all(isinstance(text, str) for text in prompts):
        raise ValueError(
            "`prompt` must be a string or a list of at least one "
            f"string. Received: {prompt!r}."
        )
    return np.stack([_row(tokenizer, text) for text in prompts])


def _row(tokenizer: Any, text: str) -> np.ndarray:
    limit = tokenizer.max_length
    ids = tokenizer.encode(text)
    if len(ids) > limit:
        _logger.warning(
            "A prompt has %d tokens; only the first %d are used, without its "
            "end: %r.",
            len(ids),
            limit,
            tokenizer.decode(ids[limit - 1 : -1])[:200],
        )
    for found in _SYNTAX.findall(text):
        _logger.warning(
            "%r in a prompt is read as text: words have no weights here, and "
            "prompts name no files.",
            found,
        )
    return tokenizer.pad(ids)
