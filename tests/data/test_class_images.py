import collections
import json

import pytest

from keras_sdft.data import add_to_record
from keras_sdft.data import check_disk_space
from keras_sdft.data import missing_class_images
from keras_sdft.data.sources.dreambooth import RECORD
from keras_sdft.data.sources.dreambooth import read_record


def test_an_empty_folder_needs_them_all(tmp_path):
    expected = [("seed-0000000007.png", 7), ("seed-0000000008.png", 8)]
    for folder in (tmp_path, tmp_path / "nowhere"):
        assert missing_class_images(folder, 2, seed=7) == expected
    assert list(tmp_path.iterdir()) == []


def test_all_images_count_and_used_seeds_are_left_out(tmp_path, write_image):
    write_image(tmp_path / "seed-0000000001.png")
    write_image(tmp_path / "my own dog.jpg")
    write_image(tmp_path / "more" / "a.png")
    (tmp_path / "seed-0000000002.png.123.tmp").write_bytes(b"half")
    (tmp_path / ".hidden.png").write_bytes(b"")
    seeds = [seed for _, seed in missing_class_images(tmp_path, 6)]
    assert seeds == [0, 2, 3]
    assert missing_class_images(tmp_path, 3) == []
    assert missing_class_images(tmp_path, 1) == []


def test_images_of_another_prompt_are_refused(tmp_path, write_image):
    write_image(tmp_path / "a.png")
    write_image(tmp_path / "seed-0000000000.png")
    add_to_record(
        tmp_path, {"file_name": "seed-0000000000.png", "text": "a cat"}
    )
    assert len(missing_class_images(tmp_path, 4, "a cat")) == 2
    with pytest.raises(ValueError, match="1 images in.*'a cat'.*'a dog'"):
        missing_class_images(tmp_path, 4, "a dog")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"num_images": 0}, "`num_class_images`.*>= 1"),
        ({"num_images": 2.5}, "`num_class_images`"),
        ({"num_images": 2, "seed": -1}, "`seed`"),
    ],
)
def test_bad_numbers_are_refused(tmp_path, options, words):
    with pytest.raises(ValueError, match=words):
        missing_class_images(tmp_path, **options)


def test_a_full_disk_is_refused_before_anything_is_made(tmp_path, monkeypatch):
    asked = []

    def usage(folder):
        asked.append(folder)
        return collections.namedtuple("usage", "free")(10_000_000)

    monkeypatch.setattr("shutil.disk_usage", usage)
    folder = tmp_path / "new" / "folder"
    # 512 * 512 * 3 + 4096 = 790,528 bytes an image.
    check_disk_space(folder, 12, 512, 512)
    with pytest.raises(OSError, match=r"`num_class_images` \(13 .*10.0 MB are"):
        check_disk_space(folder, 13, 512, 512)
    assert set(asked) == {str(tmp_path)} and not folder.exists()


def test_the_record_survives_a_line_that_was_cut(tmp_path):
    assert read_record(tmp_path) == {}
    add_to_record(tmp_path, {"file_name": "a.png", "text": "é", "seed": 1})
    path = tmp_path / RECORD
    path.write_bytes(path.read_bytes() + b'{"file_name": "b.p')
    add_to_record(tmp_path, {"file_name": "c.png", "text": "x", "seed": 3})
    add_to_record(tmp_path, {"file_name": "a.png", "text": "y", "seed": 1})
    assert read_record(tmp_path) == {
        "a.png": {"file_name": "a.png", "text": "y", "seed": 1},
        "c.png": {"file_name": "c.png", "text": "x", "seed": 3},
    }
    lines = path.read_text(encoding="utf-8").splitlines()
    assert len(lines) == 4 and json.loads(lines[0])["text"] == "é"
