"""Makes the demo's data: things in black ink, and a few held out.

Writes `examples/data/ink/{train,validation}` from the high-contrast icons,
`plain`, the same things as the embedded model drew them before, and a table
of `train` and `plain` together.
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
PLAIN_SET = "noto"
OUTPUT = pathlib.Path("examples/data/ink")
CAPTION = "{} in ink style"
PLAIN_CAPTION = "{}"
#: Beside the folders: the drawings in ink and the plain pictures.
TABLE = "train_and_plain.jsonl"
#: How often the table shows a picture of each folder.
TIMES = {"train": 3, "plain": 1}

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


def write_split(
    names, drawn, folder: pathlib.Path, caption: str = CAPTION
) -> int:
    """Draws one split and writes its captions.

    Args:
        names: List of strings, icons' names.
        drawn: Dictionary of names to `icons.Icon`.
        folder: Path of a directory; made when missing.
        caption: Template for a thing with its article.

    Returns:
        Int, bytes of the pictures.
    """
    mode = "L" if caption == CAPTION else "RGB"
    folder.mkdir(parents=True, exist_ok=True)
    rows, size = [], 0
    for name in sorted(names):
        noun = captions.thing(name)[1][0]
        file_name = noun.replace(" ", "-") + ".png"
        picture = Image.fromarray(icons.draw(drawn[name].svg)).convert(mode)
        data = io.BytesIO()
        picture.save(data, "PNG", optimize=True)
        (folder / file_name).write_bytes(data.getvalue())
        size += len(data.getvalue())
        text = caption.format(captions.with_article(noun))
        rows.append(json.dumps({"file_name": file_name, "text": text}))
    (folder / "metadata.jsonl").write_text("\n".join(rows) + "\n")
    return size


def write_table(output: pathlib.Path) -> int:
    """Writes the rows of `train` and `plain` as one table."""
    rows = []
    for folder, times in TIMES.items():
        with open(output / folder / "metadata.jsonl", encoding="utf-8") as file:
            for line in file:
                row = json.loads(line)
                row["file_name"] = f"{folder}/{row['file_name']}"
                rows.append(json.dumps({**row, "times": times}))
    (output / TABLE).write_text("\n".join(rows) + "\n", encoding="utf-8")
    return len(rows)


def main(arguments=None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--cache", type=pathlib.Path, default="build/icons")
    parser.add_argument("--output", type=pathlib.Path, default=OUTPUT)
    options = parser.parse_args(arguments)
    drawn, plain = (
        {
            icon.name: icon
            for icon in icons.read_icons(name, options.cache / "packages")
        }
        for name in (SET, PLAIN_SET)
    )
    for split, names in SPLITS.items():
        size = write_split(names, drawn, options.output / split)
        print(f"{split}: {len(names)} pictures, {size} bytes")
    names = SPLITS["train"]
    size = write_split(names, plain, options.output / "plain", PLAIN_CAPTION)
    print(f"plain: {len(names)} pictures, {size} bytes")
    print(f"{TABLE}: {write_table(options.output)} rows")


if __name__ == "__main__":
    main()
