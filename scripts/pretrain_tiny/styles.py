"""Makes pictures in styles from drawings of things.

Pure functions of pixels and of a NumPy generator; knows no names and no files.
A drawing is `(S, S, 4)` uint8, transparent around the thing; a picture
`(S, S, 3)` uint8. `S` is twice the side of what is kept, so that lines of two
pixels become one smooth pixel.
"""

from collections.abc import Callable

import numpy as np
from PIL import Image
from PIL import ImageFilter

#: Colours of backgrounds that captions name.
GROUNDS = {
    "blue": (150, 200, 240),
    "green": (175, 220, 165),
    "yellow": (250, 228, 140),
    "pink": (250, 195, 212),
    "purple": (205, 185, 235),
    "grey": (200, 204, 208),
}

_CHALK = (238, 240, 232)
_BOARD = (38, 62, 54)
_DARK, _LIGHT = (46, 26, 92), (255, 190, 130)
_PAPER = (255, 246, 232)
_NIGHT = (24, 20, 32)
_SUNSETS = (
    ((255, 120, 70), (255, 214, 120)),
    ((240, 90, 120), (255, 196, 110)),
    ((110, 90, 190), (255, 160, 120)),
)
_TINTS = ((250, 218, 226), (210, 231, 247), (214, 239, 220), (231, 216, 246))
_TILES = 16
_JOINT = (62, 86, 96)
_SEA = (150, 190, 196)

Style = Callable[[np.ndarray, np.random.Generator], np.ndarray]


# === Where the thing stands ===


def placed(
    drawing: np.ndarray, generator: np.random.Generator, least: float = 0.74
) -> np.ndarray:
    """Turns, sizes and moves a drawing, so that it stays inside.

    Args:
        drawing: uint8 array `(S, S, 4)`.
        generator: NumPy generator.
        least: Float, the smallest size against that of the drawing.

    Returns:
        uint8 array of the same shape.
    """
    side = len(drawing)
    scale = generator.uniform(least, 0.95)
    angle = np.clip(generator.normal(0.0, 5.0), -12.0, 12.0)
    room = (1.0 - scale) / 2.0
    shift = generator.uniform(-room, room, 2) * side
    return _moved(drawing, scale, angle, shift)


def _moved(drawing, scale, degrees, shift):
    side = len(drawing)
    angle = np.deg2rad(degrees)
    turn = np.array(
        [[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]]
    )
    matrix = turn / scale
    centre = np.full(2, side / 2)
    offset = centre - matrix @ (centre + shift)
    # Premultiplied: colours of what is transparent must not bleed.
    image = Image.fromarray(drawing, "RGBA").convert("RGBa")
    image = image.transform(
        (side, side),
        Image.AFFINE,
        (*matrix[0], offset[0], *matrix[1], offset[1]),
        Image.BILINEAR,
    )
    return np.asarray(image.convert("RGBA"))


