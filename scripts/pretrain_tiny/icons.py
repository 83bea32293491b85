"""Fetches icon sets, filters them, draws and captions 128x128 pictures.

Knows npm, SVG and the folders written; words and colours are
`lexicon.py`'s and `captions.py`'s, training is others'.
Run `python -m scripts.pretrain_tiny.icons --help`.
"""

import argparse
import hashlib
import io
import json
import pathlib
import random
import subprocess
import tarfile
from typing import NamedTuple

import numpy as np
from PIL import Image

from scripts.pretrain_tiny import captions
from scripts.pretrain_tiny import colours
from scripts.pretrain_tiny import lexicon

SIZE = 128
SUPERSAMPLING = 2

#: The style of the set without colours.
INK = "ink"


class IconSet(NamedTuple):
    """An npm package of SVG bodies, pinned by version and checksum."""

    version: str
    sha256: str
    licence: str
    style: "str | None"


SETS = {
    "noto": IconSet(
        "1.2.9",
        "3e918d88fc945c0bb3d468dbace6f88caef67f01c9f0e7bcae0915a042e8f1ad",
        "Apache-2.0",
        None,
    ),
    "fluent-emoji-flat": IconSet(
        "1.2.6",
        "7d064769dee690815f823bc5bcc511d957198caf9f5edd8dd9c1aa48a6aeb175",
        "MIT",
        "flat",
    ),
    "fluent-emoji-high-contrast": IconSet(
        "1.2.6",
        "0b92d48c90d2200bd499e3cdd09a127ca6a8c8ddefd34c35eb5a1e4994012ae0",
        "MIT",
        INK,
    ),
}


#: The set whose categories hold for all, and which is drawn first.
BASE = "noto"

#: Categories not recoloured: faces are many, and all of them yellow.
NOT_RECOLOURED = ("Smileys & Emotion", "People & Body", "Symbols")


class Icon(NamedTuple):
    """One drawing: its common name, its category and a whole SVG."""

    name: str
    category: str
    svg: str


def fetch(set_name: str, cache: pathlib.Path) -> pathlib.Path:
    """Downloads one icon set with the npm client, unless it is there.

    Args:
        set_name: String, a key of `SETS`.
        cache: Path of a directory; made when missing.

    Returns:
        Path of the checked `.tgz` file.

    Raises:
        ValueError: If the file's checksum is not the pinned one.
    """
    pinned = SETS[set_name]
    package = cache / f"iconify-json-{set_name}-{pinned.version}.tgz"
    if not package.exists():
        cache.mkdir(parents=True, exist_ok=True)
        spec = f"@iconify-json/{set_name}@{pinned.version}"
        command = ["npm", "pack", "--silent", spec]
        subprocess.run(command, cwd=cache, check=True)
    digest = hashlib.sha256(package.read_bytes()).hexdigest()
    if digest != pinned.sha256:
        raise ValueError(
            f"{package} is not the pinned package. Expected sha256: "
            f"{pinned.sha256}. Received: {digest}. Delete it and try again."
        )
    return package


def read_icons(set_name: str, cache: pathlib.Path) -> "list[Icon]":
    """Reads the icons that pass the filter, in order of their names.

    Args:
        set_name: String, a key of `SETS`.
        cache: Path of the directory of packages; filled when needed.

    Returns:
        List of `Icon`, one per common name.
    """
    with tarfile.open(fetch(set_name, cache)) as archive:
        data = json.load(archive.extractfile("package/icons.json"))
        meta = json.load(archive.extractfile("package/metadata.json"))
    icons = {}
    for category, names in meta["categories"].items():
        for name in names:
            common = lexicon.ALIASES.get(name, name)
            body = data["icons"].get(name)
            if body and lexicon.kept(common, category):
                icons[common] = Icon(common, category, _svg(body, data))
    return [icons[name] for name in sorted(icons)]


def _svg(icon, defaults):
    box = {
        key: icon.get(key, defaults.get(key, fallback))
        for key, fallback in dict(left=0, top=0, width=16, height=16).items()
    }
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" '
        'viewBox="{left} {top} {width} {height}">'.format(**box)
        + icon["body"]
        + "</svg>"
    )


