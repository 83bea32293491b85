"""Names the colours of a picture, and changes them.

Pure functions of pixels; knows no names of things. The pictures are
`(H, W, 3)` uint8 on a white background.
"""

from typing import NamedTuple

import numpy as np

#: Hue in degrees that stands for a colour when a thing is recoloured.
TARGET_HUES = {
    "red": 2.0,
    "orange": 27.0,
    "yellow": 50.0,
    "green": 125.0,
    "blue": 212.0,
    "purple": 272.0,
    "pink": 328.0,
}

# Where one named hue ends and the next begins, in degrees.
_HUE_ENDS = (
    (17.0, "red"),
    (36.0, "orange"),
    (67.0, "yellow"),
    (168.0, "green"),
    (252.0, "blue"),
    (296.0, "purple"),
    (346.0, "pink"),
    (360.1, "red"),
)

# Pairs that light and shadow make of one colour.
_SHADES = {
    frozenset(pair.split())
    for pair in (
        "brown orange",
        "orange yellow",
        "orange red",
        "pink red",
        "brown red",
        "brown yellow",
        "grey white",
        "black grey",
        "pink purple",
        "blue purple",
    )
}


class Hues(NamedTuple):
    """Hue in degrees [0, 360), saturation and value in [0, 1], `(H, W)`."""

    hue: np.ndarray
    saturation: np.ndarray
    value: np.ndarray


def to_hsv(pixels: np.ndarray) -> Hues:
    """Splits RGB into hue, saturation and value.

    Args:
        pixels: uint8 array of shape `(H, W, 3)`.

    Returns:
        `Hues` of float arrays of shape `(H, W)`.
    """
    rgb = pixels.astype("float64") / 255.0
    value = rgb.max(-1)
    chroma = value - rgb.min(-1)
    safe = np.where(chroma > 0, chroma, 1.0)
    red, green, blue = np.moveaxis(rgb, -1, 0)
    hue = np.select(
        [chroma == 0, value == red, value == green],
        [0.0, (green - blue) / safe % 6, (blue - red) / safe + 2],
        (red - green) / safe + 4,
    )
    saturation = chroma / np.where(value > 0, value, 1.0)
    return Hues(hue * 60.0, saturation, value)


def from_hsv(hues: Hues) -> np.ndarray:
    """Joins hue, saturation and value to RGB, the inverse of `to_hsv`.

    Args:
        hues: `Hues`; the hue is taken modulo 360.

    Returns:
        uint8 array of shape `(H, W, 3)`.
    """
    offsets = np.array([5.0, 3.0, 1.0])
    k = (offsets + hues.hue[..., None] % 360.0 / 60.0) % 6
    slope = np.clip(np.minimum(k, 4 - k), 0, 1)
    rgb = hues.value[..., None] * (1 - hues.saturation[..., None] * slope)
    return np.round(rgb * 255.0).astype("uint8")


def foreground(pixels: np.ndarray) -> np.ndarray:
    """Finds the picture's subject: all that is not white from the border in.

    Args:
        pixels: uint8 array of shape `(H, W, 3)`, white around the subject.

    Returns:
        Boolean array of shape `(H, W)`.
    """
    light = np.pad(pixels.min(-1) > 247, 1, constant_values=True)
    outside = np.zeros_like(light)
    outside[[0, -1]] = outside[:, 0] = outside[:, -1] = True
    reached = 0
    while reached < outside.sum():
        reached = outside.sum()
        _flow_down(outside, light)
        _flow_down(outside[::-1], light[::-1])
        _flow_down(outside.T, light.T)
        _flow_down(outside.T[::-1], light.T[::-1])
    return ~outside[1:-1, 1:-1]


def _flow_down(outside, light):
    # In place: a light pixel is outside if above it, with no wall between,
    # another is.
    rows = np.arange(len(light))[:, None]
    wall = np.maximum.accumulate(np.where(light, -1, rows))
    source = np.maximum.accumulate(np.where(outside, rows, -1))
    outside |= light & (source > wall)


def colour_shares(
    pixels: np.ndarray, see_through: bool = False
) -> "dict[str, float]":
    """Names each pixel of the subject and counts the names.

    Pixels of colours that people disagree on (beige, pale) count to no name.

    Args:
        pixels: uint8 array of shape `(H, W, 3)` on white.
        see_through: Boolean, whether pure white inside the subject is the
            background too.

    Returns:
        Dictionary of colours of `lexicon.COLOURS` to shares of the subject
        in (0, 1], greatest first. Empty for an empty picture.
    """
    subject = foreground(pixels)
    if see_through:
        subject = subject & (pixels.min(-1) < 254)
    total = max(int(subject.sum()), 1)
    names = _name_pixels(to_hsv(pixels))[subject]
    found, counts = np.unique(names[names != ""], return_counts=True)
    shares = dict(zip(found.tolist(), (counts / total).tolist(), strict=True))
    return dict(sorted(shares.items(), key=lambda item: (-item[1], item[0])))