def jittered(drawing: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Changes the colours of a drawing a little; their names stay."""
    image = Image.fromarray(np.ascontiguousarray(drawing[..., :3])).convert(
        "HSV"
    )
    hue, saturation, value = np.moveaxis(np.asarray(image, "int16"), -1, 0)
    # 256 steps are the whole circle.
    hue = (hue + generator.integers(-4, 5)) % 256
    saturation = saturation * generator.uniform(0.88, 1.08)
    value = value * generator.uniform(0.92, 1.04)
    changed = np.stack([hue, saturation, value], -1).clip(0, 255)
    rgb = Image.fromarray(changed.astype("uint8"), "HSV").convert("RGB")
    return np.concatenate([np.asarray(rgb), drawing[..., 3:]], -1)


def several(
    drawing: np.ndarray, count: int, generator: np.random.Generator
) -> np.ndarray:
    """Puts two or three small copies of a drawing side by side.

    Args:
        drawing: uint8 array `(S, S, 4)`.
        count: 2 or 3.
        generator: NumPy generator.

    Returns:
        uint8 array of the same shape.
    """
    side = len(drawing)
    centres = {
        2: [(-0.25, 0.05), (0.25, -0.05)],
        3: [(-0.25, -0.22), (0.25, -0.22), (0.0, 0.25)],
    }[count]
    sheet = Image.new("RGBA", (side, side), (255, 255, 255, 0))
    for centre in centres:
        shift = (np.array(centre) + generator.uniform(-0.02, 0.02, 2)) * side
        angle = generator.normal(0.0, 4.0)
        copy = _moved(drawing, 0.46, angle, shift)
        sheet.alpha_composite(Image.fromarray(copy, "RGBA"))
    return np.asarray(sheet)


def flattened(drawing: np.ndarray, ground=(255, 255, 255)) -> np.ndarray:
    """Puts a drawing on a background.

    Args:
        drawing: uint8 array `(S, S, 4)`.
        ground: A colour, or an array `(S, S, 3)`.

    Returns:
        uint8 array `(S, S, 3)`.
    """
    alpha = drawing[..., 3:] / 255.0
    mixed = alpha * drawing[..., :3] + (1.0 - alpha) * np.asarray(ground)
    return np.round(mixed).astype("uint8")


# === Styles ===


def edges(drawing: np.ndarray, width: int = 5) -> np.ndarray:
    """Finds the outer and inner edges of a drawing.

    Args:
        drawing: uint8 array `(S, S, 4)`.
        width: Odd integer, of the lines in pixels.

    Returns:
        Float array `(S, S)` in [0, 1].
    """
    flat = Image.fromarray(flattened(drawing, (255, 255, 255)))
    flat = flat.filter(ImageFilter.MedianFilter(3))
    channels = [*flat.split(), Image.fromarray(drawing[..., 3])]
    steps = []
    for channel in channels:
        high = np.asarray(channel.filter(ImageFilter.MaxFilter(3)), "float32")
        low = np.asarray(channel.filter(ImageFilter.MinFilter(3)), "float32")
        steps.append(high - low)
    step = np.max(steps, axis=0)
    line = np.clip((step - 26.0) / 30.0, 0.0, 1.0) * 255.0
    line = Image.fromarray(line.astype("uint8"))
    grown = line.filter(ImageFilter.MaxFilter(max(3, width - 2)))
    smooth = np.asarray(grown.filter(ImageFilter.GaussianBlur(1.2)), "float64")
    return np.clip((smooth / 255.0 - 0.3) / 0.4, 0.0, 1.0)


def outline(drawing, generator):
    """Black lines on white."""
    line = edges(drawing)[..., None]
    return np.round(255.0 - line * (255.0 - 20.0)).astype("uint8").repeat(3, -1)


def silhouette(drawing, generator):
    """A dark shape before an evening sky."""
    top, bottom = _SUNSETS[generator.integers(len(_SUNSETS))]
    place = np.linspace(0.0, 1.0, len(drawing))[:, None, None]
    sky = (1.0 - place) * np.array(top) + place * np.array(bottom)
    sky = np.broadcast_to(sky, (*drawing.shape[:2], 3))
    shape = drawing.copy()
    shape[..., :3] = _NIGHT
    return flattened(shape, sky)


def pastel(drawing, generator):
    """Pale soft colours on a tinted paper."""
    rgb = drawing[..., :3] / 255.0
    grey = rgb @ np.array([0.299, 0.587, 0.114])
    muted = 0.55 * rgb + 0.45 * grey[..., None]
    pale = 0.5 * muted + 0.46
    changed = drawing.copy()
    changed[..., :3] = np.round(255.0 * np.clip(pale, 0, 1))
    tint = _TINTS[generator.integers(len(_TINTS))]
    soft = Image.fromarray(flattened(changed, tint))
    return np.asarray(soft.filter(ImageFilter.GaussianBlur(1.5)))


def duotone(drawing, generator):
    """Light and shade in two colours, on paper."""
    rgb = drawing[..., :3] / 255.0
    light = rgb @ np.array([0.299, 0.587, 0.114])
    inside = light[drawing[..., 3] > 128]
    low, high = np.percentile(inside, (2, 98)) if inside.size else (0.0, 1.0)
    light = np.clip((light - low) / max(high - low, 0.25), 0.0, 1.0)[..., None]
    changed = drawing.copy()
    mixed = (1.0 - light) * np.array(_DARK) + light * np.array(_LIGHT)
    changed[..., :3] = np.round(mixed)
    return flattened(changed, _PAPER)


def mosaic(drawing, generator):
    """Square tiles of one colour each, with dark joints.

    A tile is what one latent stands for, so that its edges stay sharp.
    """
    side = len(drawing)
    flat = Image.fromarray(flattened(drawing, _SEA))
    tiles = np.asarray(flat.resize((_TILES, _TILES), Image.BOX), "float64")
    tiles += generator.normal(0.0, 6.0, (_TILES, _TILES, 1))
    large = Image.fromarray(np.clip(tiles, 0, 255).astype("uint8"))
    large = np.asarray(large.resize((side, side), Image.NEAREST))
    place = np.arange(side) % (side // _TILES)
    joint = place < side // 128
    joint = joint[:, None] | joint[None, :]
    return np.where(joint[..., None], np.array(_JOINT), large).astype("uint8")


def chalk(drawing, generator):
    """Rough light strokes on a blackboard, rubbed with faint colours."""
    side = len(drawing)
    grain = generator.random((side // 12, side // 12)) * 255.0
    grain = Image.fromarray(grain.astype("uint8"))
    grain = grain.resize((side, side), Image.BICUBIC)
    grain = np.asarray(grain, "float64") / 255.0
    board = np.array(_BOARD) + 8.0 * (grain[..., None] - 0.5)
    rubbed = 0.34 * (0.7 + 0.6 * grain) * (drawing[..., 3] / 255.0)
    flat = drawing[..., :3].astype("float64")
    picture = board + rubbed[..., None] * (0.7 * flat + 96.0 - board)
    line = edges(drawing) * np.clip(0.7 + 0.5 * grain, 0.0, 1.0)
    picture += line[..., None] * (np.array(_CHALK) - picture)
    return np.clip(np.round(picture), 0, 255).astype("uint8")


#: Styles made by program, by the word that captions call them.
STYLES: "dict[str, Style]" = {
    "outline": outline,
    "silhouette": silhouette,
    "pastel": pastel,
    "duotone": duotone,
    "mosaic": mosaic,
    "chalk": chalk,
}

#: Styles whose details are so coarse that a small thing would be lost.
COARSE = ("mosaic", "silhouette")

#: Styles in which colours cannot be told.
COLOURLESS = ("outline", "silhouette", "duotone", "chalk")


def shape_says_much(drawing: np.ndarray) -> bool:
    """Whether a thing can be told from its silhouette: it is no mere disc.

    Compares the silhouette with the ellipse, and the box, of its extent.
    """
    inside = drawing[..., 3] > 128
    rows, columns = np.nonzero(inside)
    if not rows.size:
        return False
    inside = inside[
        rows.min() : rows.max() + 1, columns.min() : columns.max() + 1
    ]
    y, x = np.mgrid[
        -1 : 1 : inside.shape[0] * 1j, -1 : 1 : inside.shape[1] * 1j
    ]
    ellipse = x**2 + y**2 <= 1.0
    alike = (inside & ellipse).sum() / (inside | ellipse).sum()
    return bool(alike < 0.88 and inside.mean() < 0.92)
