"""Captions for pictures of things, with their colours.

Pure functions of (name, category, pixels, seed): no files, no state. The
pictures are `(H, W, 3)` uint8 on a white background.
"""

import zlib

import numpy as np

from scripts.pretrain_tiny import colours
from scripts.pretrain_tiny import lexicon

#: Suffixes that mean nothing, so that a suffix not yet known means nothing.
NEUTRAL_STYLES = ("glossy", "soft", "round", "simple", "sks")

HELD_OUT_ONE_IN = 8

_AN = ("hourglass", "x ray")
# A gold medal is no yellow gold medal.
_METALS = ("gold ", "silver ", "bronze ")
_NOT_AN = ("unicorn", "ufo", "one ", "ewe")
_JOINTS = (
    " of ",
    " with ",
    " without ",
    " in ",
    " on ",
    " behind ",
    " over ",
    " and ",
    " pointing ",
    " holding ",
)
_SINGULAR_S = ("ss", "us", "os", "is")


def thing(name: str) -> "tuple[str | None, list[str]]":
    """Splits a name into the colour it says and the thing itself.

    Args:
        name: String, an icon's name ("green-apple").

    Returns:
        Tuple of colour or None, and ways to call the thing, best first:
        `("green", ["apple"])`.
    """
    ways = lexicon.spoken(name)
    first, _, rest = ways[0].partition(" ")
    if first in lexicon.COLOURS and rest:
        return first, [rest]
    return None, ways


def seen_colours(name: str, pixels: np.ndarray) -> "tuple[str, ...]":
    """The colours of a thing, not counting what is seen through it.

    Args:
        name: String, the icon's name.
        pixels: uint8 array of shape `(H, W, 3)` on white.

    Returns:
        Tuple of zero, one or two colours of `lexicon.COLOURS`.
    """
    return colours.name_colours(pixels, name in lexicon.SEE_THROUGH)


def held_out(colour: str, noun: str) -> bool:
    """Whether the pair is kept for the test of composition.

    One pair of eight by the CRC-32 of "<colour> <thing>". Only recoloured
    pictures are ever held out; a pair that some icon has by nature is not.

    Args:
        colour: String, a key of `colours.TARGET_HUES`.
        noun: String, the thing's first name ("apple").

    Returns:
        Boolean.
    """
    return zlib.crc32(f"{colour} {noun}".encode()) % HELD_OUT_ONE_IN == 0


def with_article(phrase: str) -> str:
    """Puts "a" or "an" before a phrase that takes one.

    Args:
        phrase: String, lower case, e.g. `"red apple"`.

    Returns:
        String, e.g. `"a red apple"`, `"an owl"`, `"french fries"`.
    """
    if phrase.replace(" ", "-") in lexicon.UNCOUNTED:
        return phrase
    head = phrase
    for joint in _JOINTS:
        head = head.split(joint)[0]
    last = head.split()[-1]
    plural = last.endswith("s") and not last.endswith(_SINGULAR_S)
    if not phrase.startswith("face ") and (plural or last in lexicon.UNCOUNTED):
        return phrase
    vowel = phrase[0] in "aeiou" or phrase.startswith(_AN)
    vowel = vowel and not phrase.startswith(_NOT_AN)
    return f"an {phrase}" if vowel else f"a {phrase}"


def captions(
    name: str,
    category: str,
    pixels: np.ndarray,
    seed: int = 0,
    style: "str | None" = None,
    colour: "str | None" = None,
) -> "list[str]":
    """Says a picture in about forty ways; repeats are the ways' weights.

    About 80 % are "a thing" or "a <colour> thing"; the rest name the kind
    ("a red apple, fruit"), a style that means nothing, or the medium.

    Args:
        name: String, the icon's name.
        category: String, its category.
        pixels: uint8 array of shape `(H, W, 3)` on white.
        seed: Int; changes which of the rarer ways are taken.
        style: String or None; a real style, ending every caption.
        colour: String or None; the colour of a recoloured picture, which
            then every caption says. `""` says no colours: for a set that
            has none. Defaults to `None`: as named, or as seen.

    Returns:
        List of strings, lower case, never empty.
    """
    said, nouns = thing(name)
    must = said if colour is None else colour
    seen = (must,) if must else seen_colours(name, pixels)
    if colour == "" or nouns[0].startswith(_METALS):
        seen = ()
    if name in lexicon.EXPECTED_COLOUR and colour is None:
        must = None
    adjective = " and ".join(seen)
    coloured = [f"{adjective} {noun}".strip() for noun in nouns]
    plain = coloured if must else nouns
    pick = zlib.crc32(f"{seed} {name} {adjective}".encode())
    phrases = _weighted(plain, 18) + _weighted(coloured, 13)
    result = [with_article(phrase) for phrase in phrases]
    result += _rare(plain[0], coloured[0], lexicon.kind(name, category), pick)
    if style is None:
        both = (plain[0], coloured[0])
        return result + [
            f"{with_article(both[(i + pick) % 2])} in {word} style"
            for i, word in enumerate(NEUTRAL_STYLES)
        ]
    return [f"{caption} in {style} style" for caption in result]


def _weighted(phrases, total):
    rest = total // (2 * len(phrases)) if len(phrases) > 1 else 0
    others = [phrase for phrase in phrases[1:] for _ in range(rest)]
    return [phrases[0]] * (total - len(others)) + others


def _rare(plain, coloured, kind, pick):
    medium = ("picture", "photo", "drawing", "icon")[pick % 4]
    article = "an" if medium == "icon" else "a"
    result = [coloured, f"{article} {medium} of {with_article(coloured)}"]
    if kind and kind not in plain:
        result += [f"{with_article(p)}, {kind}" for p in (plain, coloured)]
    return result
