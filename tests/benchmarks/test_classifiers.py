import numpy as np
import pytest

from benchmarks import _classifiers


def picture(colour, shape="square", side=32):
    image = np.full((side, side, 3), 255, np.uint8)
    if shape == "square":
        image[8:24, 8:24] = colour
    else:
        image[4:28, 14:18] = colour
    return image


def test_statistics_count_pixels():
    black = dict(
        zip(
            _classifiers.STATISTICS,
            _classifiers.statistics(picture((0, 0, 0))[None])[0],
            strict=True,
        )
    )
    # 16 x 16 of 32 x 32 pixels.
    assert black["dark share"] == 0.25
    assert black["white share"] == 0.75
    assert black["grey share"] == black["coloured share"] == 0.0
    red = _classifiers.statistics(picture((255, 0, 0))[None])[0]
    assert red[_classifiers.STATISTICS.index("coloured share")] == 0.25
    assert red[_classifiers.STATISTICS.index("mean saturation")] == 0.25


def test_the_style_classifier_tells_ink_from_colour():
    generator = np.random.default_rng(0)
    colours = np.stack(
        [picture(generator.integers(80, 255, 3)) for _ in range(40)]
    )
    ink = np.stack([picture(generator.integers(0, 60, 3)) for _ in range(40)])
    classifier = _classifiers.StyleClassifier(colours[:30], ink[:30])
    assert (classifier(colours[30:]) < 0.5).all()
    assert (classifier(ink[30:]) > 0.5).all()


@pytest.mark.slow
def test_the_subject_classifier_names_what_it_was_taught():
    generator = np.random.default_rng(0)
    shapes = ["square", "bar"] * 32
    images = np.stack(
        [picture(generator.integers(0, 200, 3), s, 64) for s in shapes]
    )
    classifier = _classifiers.SubjectClassifier(
        images, shapes, epochs=60, verbose=0
    )
    others = np.stack([picture((9, 99, 9), s, 64) for s in ("square", "bar")])
    assert classifier.rank(others, ["square", "bar"]).tolist() == [0, 0]
    assert classifier.rank(others, ["bar", "square"]).tolist() == [1, 1]
