"""Renders the data set of the embedded model, once.

`python -m scripts.pretrain_tiny.pictures`: PNGs of 128x128 pixels and tables of
captions in `build/tiny`, as `keras_sdft.data.load` reads them. The same seed
gives the same bytes. Must not know networks.
"""

import argparse
import functools
import json
import multiprocessing
import pathlib
import shutil
import zlib
from typing import NamedTuple

import numpy as np
from PIL import Image

from scripts.pretrain_tiny import captions
from scripts.pretrain_tiny import colours
from scripts.pretrain_tiny import icons
from scripts.pretrain_tiny import ink
from scripts.pretrain_tiny import lexicon
from scripts.pretrain_tiny import styles

OUTPUT = pathlib.Path("build/tiny")
PACKAGES = pathlib.Path("build/icons/packages")
#: Drawn twice as large, so that lines of the styles become smooth.
LARGE = 2 * icons.SIZE

#: The default look, which no caption names: two hands, that seeds differ.
DEFAULT = "default"
#: Styles that are sets of their own, by the word that captions call them.
SET_STYLES = {"flat": "fluent-emoji-flat", "glossy": "fluent-emoji"}
STYLES = (*SET_STYLES, *styles.STYLES)
#: The demo's style. It is for the judges alone, and in no caption.
INK_SET = "fluent-emoji-high-contrast"

#: Pictures of one thing in one look.
VIEWS = {"noto": 4, "noto-v1": 2, "style": 2, "ink": 2}
#: How often an epoch shows a picture in the default look, one in a style once.
TIMES = 2
#: Categories not recoloured: faces are many, and all of them yellow.
NOT_RECOLOURED = ("Smileys & Emotion", "People & Body", "Symbols")
MOST_RECOLOURED = 2
#: Of the things, those shown in twos and threes.
COUNTED_ONE_IN = 3
#: Of the pairs of thing and style, those with one more view to validate with.
KNOWN_ONE_IN = 12
TABLES = ("train", "known", "pairs", "colours", "ink")


class Picture(NamedTuple):
    """A picture to be written, and what is said of it.

    Attributes:
        table: String, of `TABLES`.
        pixels: uint8 array `(128, 128, 3)`.
        name: String, the icon's.
        look: String, `DEFAULT`, a style, or `"ink"`.
        text: List of captions.
        times: Integer, how often an epoch shows it.
        colour: String, that of a recoloured thing, or none.
    """

    table: str
    pixels: np.ndarray
    name: str
    look: str
    text: "list[str]"
    times: int = 1
    colour: str = ""


