"""Makes a subject to learn: views of one cat that the model never saw.

Writes `examples/data/sks_cat/{instance,validation}`: a teal cat in another
hand than the model's own, turned, moved and mirrored, on several grounds.
Run `python -m scripts.pretrain_tiny.subject`.
"""

import argparse
import json
import pathlib

import numpy as np
from PIL import Image

from scripts.pretrain_tiny import colours
from scripts.pretrain_tiny import icons

SET = "fluent-emoji-flat"
NAME = "cat"
HUE_SHIFT = 145.0
OUTPUT = pathlib.Path("examples/data/sks_cat")
PROMPT = "a sks cat"
SIZE = 128
LARGE = 512

#: Of each view: scale, degrees, shift to the right and down, mirrored, ground.
VIEWS = {
    "instance": (
        (1.0, 0, 0, 0, False, "white"),
        (0.8, 6, -10, 8, False, "#ffe9c9"),
        (0.9, -8, 6, 4, True, "white"),
        (0.7, 0, 14, 12, False, "#d8ecff"),
        (0.85, 10, -4, 0, True, "#e4f5d8"),
        (0.95, -5, 0, -4, False, "#fbdde4"),
    ),
    "validation": (
        (0.9, 4, 4, 0, False, "white"),
        (0.75, -6, -8, 10, True, "#efe4fb"),
        (0.85, 0, 8, -6, False, "#fff4b8"),
    ),
}


def view(picture: np.ndarray, place: tuple) -> Image.Image:
    """One view of a large picture on white.

    Args:
        picture: uint8 array `(512, 512, 3)`.
        place: A row of `VIEWS`.

    Returns:
        A `PIL.Image.Image` of 128x128 pixels.
    """
    scale, degrees, right, down, mirrored, ground = place
    if mirrored:
        picture = picture[:, ::-1]
    inside = colours.foreground(picture)
    mask = Image.fromarray((inside * 255).astype("uint8"))
    image = Image.fromarray(picture)
    side = round(LARGE * scale)
    corner = (LARGE - side) // 2
    factor = LARGE // SIZE
    at = (corner + right * factor, corner + down * factor)
    sheet = Image.new("RGB", (LARGE, LARGE), ground)
    turned = [
        part.rotate(-degrees, Image.BICUBIC).resize((side, side), Image.BOX)
        for part in (image, mask)
    ]
    sheet.paste(turned[0], at, turned[1])
    return sheet.resize((SIZE, SIZE), Image.BOX)


def main(arguments=None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--cache", type=pathlib.Path, default="build/icons")
    parser.add_argument("--output", type=pathlib.Path, default=OUTPUT)
    options = parser.parse_args(arguments)
    found = icons.read_icons(SET, options.cache / "packages")
    (icon,) = (icon for icon in found if icon.name == NAME)
    picture = colours.recolour(icons.draw(icon.svg, LARGE), HUE_SHIFT)
    for split, places in VIEWS.items():
        folder = options.output / split
        folder.mkdir(parents=True, exist_ok=True)
        rows = []
        for number, place in enumerate(places, 1):
            name = f"{number:02d}.png"
            view(picture, place).save(folder / name, optimize=True)
            rows.append(json.dumps({"file_name": name, "text": PROMPT}))
        if split == "validation":
            text = "\n".join(rows) + "\n"
            (folder / "metadata.jsonl").write_text(text, encoding="utf-8")
        print(f"{folder}: {len(places)} pictures")


if __name__ == "__main__":
    main()
