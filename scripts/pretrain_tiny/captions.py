"""Captions for pictures of things, with their colours.

Pure functions of (name, category, pixels, seed): no files, no state. The
pictures are `(H, W, 3)` uint8 on a white background.
"""

import zlib

import numpy as np

from scripts.pretrain_tiny import colours
from scripts.pretrain_tiny import lexicon

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


def held_out_style(style: str, noun: str) -> bool:
    """Whether a thing is never shown in a style, to be asked for later.

    One pair of eight; and the cat in the styles whose drawing of it
    `subject.py` makes another cat of.

    Args:
        style: String, the word for it.
        noun: String, the thing's first name.

    Returns:
        Boolean.
    """
    if noun == "cat" and style in ("flat", "glossy"):
        return True
    return zlib.crc32(f"{style} {noun}".encode()) % HELD_OUT_ONE_IN == 0


def plain(
    name: str,
    category: str,
    adjective: str = "",
    must: bool = False,
    ground: str = "",
) -> "list[str]":
    """Says a picture in the default look; repeats are weights.

    No caption names a style: the default look has none.

    Args:
        name: String, the icon's name.
        category: String, its category.
        adjective: String, the thing's colours, or none.
        must: Boolean, whether every caption says them.
        ground: String, the colour of the background, which every caption then
            says; none for white.

    Returns:
        List of strings, lower case, never empty.
    """
    nouns = thing(name)[1]
    coloured = [f"{adjective} {noun}".strip() for noun in nouns]
    short = coloured if must else nouns
    kind = lexicon.kind(name, category)
    result = [with_article(short[0])] * 8
    result += [with_article(other) for other in short[1:] for _ in range(2)]
    result += [with_article(coloured[0])] * 3
    result += [short[0], f"a picture of {with_article(coloured[0])}"]
    if kind and kind not in short[0]:
        result.append(f"{with_article(short[0])}, {kind}")
    if not ground:
        return result
    on = with_article(f"{ground} background")
    return [f"{text} on {on}" for text in result[:8:2] + result[8:]]


def styled(
    name: str, style: str, adjective: str = "", must: bool = False
) -> "list[str]":
    """Says a picture in a style, which every caption names.

    The word stands before, within and after the thing's, so that it is the
    word that means the style and not its place.

    Args:
        name: String, the icon's name.
        style: String, the word for it.
        adjective: String, the thing's colours, or none.
        must: Boolean, whether every caption says them.

    Returns:
        List of strings, lower case.
    """
    nouns = thing(name)[1]
    if must:
        nouns = [f"{adjective} {noun}" for noun in nouns]
    a = with_article(nouns[0])
    others = [with_article(noun) for noun in nouns[1:]]
    if adjective and not must:
        others.append(with_article(f"{adjective} {nouns[0]}"))
    made = with_article(f"{style} picture")
    result = [f"{a} in {style} style"] * 4 + [f"{a}, {style} style"] * 3
    result += [f"{style} style, {a}", f"{made} of {a}"]
    result.append(with_article(f"{style} style {nouns[0]}"))
    for other in others:
        result += [f"{other} in {style} style", f"{other}, {style} style"]
    return result


def counted(name: str, count: int) -> "list[str]":
    """Says a picture of two or three of a thing.

    Args:
        name: String, the icon's name, of one word.
        count: 2 or 3.

    Returns:
        List of strings.
    """
    many = lexicon.plural(thing(name)[1][0])
    word = {2: "two", 3: "three"}[count]
    return [f"{word} {many}"] * 3 + [many, f"a picture of {word} {many}"]
