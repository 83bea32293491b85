"""Words of captions and prompts that the model to be trained does not know."""

from collections.abc import Iterable
from typing import Any

import numpy as np

from keras_sdft.data import Report

# A caption may have to be fetched together with its image.
_CAPTIONS = 500


def unknown_words(
    stable_diffusion: Any, report: Report, prompts: Iterable[str] = ()
) -> str | None:
    """Returns a sentence about words that the model does not know yet.

    Args:
        stable_diffusion: A `keras_sdft.StableDiffusion`, not yet trained.
        report: `keras_sdft.data.Report` of what it is trained on.
        prompts: Strings, what is generated to look at.

    Returns:
        String; `None` if there are none, or the model lists no words.
    """
    captions = [text for s in report.sources for text in _captions(s)]
    words = stable_diffusion.unknown_words(captions)
    others = stable_diffusion.unknown_words(prompts)
    others = [word for word in others if word not in words]
    told = []
    if words:
        about = stable_diffusion.about_words(words)
        told.append(f"{about}: what they mean is learned from these images")
    if others:
        about = stable_diffusion.about_words(others)
        told.append(f"{about}, and no caption has them")
    return "; ".join(told) or None


def _captions(source: Any) -> list[str]:
    rows = source.shown
    places = np.linspace(0, len(rows) - 1, min(_CAPTIONS, len(rows)))
    chosen = [int(rows[round(place)]) for place in places]
    return [text for row in chosen for text in source.records[row].captions]
