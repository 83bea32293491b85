import numpy as np
import pytest

from benchmarks import _classifiers
from benchmarks import judges
from benchmarks import learning


def picture(colour, shape="square", side=32):
    image = np.full((side, side, 3), 255, np.uint8)
    if shape == "square":
        image[8:24, 8:24] = colour
    else:
        image[4:28, 14:18] = colour
    return image


@pytest.mark.slow
def test_a_classifier_names_what_it_was_taught(tmp_path):
    generator = np.random.default_rng(0)
    shapes = ["square", "bar"] * 32
    images = np.stack(
        [picture(generator.integers(0, 200, 3), s, 64) for s in shapes]
    )
    classifier = _classifiers.Classifier(shapes)
    classifier.fit(images, shapes, epochs=60, verbose=0)
    others = np.stack([picture((9, 99, 9), s, 64) for s in ("square", "bar")])
    assert classifier.rank(others, ["square", "bar"]).tolist() == [0, 0]
    assert classifier.rank(others, ["bar", "square"]).tolist() == [1, 1]
    assert classifier(others) == ["square", "bar"]
    classifier.save(tmp_path, {"real": 1.0})
    again, notes = _classifiers.load(tmp_path)
    assert again(others) == ["square", "bar"] and notes == {"real": 1.0}


def test_moved_images_keep_their_background():
    dark = np.full((64, 64, 3), (30, 60, 50), np.uint8)
    dark[24:40, 24:40] = 255
    moved = _classifiers._moved(
        np.stack([dark] * 8),
        np.random.default_rng(0),
        _classifiers.Damage(grey=0.0),
    )
    assert moved.shape == (8, 64, 64, 3)
    corners = moved[:, :2, :2].mean(axis=(0, 1, 2))
    np.testing.assert_allclose(corners, (30, 60, 50), atol=20)


def test_judges_are_asked_about_views_that_they_have_not_seen():
    rows = [
        {"table": table, "name": f"thing-{n}", "file_name": f"a-{view}.png"}
        for table in ("train", "known", "pairs", "ink")
        for n in range(40)
        for view in (1, 2)
    ]
    asked = [row for row in rows if judges.is_asked(row)]
    assert {row["table"] for row in asked} == {"known", "ink"}
    ink = [row for row in asked if row["table"] == "ink"]
    assert 2 <= len(ink) <= 16
    assert all(row["file_name"] == "a-2.png" for row in ink)


def test_spread_is_the_distance_of_images():
    images = np.zeros((3, 8, 8, 3), np.uint8)
    images[2] = 30
    # Of the three pairs, two are 30 apart.
    assert learning.spread(images) == 20.0
