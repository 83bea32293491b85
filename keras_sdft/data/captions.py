"""Captions: the text that an example shows in an epoch, and its token ids.

Must not know files or TensorFlow; chance enters as numbers that were drawn.
"""

import functools
import logging
from collections.abc import Callable
from collections.abc import Sequence
from typing import Protocol

import numpy as np

from keras_sdft.data.examples import Examples
from keras_sdft.data.examples import Records
from keras_sdft.data.examples import several
from keras_sdft.data.options import PLACEHOLDER
from keras_sdft.data.options import Options
from keras_sdft.data.unreadable import attempts

logger = logging.getLogger(__name__)

# So many captions are tokenized before training, to count the long ones.
COUNT_LIMIT = 10_000
# The same where every caption must be fetched together with its image.
STREAMED_COUNT_LIMIT = 200

_REMEMBERED = 65_536


class Tokenizer(Protocol):
    """What this package asks of a tokenizer."""

    max_length: int
    end_of_text: int

    def encode(self, text: str) -> list[int]:
        """Returns the ids from the start to the end token, of any length."""

    def pad(self, ids: list[int]) -> np.ndarray:
        """Returns the ids as int32 of shape `(max_length,)`."""


def choose_caption(
    captions: Sequence[str],
    options: Options,
    draws: tuple[float, float, float],
    tag_draws: Callable[[], np.random.Generator],
) -> str:
    """Returns the caption that an example shows; `""` where it is dropped.

    Of three `draws` in `[0, 1)`, the first chooses the caption, the second
    the template that it is put into; the third drops it where it is less than
    `caption_dropout`. `tag_draws` makes what shuffles its tags.
    """
    if draws[2] < options.caption_dropout:
        return ""
    caption = captions[int(draws[0] * len(captions))]
    if options.shuffle_tags:
        caption = shuffle_tags(caption, options, tag_draws())
    template = options.templates[int(draws[1] * len(options.templates))]
    return template.replace(PLACEHOLDER, caption)


def shuffle_tags(
    caption: str, options: Options, draws: np.random.Generator
) -> str:
    """Returns the caption, `"sks dog, sofa"`, with its tags in another order.

    Spaces around tags, and empty tags, are dropped. In the result a space
    follows each separator, unless it ends in one.
    """
    separator, keep = options.tag_separator, options.keep_tokens
    tags = list(filter(None, map(str.strip, caption.split(separator))))
    kept, others = tags[:keep], tags[keep:]
    order = draws.permutation(len(others))
    joint = separator if separator.endswith(" ") else separator + " "
    return joint.join(kept + [others[index] for index in order])


class CaptionTokens:
    """Token ids of captions, remembered.

    Of a caption that is too long, the first tokens stay and the last id is the
    end token.
    """

    def __init__(self, tokenizer: Tokenizer):
        self._tokenizer = tokenizer
        self.max_length = tokenizer.max_length
        self._remembered = functools.lru_cache(_REMEMBERED)(self._tokenize)

    def __call__(self, caption: str) -> np.ndarray:
        """Returns int32 of shape `(max_length,)`; not to be written to."""
        return self._remembered(caption)[0]

    def is_cut(self, caption: str) -> bool:
        """Tells whether the caption is too long."""
        return self._remembered(caption)[1]

    def _tokenize(self, caption: str) -> tuple[np.ndarray, bool]:
        tokenizer = self._tokenizer
        ids = list(tokenizer.encode(caption))
        cut = len(ids) > tokenizer.max_length
        if cut:
            ids = ids[: tokenizer.max_length - 1] + [tokenizer.end_of_text]
        return np.asarray(tokenizer.pad(ids), np.int32), cut


def warn_about_captions(
    examples: Examples, tokens: CaptionTokens, templates: Sequence[str]
) -> tuple[int, int]:
    """Counts empty and over-long captions, warns of them, returns both."""
    records, shown = examples.records, examples.shown
    limit = None if hasattr(records, "captions") else STREAMED_COUNT_LIMIT
    captions = read_captions(records, shown[:limit])
    empty = sum(not caption.strip() for caption in captions)
    if empty:
        logger.warning(
            "%d of %d captions are empty; their images are trained without "
            "a text.",
            empty,
            len(captions),
        )
    counted = captions[:COUNT_LIMIT]
    cut = sum(
        any(tokens.is_cut(t.replace(PLACEHOLDER, caption)) for t in templates)
        for caption in counted
    )
    if cut:
        logger.warning(
            "%d of %d captions are longer than the text encoder takes and are "
            "cut, with the end token kept.%s",
            cut,
            len(counted),
            " The others are not counted; they are tokenized when first used."
            if len(counted) < max(len(captions), len(shown))
            else "",
        )
    return empty, cut


def read_captions(records: Records, numbers: np.ndarray) -> list[str]:
    """Returns all captions of some records; none of one that is unreadable."""
    held = getattr(records, "captions", None)
    if held is None:
        seen = attempts(records, numbers, lambda e: e.captions)
        found = [one.found or () for one in seen]
    else:
        found = [held[number] for number in numbers.tolist()]
    return [caption for captions in found for caption in several(captions)]