class Thing:
    """All pictures of one thing.

    Args:
        name: String, the icon's name.
        category: String, its category.
        drawn: Dictionary of sets to uint8 arrays `(256, 256, 4)`.
        seed: Integer.
    """

    def __init__(self, name, category, drawn, seed=0):
        self.name, self.category, self.drawn = name, category, drawn
        self.seed = seed
        said, nouns = captions.thing(name)
        self.noun = nouns[0]
        self.said = said
        self.must = said is not None and name not in lexicon.EXPECTED_COLOUR
        seen = captions.seen_colours(name, self._on_white("noto"))
        self.seen = (said,) if said else seen
        # A gold medal is no yellow gold medal.
        if self.noun.startswith(("gold ", "silver ", "bronze ")):
            self.seen = ()

    @property
    def adjective(self) -> str:
        return " and ".join(self.seen)

    def _on_white(self, name):
        pixels = styles.flattened(self.drawn[name])
        return np.asarray(Image.fromarray(pixels).reduce(2))

    def _generator(self, *key):
        text = " ".join(map(str, (self.name, *key)))
        return np.random.default_rng([self.seed, zlib.crc32(text.encode())])

    def _view(self, drawing, generator, look=DEFAULT, ground=(255, 255, 255)):
        """Places a drawing, and makes a picture in a look of it."""
        least = 0.88 if look in styles.COARSE else 0.74
        drawing = styles.placed(drawing, generator, least)
        drawing = styles.jittered(drawing, generator)
        if look in styles.STYLES:
            pixels = styles.STYLES[look](drawing, generator)
        else:
            pixels = styles.flattened(drawing, ground)
        return np.asarray(Image.fromarray(pixels).reduce(2))

    def pictures(self) -> "list[Picture]":
        """Every picture, of all tables."""
        found = self._default() + self._recoloured() + self._counted()
        for style in STYLES:
            found += self._styled(style)
        return found + self._ink()

    def _default(self):
        found = []
        text = captions.plain(
            self.name, self.category, self.adjective, self.must
        )
        for hand in ("noto", "noto-v1"):
            for index in range(VIEWS[hand] if hand in self.drawn else 0):
                generator = self._generator(hand, index)
                pixels = self._view(self.drawn[hand], generator)
                found.append(
                    Picture("train", pixels, self.name, DEFAULT, text, TIMES)
                )
        generator = self._generator("ground")
        ground = sorted(styles.GROUNDS)[generator.integers(len(styles.GROUNDS))]
        pixels = self._view(
            self.drawn["noto"], generator, ground=styles.GROUNDS[ground]
        )
        on = captions.plain(
            self.name, self.category, self.adjective, self.must, ground
        )
        found.append(Picture("train", pixels, self.name, DEFAULT, on, TIMES))
        if self._is_known(DEFAULT):
            pixels = self._view(self.drawn["noto"], self._generator("known"))
            found.append(Picture("known", pixels, self.name, DEFAULT, text))
        return found

    def _is_known(self, look):
        key = f"known {look} {self.name}".encode()
        return zlib.crc32(key) % KNOWN_ONE_IN == 0

    def _recoloured(self):
        """The thing in other colours; some of the pairs are held out."""
        white = styles.flattened(self.drawn["noto"])
        hue = colours.dominant_hue(np.asarray(Image.fromarray(white).reduce(2)))
        if self.category in NOT_RECOLOURED or hue is None or self.must:
            return []
        if len(self.seen) != 1:
            return []
        found = []
        order = self._generator("colours").permutation(len(colours.TARGET_HUES))
        for place in order:
            colour = list(colours.TARGET_HUES)[place]
            held = captions.held_out(colour, self.noun)
            count = sum(p.table == "train" for p in found)
            if colour in self.seen or (not held and count == MOST_RECOLOURED):
                continue
            target = colours.TARGET_HUES[colour]
            picture = self._in_colour(white, target - hue, colour, held)
            found += [] if picture is None else [picture]
        return found

    def _in_colour(self, white, shift, colour, held):
        rgb = colours.recolour(white, shift)
        small = np.asarray(Image.fromarray(rgb).reduce(2))
        # Captions and pixels must never disagree.
        if captions.seen_colours(self.name, small) != (colour,):
            return None
        drawing = np.concatenate([rgb, self.drawn["noto"][..., 3:]], -1)
        pixels = self._view(drawing, self._generator("colour", colour))
        text = captions.plain(self.name, self.category, colour, True)
        table = "colours" if held else "train"
        return Picture(table, pixels, self.name, DEFAULT, text, 1, colour)

    def _counted(self):
        if not counted(self.name):
            return []
        found = []
        for count in (2, 3):
            generator = self._generator("several", count)
            drawing = styles.several(self.drawn["noto"], count, generator)
            pixels = styles.flattened(styles.jittered(drawing, generator))
            pixels = np.asarray(Image.fromarray(pixels).reduce(2))
            text = captions.counted(self.name, count)
            found.append(Picture("train", pixels, self.name, DEFAULT, text))
        return found

    def _styled(self, style):
        hand = SET_STYLES.get(style, "noto")
        colourless = style in styles.COLOURLESS
        if hand not in self.drawn or (colourless and self.must):
            return []
        drawing = self.drawn[hand]
        if style == "silhouette" and not styles.shape_says_much(drawing):
            return []
        adjective = "" if colourless else self.adjective
        if style in SET_STYLES:
            seen = captions.seen_colours(self.name, self._on_white(hand))
            if self.must and self.said not in seen:
                return []
            adjective = self.said or " and ".join(seen)
        text = captions.styled(self.name, style, adjective, self.must)
        held = captions.held_out_style(style, self.noun)
        found = []
        for index in range(1 if held else VIEWS["style"]):
            pixels = self._view(drawing, self._generator(style, index), style)
            table = "pairs" if held else "train"
            found.append(Picture(table, pixels, self.name, style, text))
        if not held and self._is_known(style):
            generator = self._generator("known", style)
            pixels = self._view(drawing, generator, style)
            found.append(Picture("known", pixels, self.name, style, text))
        return found

    def _ink(self):
        if INK_SET not in self.drawn or self.must:
            return []
        text = [f"{captions.with_article(self.noun)} in ink style"]
        return [
            Picture(
                "ink",
                self._view(self.drawn[INK_SET], self._generator("ink", index)),
                self.name,
                "ink",
                text,
            )
            for index in range(VIEWS["ink"])
        ]


# === What is taught ===


