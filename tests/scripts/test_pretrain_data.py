"""Captions, colours and vocabulary of the embedded model's training data."""

import gzip
import json
import pathlib

import numpy as np
import pytest
from PIL import Image

from scripts.pretrain_tiny import captions
from scripts.pretrain_tiny import colours
from scripts.pretrain_tiny import icons
from scripts.pretrain_tiny import lexicon

ROOT = pathlib.Path(__file__).parents[2]
MERGES = ROOT / "keras_sdft/models/tiny/merges.txt.gz"
INK = ROOT / "examples/data/ink"


def disc(colour, inner=None):
    """A disc of radius 12 in a 32x32 white picture, perhaps with a core."""
    y, x = np.mgrid[:32, :32] - 15.5
    pixels = np.full((32, 32, 3), 255, "uint8")
    pixels[x**2 + y**2 < 144] = colour
    if inner is not None:
        pixels[x**2 + y**2 < 49] = inner
    return pixels


NAMED = {
    "red": (229, 57, 53),
    "orange": (245, 124, 0),
    "yellow": (253, 216, 53),
    "green": (67, 160, 71),
    "blue": (30, 136, 229),
    "purple": (126, 50, 190),
    "pink": (240, 98, 146),
    "brown": (121, 85, 72),
    "black": (33, 33, 33),
    "grey": (158, 158, 158),
}


@pytest.mark.parametrize("name", NAMED)
def test_a_plain_disc_is_named_by_its_colour(name):
    assert colours.name_colours(disc(NAMED[name])) == (name,)


def test_white_inside_counts_unless_seen_through():
    ring = disc(NAMED["red"], (255, 255, 255))
    # The core is 49/144 = 34 % of the disc.
    assert colours.colour_shares(ring)["white"] == pytest.approx(0.34, abs=0.02)
    assert colours.name_colours(ring) == ("red", "white")
    assert colours.name_colours(ring, see_through=True) == ("red",)


def test_hsv_round_trip_is_exact():
    pixels = np.random.default_rng(0).integers(0, 256, (40, 40, 3), "uint8")
    np.testing.assert_array_equal(
        colours.from_hsv(colours.to_hsv(pixels)), pixels
    )


@pytest.mark.parametrize("target", colours.TARGET_HUES)
def test_recolour_reads_as_the_colour_asked_for(target):
    pixels = disc((211, 47, 47), (40, 40, 40))
    shift = colours.TARGET_HUES[target] - colours.dominant_hue(pixels)
    turned = colours.recolour(pixels, shift)
    assert colours.name_colours(turned)[0] == target
    np.testing.assert_array_equal(turned[16, 16], (40, 40, 40))
    np.testing.assert_array_equal(turned[0, 0], (255, 255, 255))


def test_recolour_refuses_a_grey_picture():
    with pytest.raises(ValueError, match="one saturated colour"):
        colours.recolour(disc(NAMED["grey"]), 90.0)


@pytest.mark.parametrize(
    "phrase, expected",
    [
        ("red apple", "a red apple"),
        ("owl", "an owl"),
        ("unicorn", "a unicorn"),
        ("hourglass", "an hourglass"),
        ("octopus", "an octopus"),
        ("french fries", "french fries"),
        ("bread", "bread"),
        ("glass of milk", "a glass of milk"),
        ("face holding back tears", "a face holding back tears"),
    ],
)
def test_articles(phrase, expected):
    assert captions.with_article(phrase) == expected


def test_captions_are_deterministic_and_mostly_plain():
    pixels = disc(NAMED["red"])
    texts = captions.captions("balloon", "Activities", pixels)
    assert texts == captions.captions("balloon", "Activities", pixels)
    plain = sum(t in ("a balloon", "a red balloon") for t in texts)
    assert 0.7 < plain / len(texts) < 0.85
    assert "a red balloon, toy" in texts
    assert sum(" style" in t for t in texts) == len(captions.NEUTRAL_STYLES)


def test_a_recoloured_picture_always_says_its_colour():
    pixels = disc(NAMED["blue"])
    texts = captions.captions(
        "red-apple", "Food & Drink", pixels, colour="blue"
    )
    assert all("blue apple" in text for text in texts)
    ink = captions.captions("cat", "", pixels, style="ink", colour="")
    assert all("blue" not in text for text in ink)


def test_held_out_pairs_never_train():
    pixels = disc(NAMED["red"])
    pictures = [
        icons.Picture(name, "Food & Drink", pixels, None, [])
        for name in ("pear", "melon", "cookie", "lemon", "lime", "peach")
    ]
    natural = icons.natural_pairs(pictures)
    assert natural == {("red", p.name) for p in pictures}
    train, apart = icons.split_recoloured(pictures, natural, 9, 0, None)
    assert train and apart
    for part, expected in ((train, False), (apart, True)):
        for picture in part:
            pair = picture.colour, picture.noun
            assert captions.held_out(*pair) is expected
            assert pair not in natural


@pytest.mark.parametrize(
    "name, category, expected",
    [
        ("red-apple", "Food & Drink", True),
        ("crescent-moon", "Travel & Places", True),
        ("one-oclock", "Travel & Places", False),
        ("flag-in-hole", "Activities", False),
        ("man-running", "People & Body", False),
    ],
)
def test_filter(name, category, expected):
    assert lexicon.kept(name, category) is expected


def test_vocabulary_file_has_the_layout_of_the_tokenizer():
    lines = gzip.decompress(MERGES.read_bytes()).decode("utf-8").split("\n")
    merges = [tuple(line.split()) for line in lines[1:]]
    assert len(merges) == 2048 - 512 - 2
    assert all(len(pair) == 2 for pair in merges)
    assert len(set(merges)) == len(merges)


def rows_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize("split, count", [("train", 64), ("validation", 16)])
def test_ink_pictures_are_black_on_white_and_captioned(split, count):
    folder = INK / split
    rows = rows_of(folder / "metadata.jsonl")
    assert len(rows) == len({row["file_name"] for row in rows}) == count
    for row in rows:
        assert row["text"].endswith(" in ink style")
        with Image.open(folder / row["file_name"]) as image:
            assert image.size == (128, 128)
            assert image.convert("RGB").getextrema()[0] == (0, 255)


def test_each_drawing_has_its_plain_picture():
    drawn = rows_of(INK / "train" / "metadata.jsonl")
    plain = rows_of(INK / "plain" / "metadata.jsonl")
    assert [row["text"] for row in drawn] == [
        f"{row['text']} in ink style" for row in plain
    ]
    both = rows_of(INK / "train_and_plain.jsonl")
    assert [row["text"] for row in both] == [
        row["text"] for row in drawn + plain
    ]
    for row in both:
        with Image.open(INK / row["file_name"]) as image:
            assert image.size == (128, 128)
            grey = image.mode == "L"
            assert grey == row["text"].endswith(" in ink style")
