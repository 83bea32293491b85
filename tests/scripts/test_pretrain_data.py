"""Captions, colours and vocabulary of the embedded model's training data."""

import gzip
import json
import pathlib

import numpy as np
import pytest
from PIL import Image

from scripts.pretrain_tiny import captions
from scripts.pretrain_tiny import colours
from scripts.pretrain_tiny import lexicon
from scripts.pretrain_tiny import pictures
from scripts.pretrain_tiny import styles
from scripts.pretrain_tiny import words

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


def test_plain_captions_name_no_style():
    texts = captions.plain("cat", "Animals & Nature", "orange")
    assert texts[0] == "a cat" and {"a kitten", "an orange cat"} <= set(texts)
    assert not any("style" in text for text in texts)
    # "a cat" or "a kitten", of more than half.
    assert sum(text in ("a cat", "a kitten") for text in texts) > len(texts) / 2
    on = captions.plain("cat", "Animals & Nature", "orange", ground="blue")
    assert all(text.endswith(" on a blue background") for text in on)


def test_a_picture_in_a_style_always_names_it_in_several_places():
    texts = captions.styled("cat", "outline", "orange")
    assert all("outline" in text for text in texts)
    assert texts[0] == "a cat in outline style"
    assert {
        "a cat, outline style",
        "outline style, a cat",
        "an outline picture of a cat",
        "an outline style cat",
        "a kitten in outline style",
        "an orange cat in outline style",
    } <= set(texts)


def test_a_recoloured_picture_always_says_its_colour():
    texts = captions.plain("red-apple", "Food & Drink", "blue", True)
    assert all("blue apple" in text for text in texts)
    texts = captions.styled("black-cat", "flat", "black", True)
    assert all("black cat" in text for text in texts)


@pytest.mark.parametrize(
    "noun, expected",
    [
        ("cat", "cats"),
        ("box", "boxes"),
        ("church", "churches"),
        ("cherry", "cherries"),
        ("key", "keys"),
        ("wolf", "wolves"),
    ],
)
def test_plurals(noun, expected):
    assert lexicon.plural(noun) == expected


def test_twos_and_threes_are_counted():
    texts = captions.counted("cat", 2)
    assert texts[0] == "two cats" and "cats" in texts
    assert captions.counted("mouse", 3)[0] == "three mice"


def test_the_subject_of_the_demo_is_held_out():
    assert captions.held_out_style("flat", "cat")
    assert captions.held_out_style("glossy", "cat")
    held = [
        captions.held_out_style(style, f"thing {index}")
        for style in pictures.STYLES
        for index in range(200)
    ]
    assert 0.1 < np.mean(held) < 0.15


# === Pictures ===


def drawing(colour=(229, 57, 53)):
    """A coloured ring of 128x128 pixels on nothing."""
    y, x = np.mgrid[:128, :128] - 63.5
    radius = np.hypot(x, y)
    result = np.zeros((128, 128, 4), "uint8")
    inside = (radius < 50) & (radius > 20)
    result[inside] = (*colour, 255)
    return result


@pytest.fixture(scope="module")
def thing():
    drawn = {
        "noto": drawing(),
        "noto-v1": drawing((30, 136, 229)),
        "fluent-emoji": drawing(),
        "fluent-emoji-flat": drawing(),
        "fluent-emoji-high-contrast": drawing((0, 0, 0)),
    }
    drawn = {
        name: np.repeat(np.repeat(d, 2, 0), 2, 1) for name, d in drawn.items()
    }
    return pictures.Thing("anchor", "Objects", drawn)


def test_pictures_are_whole_and_the_same_each_time(thing):
    first, second = thing.pictures(), thing.pictures()
    assert len(first) == len(second) > 20
    for one, other in zip(first, second, strict=True):
        assert one.pixels.shape == (128, 128, 3)
        np.testing.assert_array_equal(one.pixels, other.pixels)
        assert one[2:] == other[2:]
    tables = {picture.table for picture in first}
    assert {"train", "pairs", "ink"} <= tables <= set(pictures.TABLES)


def test_looks_and_captions_agree(thing):
    for picture in thing.pictures():
        styled = picture.look in pictures.STYLES
        for text in picture.text:
            assert (picture.look in text) == (picture.look != pictures.DEFAULT)
            assert ("ink" in text.split()) == (picture.table == "ink")
        if styled:
            held = captions.held_out_style(picture.look, thing.noun)
            assert held == (picture.table == "pairs")


def test_views_of_one_thing_differ(thing):
    views = [
        picture.pixels.astype("float64")
        for picture in thing.pictures()
        if picture.look == pictures.DEFAULT and picture.text[0] == "an anchor"
    ]
    assert len(views) >= 6
    for index, one in enumerate(views):
        for other in views[:index]:
            assert np.sqrt(np.mean((one - other) ** 2)) > 8


@pytest.mark.parametrize("style", styles.STYLES)
def test_styles_can_be_told_from_the_default_look(style):
    generator = np.random.default_rng(0)
    plain = styles.flattened(drawing()).astype("float64")
    made = styles.STYLES[style](drawing(), generator)
    assert made.shape == (128, 128, 3) and made.dtype == np.uint8
    assert np.sqrt(np.mean((made - plain) ** 2)) > 20


def test_outlines_are_lines_of_the_edges():
    made = styles.outline(drawing(), None)
    assert made[64, 64].tolist() == [255] * 3
    assert made[64, 64 + 50].max() < 60  # the outer edge
    assert made[64, 64 + 35].min() > 200  # within the ring


def test_placing_moves_nothing_outside():
    for seed in range(8):
        moved = styles.placed(drawing(), np.random.default_rng(seed))
        assert moved[0, :, 3].max() == moved[-1, :, 3].max() == 0
        assert moved[..., 3].max() == 255


def test_several_are_smaller_and_apart():
    two = styles.several(drawing(), 2, np.random.default_rng(0))
    halves = [half[..., 3].sum() for half in np.split(two, 2, axis=1)]
    whole = drawing()[..., 3].sum()
    for half in halves:
        assert half == pytest.approx(0.46**2 * whole, rel=0.1)


def test_a_disc_has_no_silhouette_of_its_own():
    y, x = np.mgrid[:64, :64] - 31.5
    disc = np.zeros((64, 64, 4), "uint8")
    disc[x**2 + y**2 < 28**2] = 255
    assert not styles.shape_says_much(disc)
    bar = np.zeros((64, 64, 4), "uint8")
    bar[8:56, 28:36] = bar[28:36, 8:56] = 255
    assert styles.shape_says_much(bar)


@pytest.mark.parametrize(
    "name, expected",
    [
        ("anchor", True),
        ("light-bulb", True),
        ("hot-beverage", True),
        ("fried-shrimp", False),
        ("worried-face", False),
        ("white-flower", False),
    ],
)
def test_what_is_taught(name, expected):
    assert pictures.taught(name) is expected


def test_names_of_the_demo_are_taught_first():
    order = pictures.demo_first({"axe", "cat", "dog", "zebra"})
    assert set(order[:2]) == {"cat", "dog"}


def test_words_are_those_of_the_captions(thing):
    rows = [
        {"name": thing.name, "text": picture.text}
        for picture in thing.pictures()
        if picture.table == "train"
    ]
    found = words.groups(rows)
    assert found["things"] == ["anchor"] and "outline" in found["styles"]
    listed = {w for g in found.values() for text in g for w in text.split()}
    said = {
        word.strip(",")
        for r in rows
        for text in r["text"]
        for word in text.split()
    }
    assert said <= listed


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
