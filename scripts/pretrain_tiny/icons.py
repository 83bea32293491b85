"""Fetches icon sets, filters them, and draws their icons.

Knows npm and SVG; words are `lexicon.py`'s, pictures `pictures.py`'s.
"""

import hashlib
import io
import json
import pathlib
import subprocess
import tarfile
from typing import NamedTuple

import numpy as np
from PIL import Image

from scripts.pretrain_tiny import lexicon

SIZE = 128
SUPERSAMPLING = 2


class IconSet(NamedTuple):
    """An npm package of SVG bodies, pinned by version and checksum.

    The license is what `package/info.json` declares, as SPDX has it.
    """

    version: str
    sha256: str
    licence: str


SETS = {
    "noto": IconSet(
        "1.2.9",
        "3e918d88fc945c0bb3d468dbace6f88caef67f01c9f0e7bcae0915a042e8f1ad",
        "Apache-2.0",
    ),
    "noto-v1": IconSet(
        "1.2.5",
        "2bf62c26c2c2884aa99e90aec942cdaee17a5921f05690694f4978ad4b017c37",
        "Apache-2.0",
    ),
    "fluent-emoji": IconSet(
        "1.2.7",
        "8044210dbf11e016d4de85f15d01a243423bd832457e7e2491df1b751c0e272b",
        "MIT",
    ),
    "fluent-emoji-flat": IconSet(
        "1.2.6",
        "7d064769dee690815f823bc5bcc511d957198caf9f5edd8dd9c1aa48a6aeb175",
        "MIT",
    ),
    "fluent-emoji-high-contrast": IconSet(
        "1.2.6",
        "0b92d48c90d2200bd499e3cdd09a127ca6a8c8ddefd34c35eb5a1e4994012ae0",
        "MIT",
    ),
}


#: The set whose names and categories hold for all.
BASE = "noto"


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


def read_icons(
    set_name: str, cache: pathlib.Path, names: "dict[str, str] | None" = None
) -> "list[Icon]":
    """Reads the icons that pass the filter, in order of their names.

    Args:
        set_name: String, a key of `SETS`.
        cache: Path of the directory of packages; filled when needed.
        names: Categories by common name, to keep those of another set in
            place of the filter; for sets that name no categories.

    Returns:
        List of `Icon`, one per common name.
    """
    with tarfile.open(fetch(set_name, cache)) as archive:
        data = json.load(archive.extractfile("package/icons.json"))
        meta = json.load(archive.extractfile("package/metadata.json"))
    found = {}
    for category, members in meta.get("categories", {}).items():
        found |= dict.fromkeys(members, category)
    icons = {}
    for name in sorted(data["icons"]):
        common = lexicon.ALIASES.get(name, name)
        if names is not None:
            category = names.get(common)
        else:
            category = found.get(name)
            if category and not lexicon.kept(common, category):
                category = None
        if category:
            body = data["icons"][name]
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
    image = _render(svg, size * SUPERSAMPLING, "#ffffff").convert("RGB")
    return np.asarray(image.reduce(SUPERSAMPLING))


def draw_transparent(svg: str, size: int) -> np.ndarray:
    """Draws an SVG on nothing.

    Args:
        svg: As for `draw`.
        size: As for `draw`.

    Returns:
        uint8 array of shape `(size, size, 4)`.
    """
    return np.asarray(_render(svg, size, None).convert("RGBA"))


def _render(svg, size, background):
    import resvg_py

    options = {} if background is None else {"background": background}
    png = resvg_py.svg_to_bytes(
        svg_string=svg,
        width=size,
        height=size,
        skip_system_fonts=True,
        **options,
    )
    image = Image.open(io.BytesIO(bytes(png))).convert("RGBA")
    # A box that is no square leaves sides empty.
    canvas = Image.new("RGBA", (size, size), background or (255, 255, 255, 0))
    corner = (size - image.width) // 2, (size - image.height) // 2
    canvas.paste(image, corner)
    return canvas
