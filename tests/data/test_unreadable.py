import numpy as np
import pytest

from keras_sdft.data.examples import Columns
from keras_sdft.data.examples import Examples
from keras_sdft.data.unreadable import Unreadable
from keras_sdft.data.unreadable import drop_unreadable


@pytest.fixture
def twenty(tmp_path, write_image):
    """Twenty pictures, of which the fourth and the twelfth are no pictures."""
    names = [f"{i:02}.png" for i in range(20)]
    for name in names:
        write_image(tmp_path / name)
    (tmp_path / names[3]).write_bytes(b"")
    (tmp_path / names[11]).write_bytes(b"no picture")
    return Examples(Columns(str(tmp_path), names, ["a"] * 20))


def test_unreadable_images_are_dropped_and_reported(twenty):
    report = Unreadable()
    left = drop_unreadable(twenty, (64, 64), report, 0.1)
    assert len(left) == 18
    assert {example.name for example in left}.isdisjoint({"03.png", "11.png"})
    assert [image for image, _ in report.rows] == ["03.png", "11.png"]
    assert "empty" in report.rows[0][1]
    assert len(report) == 2


def test_too_many_unreadable_images_stop_with_a_table(twenty):
    report = Unreadable()
    with pytest.raises(ValueError) as error:
        drop_unreadable(twenty, (64, 64), report, 0.09)
    text = str(error.value)
    assert "2 of 20 images" in text and "max_unreadable=0.09" in text
    assert "03.png  the file is empty" in text and "11.png" in text
    assert len(report) == 2


def test_a_large_set_is_sampled_evenly(twenty):
    report = Unreadable()
    # Records 0, 3, 7, 11, 15 and 19 of twenty.
    left = drop_unreadable(twenty, (64, 64), report, 1.0, limit=6)
    assert len(left) == 18 and len(report) == 2
    left = drop_unreadable(twenty, (64, 64), Unreadable(), 0.0, limit=2)
    assert len(left) == 20


def test_repeats_are_checked_once_and_dropped_together(twenty):
    repeated = Examples(twenty.records, np.repeat(np.arange(20), 5))
    report = Unreadable()
    left = drop_unreadable(repeated, (64, 64), report, 0.1)
    assert len(left) == 90 and len(report) == 2


def test_report_keeps_one_row_an_image_and_writes_csv(tmp_path):
    report = Unreadable()
    assert report.add("b.png", 'a "reason", long')
    assert report.add("a.png", "zero")
    assert not report.add("b.png", "again")
    assert report.rows == [("b.png", 'a "reason", long'), ("a.png", "zero")]
    assert report.table().splitlines()[1] == "a.png  zero"
    assert report.table(1).splitlines()[1] == "... and 1 more"
    report.write(tmp_path / "report.csv")
    lines = (tmp_path / "report.csv").read_text().splitlines()
    assert lines == ["image,reason", 'b.png,"a ""reason"", long"', "a.png,zero"]


def test_empty_report_is_an_empty_table():
    assert Unreadable().table() == ""