def draw(svg: str, size: int = SIZE) -> np.ndarray:
    """Draws an SVG on white, supersampled.

    Args:
        svg: String, a whole SVG document.
        size: Int, height and width in pixels.

    Returns:
        uint8 array of shape `(size, size, 3)`.
    """
    import resvg_py

    png = resvg_py.svg_to_bytes(
        svg_string=svg,
        width=size * SUPERSAMPLING,
        height=size * SUPERSAMPLING,
        background="#ffffff",
        skip_system_fonts=True,
    )
    image = Image.open(io.BytesIO(bytes(png))).convert("RGB")
    image = image.reduce(SUPERSAMPLING)
    canvas = Image.new("RGB", (size, size), "white")
    canvas.paste(image, ((size - image.width) // 2, (size - image.height) // 2))
    return np.asarray(canvas)


class Picture(NamedTuple):
    """A drawn icon, or a recoloured one, and the words about it."""

    name: str
    category: str
    pixels: np.ndarray
    colour: "str | None"
    text: "list[str]"

    @property
    def noun(self) -> str:
        """The thing's first name, without the colour it may say."""
        return captions.thing(self.name)[1][0]


def draw_sets(cache: pathlib.Path, seed: int = 0) -> "dict[str, list[Picture]]":
    """Draws and captions every icon of every set.

    Args:
        cache: Path of the directory of npm packages.
        seed: Int for the choice of the rarer captions.

    Returns:
        Dictionary of set names to lists of `Picture`, in order of names.
    """
    categories, sets = {}, {}
    for set_name in sorted(SETS, key=lambda name: name != BASE):
        sets[set_name] = []
        for icon in read_icons(set_name, cache):
            category = categories.setdefault(icon.name, icon.category)
            pixels = draw(icon.svg)
            style = SETS[set_name].style
            colour = "" if style == INK else None
            text = captions.captions(
                icon.name, category, pixels, seed, style, colour
            )
            picture = Picture(icon.name, category, pixels, None, text)
            sets[set_name].append(picture)
    return sets


def natural_pairs(pictures: "list[Picture]") -> "set[tuple[str, str]]":
    """The (colour, thing) pairs that drawn icons show or say.

    Args:
        pictures: List of `Picture`, none of them recoloured.

    Returns:
        Set of pairs of strings.
    """
    pairs = set()
    for picture in pictures:
        said, nouns = captions.thing(picture.name)
        seen = captions.seen_colours(picture.name, picture.pixels)
        pairs.update((c, n) for c in (said, *seen) for n in nouns if c)
    return pairs


def recoloured(
    picture: Picture,
    seed: int = 0,
    style: "str | None" = None,
) -> "list[Picture]":
    """The same thing in every other colour whose reading agrees.

    A colour is taken only if `name_colours` reads it, alone, from the
    new pixels, so that captions and pixels never disagree.

    Args:
        picture: `Picture` as drawn.
        seed: Int for the choice of the rarer captions.
        style: String or None, the real style of its set.

    Returns:
        List of `Picture`, empty for a thing without one saturated colour.
    """
    hue = colours.dominant_hue(picture.pixels)
    before = captions.seen_colours(picture.name, picture.pixels)
    if picture.category in NOT_RECOLOURED or hue is None or len(before) != 1:
        return []
    result = []
    for colour, target in colours.TARGET_HUES.items():
        pixels = colours.recolour(picture.pixels, target - hue)
        if colour in before or captions.seen_colours(picture.name, pixels) != (
            colour,
        ):
            continue
        name, category = picture.name, picture.category
        text = captions.captions(name, category, pixels, seed, style, colour)
        result.append(Picture(name, category, pixels, colour, text))
    return result


def split_recoloured(
    pictures: "list[Picture]",
    natural: "set[tuple[str, str]]",
    most: int,
    seed: int,
    style: "str | None",
) -> "tuple[list[Picture], list[Picture]]":
    """Recolours pictures and keeps the held-out pairs apart.

    Args:
        pictures: List of `Picture` as drawn.
        natural: Set of (colour, thing) pairs that are drawn by nature.
        most: Int, at most so many training variants of one thing.
        seed: Int for the choice among variants.
        style: String or None, the real style of the set.

    Returns:
        Tuple of lists of `Picture`: for training, and held out.
    """
    train, apart = [], []
    for picture in pictures:
        variants = [
            variant
            for variant in recoloured(picture, seed, style)
            if (variant.colour, variant.noun) not in natural
        ]
        random.Random(f"{seed} {picture.name}").shuffle(variants)
        by_fate = {True: [], False: []}
        for variant in variants:
            held = captions.held_out(variant.colour, variant.noun)
            by_fate[held].append(variant)
        train += by_fate[False][:most]
        apart += by_fate[True]
    return train, apart


def write(pictures: "list[Picture]", folder: pathlib.Path) -> None:
    """Writes PNGs and `metadata.jsonl`, replacing what was there.

    Args:
        pictures: List of `Picture`.
        folder: Path of a directory; made when missing.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for stale in folder.glob("*.png"):
        stale.unlink()
    rows = []
    for picture in pictures:
        variant = f"-in-{picture.colour}" if picture.colour else ""
        file_name = f"{picture.name}{variant}.png"
        Image.fromarray(picture.pixels).save(folder / file_name)
        row = dict(file_name=file_name, name=picture.name)
        row.update(thing=picture.noun, category=picture.category)
        row.update(
            colours=list(captions.seen_colours(picture.name, picture.pixels))
        )
        rows.append(json.dumps(dict(row, text=picture.text)))
    (folder / "metadata.jsonl").write_text("\n".join(rows) + "\n")


def main(arguments=None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--cache", type=pathlib.Path, default="build/icons")
    parser.add_argument("--variants", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    sets = draw_sets(options.cache / "packages", options.seed)
    coloured = {k: v for k, v in sets.items() if SETS[k].style != INK}
    natural = natural_pairs([p for ps in coloured.values() for p in ps])
    for set_name, pictures in sets.items():
        write(pictures, options.cache / set_name)
        print(f"{set_name}: {len(pictures)}")
        if set_name not in coloured:
            continue
        style = SETS[set_name].style
        parts = split_recoloured(
            pictures, natural, options.variants, options.seed, style
        )
        for part, name in zip(
            parts, ("recoloured", "composition"), strict=True
        ):
            write(part, options.cache / f"{set_name}-{name}")
            print(f"{set_name}-{name}: {len(part)}")


if __name__ == "__main__":
    main()
