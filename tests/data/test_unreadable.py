import re

import numpy as np
import pytest

from keras_sdft.data import load
from keras_sdft.data import unreadable
from keras_sdft.data.examples import Columns
from keras_sdft.data.examples import Examples
from keras_sdft.data.options import LoadOptions
from keras_sdft.data.report import Report
from keras_sdft.data.unreadable import drop_unreadable


def options(max_unreadable):
    return LoadOptions(resolution=64, max_unreadable=max_unreadable)


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
    report = Report()
    left = drop_unreadable(twenty, options(0.1), report)
    assert len(left) == 18
    assert {example.name for example in left}.isdisjoint({"03.png", "11.png"})
    assert [image for image, _ in report.rows] == ["03.png", "11.png"]
    assert "empty" in report.rows[0][1]
    assert len(report) == 2
    # All are of 64x64 pixels.
    assert not left.notes


def test_enlarged_images_are_noted(tmp_path, write_image):
    write_image(tmp_path / "a.png", size=(64, 64))
    write_image(tmp_path / "b.png", size=(300, 300))
    write_image(tmp_path / "c.png", size=(32, 640))
    for buckets, text in (
        (False, "2 of 3 images are enlarged to 256x256.*8.0 times .c.png, 32x"),
        (True, "2 of 3 images are enlarged.* by up to 4.0 times .a.png"),
    ):
        columns = Columns(str(tmp_path), ["a.png", "b.png", "c.png"], ["x"] * 3)
        examples = drop_unreadable(
            Examples(columns),
            LoadOptions(resolution=256, buckets=buckets),
            Report(),
        )
        assert not examples.left_out
        assert re.search(text, examples.notes[0])


def test_too_many_unreadable_images_stop_with_a_table(twenty):
    report = Report()
    with pytest.raises(ValueError) as error:
        drop_unreadable(twenty, options(0.09), report)
    text = str(error.value)
    assert "2 of 20 images" in text and "max_unreadable=0.09" in text
    assert "03.png  the file is empty" in text and "11.png" in text
    assert len(report) == 2


def test_a_large_set_is_sampled_evenly(twenty, monkeypatch):
    report = Report()
    # Records 0, 3, 7, 11, 15 and 19 of twenty.
    monkeypatch.setattr(unreadable, "CHECK_LIMIT", 6)
    left = drop_unreadable(twenty, options(1.0), report)
    assert len(left) == 18 and len(report) == 2
    monkeypatch.setattr(unreadable, "CHECK_LIMIT", 2)
    left = drop_unreadable(twenty, options(0.0), Report())
    assert len(left) == 20


def test_repeats_are_checked_once_and_dropped_together(twenty):
    repeated = Examples(twenty.records, np.repeat(np.arange(20), 5))
    report = Report()
    left = drop_unreadable(repeated, options(0.1), report)
    assert len(left) == 90 and len(report) == 2


def test_report_keeps_one_row_an_image_and_writes_csv(tmp_path):
    report = Report()
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
    assert Report().table() == ""


@pytest.mark.usefixtures("without_heif")
def test_the_summary_says_what_was_found_used_and_left_out(
    tmp_path, write_image, tokenizer, caplog
):
    for name in ("a", "b", "c"):
        write_image(tmp_path / f"{name}.png", size=(64, 64))
        (tmp_path / f"{name}.txt").write_text(f"{name} one\n{name} two\n")
    (tmp_path / "c.png").write_bytes(b"broken")
    for name in ("d.heic", "e.jxl"):
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "d.txt").write_text("d")
    report = Report()
    options = {"resolution": 256, "max_unreadable": 0.5, "batch_size": 1}
    load(tmp_path, tokenizer, report=report, **options)
    assert not caplog.records
    lines = report.summary().splitlines()
    assert lines[0] == f"{tmp_path}: 5 images found, 2 used"
    assert "2 in formats that are not read" in lines[1]
    assert "pip install pillow-heif" in lines[1] and "'e.jxl'" in lines[1]
    assert "1 that cannot be read: 'c.png'" in lines[2]
    assert "3 caption files have several lines, 2.0 on average" in lines[3]
    assert "'a one'" in lines[3]
    assert "2 of 3 images are enlarged" in lines[4]
    # Without a report, what is left out is logged where it is seen.
    load(tmp_path, tokenizer, **options)
    assert "5 images found, 2 used" in caplog.text


def test_validation_that_shares_images_is_noted(
    tmp_path, write_image, tokenizer
):
    for name in ("a", "b", "c"):
        write_image(tmp_path / "train" / f"{name}.png", ord(name))
        (tmp_path / "train" / f"{name}.txt").write_text(name)
    write_image(tmp_path / "held" / "other.png", ord("b"))
    write_image(tmp_path / "held" / "new.png", 3)
    for name in ("other", "new"):
        (tmp_path / "held" / f"{name}.txt").write_text(name)
    report = Report()
    options = {"resolution": 64, "report": report, "batch_size": 1}
    load(tmp_path / "train", tokenizer, **options)
    assert report.compare_held_out() == 0
    load(tmp_path / "held", tokenizer, **options)
    assert report.compare_held_out() == 1
    assert "1 of its 2 images are trained on" in report.summary()
    assert "other.png" in report.sources[-1].notes[-1]