def _name_pixels(hues):
    hue, saturation, value = hues
    chroma = saturation * value
    bluish = (hue > 175) & (hue < 250)
    reddish = (hue < 16) | (hue > 325)
    yellowish = (hue >= 45) & (hue < 67)
    pinkish = (hue >= 296) & (hue < 346)
    night = (hue > 245) & (hue < 300) & (value < 0.28)
    warm = (hue >= 8) & (hue < 45)
    ends = np.array([end for end, _ in _HUE_ENDS])
    hue_names = np.array([name for _, name in _HUE_ENDS])
    named = hue_names[np.searchsorted(ends, hue, side="right")]
    dull = (chroma < 0.1) | (bluish & (saturation < 0.36) & (chroma < 0.22))
    dull |= bluish & (saturation < 0.42) & (value < 0.85)
    return np.select(
        [
            (value < 0.2) | (dull & (value < 0.42)) | night,
            dull & (value > 0.87),
            dull,
            reddish & (value > 0.72) & (saturation < 0.56),
            warm & (value < 0.7),
            warm & (value < 0.86) & (saturation < 0.7),
            reddish & (value < 0.42),
            yellowish & (value < 0.5),
            yellowish & (value < 0.68),
            pinkish & (value < 0.65),
            (hue < 45) & (saturation < 0.45) | (saturation < 0.2),
        ],
        ["black", "white", "grey", "pink"] + ["brown"] * 4 + [""] * 3,
        named,
    )


def name_colours(
    pixels: np.ndarray, see_through: bool = False
) -> "tuple[str, ...]":
    """The one or two colours a person would name, or none.

    One colour if it covers half of the subject and no other a quarter; two
    if together they cover 70 %; many-coloured things get none. Of two
    shades of one colour (orange under yellow) only the greater counts, and
    none where neither is clearly greater.

    Args:
        pixels: uint8 array of shape `(H, W, 3)` on white.
        see_through: Boolean, whether pure white inside the subject is the
            background too.

    Returns:
        Tuple of zero, one or two colours of `lexicon.COLOURS`.
    """
    shares = (
        list(colour_shares(pixels, see_through).items())[:2] + [("", 0.0)] * 2
    )
    (first, most), (second, next_most) = shares[:2]
    if most >= 0.5 and next_most < 0.25:
        return (first,)
    if most + next_most < 0.7 or next_most < 0.2:
        return ()
    if frozenset((first, second)) in _SHADES:
        return (first,) if most >= 1.5 * next_most else ()
    return (first, second)


def dominant_hue(pixels: np.ndarray) -> "float | None":
    """The hue of a thing of one saturated colour, or None.

    Args:
        pixels: uint8 array of shape `(H, W, 3)` on white.

    Returns:
        Float in degrees [0, 360), or None if less than 55 % of the subject
        is saturated and within 40 degrees of one hue.
    """
    hues = to_hsv(pixels)
    subject = foreground(pixels)
    strong = subject & (hues.saturation > 0.35) & (hues.value > 0.3)
    if not strong.any():
        return None
    angles = np.deg2rad(hues.hue[strong])
    weights = (hues.saturation * hues.value)[strong]
    for _ in range(3):
        centre = np.angle(np.sum(weights * np.exp(1j * angles)))
        near = _turn(np.rad2deg(angles - centre)) < 40
        angles, weights = angles[near], weights[near]
    if angles.size < 0.55 * subject.sum():
        return None
    return float(np.rad2deg(centre) % 360)


def _turn(degrees):
    return np.abs((degrees + 180.0) % 360.0 - 180.0)


def recolour(pixels: np.ndarray, shift: float) -> np.ndarray:
    """Turns the hue of the dominant colour; other colours stay.

    Args:
        pixels: uint8 array of shape `(H, W, 3)` of a thing of one saturated
            colour (see `dominant_hue`).
        shift: Float, degrees to add to the hue.

    Returns:
        uint8 array of shape `(H, W, 3)`.

    Raises:
        ValueError: If the picture has no dominant colour.
    """
    centre = dominant_hue(pixels)
    if centre is None:
        raise ValueError(
            "`pixels` must show a thing of one saturated colour. Received a "
            "picture of several or none. Ask `dominant_hue` first."
        )
    hues = to_hsv(pixels)
    # Fades out between 45 and 65 degrees, so that shades keep their order.
    weight = np.clip((65.0 - _turn(hues.hue - centre)) / 20.0, 0.0, 1.0)
    hue = (hues.hue + shift) % 360.0
    # Full green glares on a screen where full yellow does not.
    glare = np.clip(1.0 - np.abs(hue - 120.0) / 50.0, 0.0, 1.0)
    value = hues.value * (1.0 - 0.25 * glare * hues.saturation)
    turned = from_hsv(Hues(hue, hues.saturation, value))
    mixed = pixels + weight[..., None] * (turned.astype("float64") - pixels)
    return np.round(mixed).astype("uint8")
