"""Lists the words that the training captions held, for the package.

Must not know pixels or networks.
"""

import json
import pathlib

from keras_sdft.models import words
from scripts.pretrain_tiny import captions
from scripts.pretrain_tiny import lexicon
from scripts.pretrain_tiny import pictures


def groups(rows: "list[dict]") -> "dict[str, list[str]]":
    """Sorts the words of captions by what they name.

    Args:
        rows: List of the rows of the training's table.

    Returns:
        Dictionary of sorted lists: `things` (phrases), `styles`, `colours`,
        `kinds` and all `others`. No word of a caption is missing.
    """
    names = {row["name"] for row in rows}
    said = {
        w for row in rows for text in row["text"] for w in words.words_of(text)
    }
    found = {
        "things": {way for name in names for way in captions.thing(name)[1]},
        "styles": set(pictures.STYLES) & said,
        "colours": set(lexicon.COLOURS) & said,
        "kinds": ({*lexicon.KINDS, *lexicon.CATEGORY_KINDS.values()} - {None})
        & said,
    }
    told = {
        w for g in found.values() for text in g for w in words.words_of(text)
    }
    found["others"] = said - told
    return {name: sorted(group) for name, group in found.items()}


def write(rows: "list[dict]", path: pathlib.Path) -> None:
    """Writes `groups` as JSON."""
    text = json.dumps(groups(rows), indent=1) + "\n"
    path.write_text(text, encoding="utf-8")
