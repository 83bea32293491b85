"""Makes the demo's data: things in black ink, and a few held out.

Writes `examples/data/ink/{train,validation}` from the high-contrast icons.
Run `python -m scripts.pretrain_tiny.ink`.
"""

import argparse
import io
import json
import pathlib

from PIL import Image

from scripts.pretrain_tiny import captions
from scripts.pretrain_tiny import icons

SET = "fluent-emoji-high-contrast"
OUTPUT = pathlib.Path("examples/data/ink")
CAPTION = "{} in ink style"

#: Icons of each split: well known, of clean shape, and in every set.
SPLITS = {
    "train": """
        airplane anchor ant automobile backpack balloon banana bear bell
        bicycle bird bone butterfly cactus camel camera carrot castle cat
        cheese-wedge cherries chicken church cow crab crown cupcake
        deciduous-tree duck elephant envelope fire fish fox frog hammer
        helicopter house jellyfish key kite lemon light-bulb lion mushroom
        owl panda pear penguin pig pineapple pizza rabbit robot rocket rose
        sailboat scissors shark snail star sunglasses turtle umbrella
        """.split(),
    "validation": """
        candle dog guitar hamburger horse octopus red-apple red-heart
        skull snowman strawberry sunflower teapot tiger trophy volcano
        """.split(),
}


def write_split(names, drawn, folder: pathlib.Path) -> int:
    """Draws one split and writes its captions.

    Args:
        names: List of strings, icons' names.
        drawn: Dictionary of names to `icons.Icon`.
        folder: Path of a directory; made when missing.

    Returns:
        Int, bytes of the pictures.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rows, size = [], 0
    for name in sorted(names):
        noun = captions.thing(name)[1][0]
        file_name = noun.replace(" ", "-") + ".png"
        picture = Image.fromarray(icons.draw(drawn[name].svg)).convert("L")
        data = io.BytesIO()
        picture.save(data, "PNG", optimize=True)
        (folder / file_name).write_bytes(data.getvalue())
        size += len(data.getvalue())
        text = CAPTION.format(captions.with_article(noun))
        rows.append(json.dumps({"file_name": file_name, "text": text}))
    (folder / "metadata.jsonl").write_text("\n".join(rows) + "\n")
    return size


def main(arguments=None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--cache", type=pathlib.Path, default="build/icons")
    parser.add_argument("--output", type=pathlib.Path, default=OUTPUT)
    options = parser.parse_args(arguments)
    found = icons.read_icons(SET, options.cache / "packages")
    drawn = {icon.name: icon for icon in found}
    for split, names in SPLITS.items():
        size = write_split(names, drawn, options.output / split)
        print(f"{split}: {len(names)} pictures, {size} bytes")


if __name__ == "__main__":
    main()
