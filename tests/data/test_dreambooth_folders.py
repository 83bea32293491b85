import json

import pytest

from keras_sdft.data import check_dreambooth_folders
from keras_sdft.data.sources.dreambooth import RECORD
from keras_sdft.data.sources.dreambooth import add_to_record
from keras_sdft.data.sources.dreambooth import read_record


@pytest.fixture
def folders(tmp_path, write_image):
    for index in range(4):
        write_image(tmp_path / "photos" / f"{index}.png", index)
    for index in range(6):
        write_image(tmp_path / "class" / f"{index}.png", 100 + index)
    return tmp_path


def check(folders, instance="photos", others="class", prompt="a dog", **more):
    return check_dreambooth_folders(
        folders / instance, folders / others, prompt, **more
    )


def test_good_folders_are_counted_without_a_word(folders, caplog):
    assert check(folders) == (4, 6)
    assert check_dreambooth_folders(folders / "photos") == (4, 0)
    assert not caplog.records


def test_without_a_class_prompt_the_class_folder_is_not_used(folders, caplog):
    assert check(folders, prompt=None) == (4, 0)
    assert "`class_data_dir` is not used" in caplog.text


def test_the_same_folder_is_refused(folders):
    (folders / "link").symlink_to(folders / "photos")
    for others in ("photos", "photos/../photos", "link"):
        with pytest.raises(ValueError, match="must be two folders.*the same"):
            check(folders, others=others)


def test_one_inside_the_other_is_refused(folders, write_image):
    write_image(folders / "photos" / "class" / "a.png", 9)
    with pytest.raises(ValueError, match="One is inside the other"):
        check(folders, others="photos/class")
    with pytest.raises(ValueError, match="One is inside the other"):
        check(folders, instance="photos/class", others="photos")
    # Also where it would only be made.
    with pytest.raises(ValueError, match="One is inside the other"):
        check(folders, others="photos/new", num_class_images=10)


def test_names_that_begin_alike_are_not_inside(folders, write_image):
    write_image(folders / "photos2" / "a.png", 77)
    assert check(folders, others="photos2") == (4, 1)


def test_shared_images_are_refused_by_name(folders):
    bytes_of_two = (folders / "photos" / "2.png").read_bytes()
    (folders / "class" / "other name.png").write_bytes(bytes_of_two)
    with pytest.raises(
        ValueError, match="1 photos that are in both.*2.png = .*other name"
    ):
        check(folders)


@pytest.mark.usefixtures("without_heif")
def test_no_photos_are_refused(folders):
    (folders / "empty").mkdir()
    (folders / "empty" / "a.heic").write_bytes(b"x")
    with pytest.raises(
        ValueError, match="`instance_data_dir` holds no images.*1 other.*.webp"
    ):
        check(folders, instance="empty")
    with pytest.raises(FileNotFoundError, match="`instance_data_dir`.*nowhere"):
        check(folders, instance="nowhere")


def test_class_images_may_be_still_to_come(folders):
    (folders / "empty").mkdir()
    for others in ("empty", "nowhere"):
        assert check(folders, others=others, num_class_images=5) == (4, 0)
    with pytest.raises(ValueError, match="`class_data_dir` holds no images"):
        check(folders, others="empty")
    with pytest.raises(FileNotFoundError, match="`class_data_dir`"):
        check(folders, others="nowhere")


def test_a_class_prompt_needs_a_folder(folders):
    with pytest.raises(ValueError, match="needs `class_data_dir`"):
        check_dreambooth_folders(folders / "photos", class_prompt="a dog")


def test_one_photo_is_warned_of(tmp_path, write_image, caplog):
    write_image(tmp_path / "photos" / "a.png")
    assert check_dreambooth_folders(tmp_path / "photos") == (1, 0)
    assert "holds one photo" in caplog.text


@pytest.mark.parametrize("count", [201, 1000])
def test_many_photos_look_like_a_data_set(tmp_path, caplog, monkeypatch, count):
    names = [f"{index}.jpg" for index in range(count)]
    monkeypatch.setattr(
        "keras_sdft.data.sources.dreambooth.walk", lambda folder: names
    )
    assert check_dreambooth_folders(tmp_path) == (count, 0)
    assert f"{count} photos" in caplog.text
    assert "keras-sdft train" in caplog.text


def test_ten_thousand_photos_are_refused(tmp_path, monkeypatch):
    names = [f"{index}.jpg" for index in range(10_000)]
    monkeypatch.setattr(
        "keras_sdft.data.sources.dreambooth.walk", lambda folder: names
    )
    with pytest.raises(ValueError, match="at most 1000 .* Received: 10000"):
        check_dreambooth_folders(tmp_path)


@pytest.fixture
def few_and_many(tmp_path):
    for name, count in (("many", 200), ("few", 5)):
        (tmp_path / name).mkdir()
        for index in range(count):
            (tmp_path / name / f"{index}.jpg").write_text(f"{name} {index}")
    return tmp_path


def record(folder, names):
    for name in names:
        add_to_record(folder, {"file_name": name, "text": "a dog", "seed": 0})


@pytest.mark.parametrize("asked", [None, 200, 300])
def test_swapped_folders_are_refused(few_and_many, caplog, asked):
    right = check(few_and_many, "few", "many", num_class_images=asked)
    assert right == (5, 200)
    assert not caplog.records
    with pytest.raises(ValueError, match="200 photos in .*many.* 5 class"):
        check(few_and_many, "many", "few", num_class_images=asked)


def test_class_images_that_were_generated_may_be_few(few_and_many):
    record(few_and_many / "few", [f"{index}.jpg" for index in range(5)])
    found = check(few_and_many, "many", "few", num_class_images=300)
    assert found == (200, 5)


def test_generated_class_images_are_no_photos(few_and_many):
    record(few_and_many / "few", ["3.jpg"])
    with pytest.raises(ValueError, match="generated as class images: '3.jpg'"):
        check(few_and_many, "few", "many")


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