def counted(name: str) -> bool:
    """Whether a thing is shown in twos and threes as well."""
    said, (noun, *_) = captions.thing(name)
    plain = said is None or name in lexicon.EXPECTED_COLOUR
    single = " " not in noun and captions.with_article(noun) != noun
    chosen = zlib.crc32(noun.encode()) % COUNTED_ONE_IN == 0
    return plain and single and chosen


def taught(name: str) -> bool:
    """Whether text to image is taught a thing.

    Those of one word, and everyday things of more. Of faces there are a
    hundred, which differ by a line: a few will do.

    Args:
        name: String, the icon's name.

    Returns:
        Boolean.
    """
    if name in lexicon.EVERYDAY or _of_demo(name):
        return True
    if name in lexicon.NOT_TAUGHT:
        return False
    words = captions.thing(name)[1][0].split()
    return len(words) == 1 and "face" not in words


def demo_first(names: "set[str]") -> "list[str]":
    """Names in the order in which they are taught: the demo's first."""
    return sorted(
        names, key=lambda name: (not _of_demo(name), zlib.crc32(name.encode()))
    )


def _of_demo(name):
    return name in {*ink.SPLITS["train"], *ink.SPLITS["validation"]}


def read_things(packages: pathlib.Path = PACKAGES) -> "dict[str, dict]":
    """Reads the SVGs of all things that are taught.

    Args:
        packages: Path of the directory of npm packages; filled when needed.

    Returns:
        Dictionary of names to dictionaries of sets to `icons.Icon`.
    """
    base = icons.read_icons(icons.BASE, packages)
    categories = {icon.name: icon.category for icon in base}
    things: dict[str, dict] = {n: {} for n in categories if taught(n)}
    for set_name in icons.SETS:
        for icon in icons.read_icons(set_name, packages, categories):
            if icon.name in things:
                things[icon.name][set_name] = icon
    return things


# === Files ===


def write_thing(
    found: "dict[str, icons.Icon]", output: pathlib.Path, seed: int = 0
) -> "list[dict]":
    """Draws a thing and writes its pictures.

    Args:
        found: Dictionary of sets to the thing's `icons.Icon`.
        output: Path of the data set.
        seed: Integer.

    Returns:
        List of the rows of the tables, with `table`.
    """
    base = found[icons.BASE]
    drawn = {
        name: icons.draw_transparent(icon.svg, LARGE)
        for name, icon in found.items()
    }
    thing = Thing(base.name, base.category, drawn, seed)
    rows, counts = [], {}
    for picture in thing.pictures():
        key = picture.table, picture.look
        counts[key] = counts.get(key, 0) + 1
        folder = pathlib.Path(picture.table, picture.look)
        (output / folder).mkdir(parents=True, exist_ok=True)
        path = folder / f"{thing.name}-{counts[key]}.png"
        Image.fromarray(picture.pixels).save(output / path, optimize=True)
        rows.append(
            {
                "table": picture.table,
                "file_name": path.as_posix(),
                "name": thing.name,
                "thing": thing.noun,
                "look": picture.look,
                "colour": picture.colour,
                "times": picture.times,
                "text": picture.text,
            }
        )
    return rows


def write_tables(rows: "list[dict]", output: pathlib.Path) -> "dict[str, int]":
    """Writes a `.jsonl` of each table.

    Returns:
        Dictionary of the number of rows of each.
    """
    counts = {}
    for table in TABLES:
        kept = [row for row in rows if row["table"] == table]
        lines = [
            json.dumps({k: v for k, v in row.items() if k != "table"})
            for row in kept
        ]
        path = output / f"{table}.jsonl"
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
        counts[table] = len(kept)
    return counts


def main(arguments=None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--packages", type=pathlib.Path, default=PACKAGES)
    parser.add_argument("--output", type=pathlib.Path, default=OUTPUT)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=2, help="processes")
    parser.add_argument("--names", nargs="*", help="these things alone")
    options = parser.parse_args(arguments)
    things = read_things(options.packages)
    chosen = [things[name] for name in options.names or things]
    # A table without its pictures would be worse than none.
    for table in TABLES:
        (options.output / f"{table}.jsonl").unlink(missing_ok=True)
        shutil.rmtree(options.output / table, ignore_errors=True)
    work = functools.partial(
        write_thing, output=options.output, seed=options.seed
    )
    with multiprocessing.get_context("spawn").Pool(options.jobs) as pool:
        rows = [row for part in pool.imap(work, chosen, 8) for row in part]
    counts = write_tables(rows, options.output)
    print(f"{len(chosen)} things in {options.output}: {counts}")


if __name__ == "__main__":
    main()
