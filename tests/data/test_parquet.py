import io
import os

import numpy as np
import pyarrow
import pytest
from PIL import Image
from pyarrow import parquet

from keras_sdft.data import read_examples
from keras_sdft.data import validation_split
from keras_sdft.data.sources import parquet as source


@pytest.fixture(autouse=True)
def unpacked(tmp_path, monkeypatch):
    """The folder of what was unpacked; of this test alone."""
    monkeypatch.setattr(source, "FOLDER", str(tmp_path / "unpacked"))
    return tmp_path / "unpacked"


def image_bytes(value, form="JPEG"):
    file = io.BytesIO()
    Image.fromarray(np.full((32, 48, 3), value, np.uint8)).save(file, form)
    return file.getvalue()


@pytest.fixture
def write(tmp_path):
    """Writes rows of images and captions as the Hub keeps them."""

    def write(name, values, **columns):
        path = tmp_path / "data" / name
        path.parent.mkdir(exist_ok=True, parents=True)
        images = [
            {"bytes": image_bytes(value), "path": f"{value}.jpg"}
            for value in values
        ]
        captions = [f"grey {value}" for value in values]
        columns = {"image": images, "text": captions, **columns}
        parquet.write_table(pyarrow.table(columns), path, row_group_size=2)
        return path

    return write


def test_the_shards_of_a_split_are_one_set(write, tmp_path, unpacked):
    write("train-00000-of-00002-abc.parquet", [0, 50, 100])
    write("train-00001-of-00002-abc.parquet", [150])
    write("validation-00000-of-00001.parquet", [200])
    folder = tmp_path / "data"
    examples = read_examples(folder)
    assert [e.captions for e in examples] == [
        (f"grey {value}",) for value in (0, 50, 100, 150)
    ]
    with Image.open(examples[2].image) as image:
        assert image.size == (48, 32) and image.getpixel((0, 0)) == (100,) * 3
    assert validation_split(folder) == "validation"
    held_out = read_examples(folder, split="validation")
    assert [e.captions for e in held_out] == [("grey 200",)]
    made = sorted(os.listdir(unpacked))
    assert len(made) == 2
    read_examples(folder)
    assert sorted(os.listdir(unpacked)) == made
    with pytest.raises(ValueError, match=r"no split 'test'.*\['train', 'val"):
        read_examples(folder, split="test")


def test_other_columns_are_the_tables(write):
    path = write(
        "all.parquet",
        [10, 20],
        caption=[["one", "two"], ["three"]],
        times=[3, 0],
        size=[{"width": 1}, {"width": 2}],
    )
    assert validation_split(path) is None
    examples = read_examples(path, caption_column="caption", repeats="times")
    assert [e.captions for e in examples] == [("one", "two")] * 3
    with pytest.raises(ValueError, match="has no column 'words'"):
        read_examples(path, caption_column="words")


def test_the_column_of_images_is_named_where_there_are_several(write, tmp_path):
    data = [image_bytes(77, "PNG")]
    path = write("two.parquet", [10], mask=data)
    with pytest.raises(ValueError, match=r"hold bytes: \['image', 'mask'\]"):
        read_examples(path)
    (example,) = read_examples(path, image_column="mask")
    assert example.image.endswith(".png")
    with pytest.raises(ValueError, match="Did you mean 'image'"):
        read_examples(path, image_column="imag")
    parquet.write_table(pyarrow.table({"text": ["a"]}), tmp_path / "no.parquet")
    with pytest.raises(ValueError, match=r"hold bytes: \[\]; all: \['text'\]"):
        read_examples(tmp_path / "no.parquet")


def test_what_is_not_whole_is_refused_and_leaves_nothing(write, unpacked):
    image = [{"bytes": None, "path": "/somewhere/a.jpg"}]
    path = write("paths.parquet", [0], image=image)
    with pytest.raises(ValueError, match="1 of 1 rows hold no image.*row 0 of"):
        read_examples(path)
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(ValueError, match="is damaged, or no parquet file"):
        read_examples(path)
    assert not unpacked.exists() or not os.listdir(unpacked)


def test_what_fills_the_memory_is_refused(write, unpacked):
    bomb = [{"bytes": bytes(80 * 2**20), "path": "a.png"}]
    path = write("bomb.parquet", [0], image=bomb)
    with pytest.raises(ValueError, match=r"bomb.*'image.bytes'.*budget"):
        read_examples(path)
    assert not unpacked.exists() or not os.listdir(unpacked)


def test_formats_that_start_a_program_are_not_opened(write, unpacked):
    data = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"
    path = write("eps.parquet", [0], image=[{"bytes": data, "path": None}])
    # Pillow would open it, by its content; it is one that cannot be read.
    (example,) = read_examples(path)
    assert example.image.endswith(".png")


def test_a_data_set_of_the_hub_is_parquet(write, hub_server, tmp_path):
    write("train-00000-of-00001.parquet", [0, 50])
    (tmp_path / "data" / "README.md").write_text("# Greys")
    hub_server.repos["datasets/me/greys"] = tmp_path / "data"
    examples = read_examples("hf://me/greys")
    assert [e.captions for e in examples] == [("grey 0",), ("grey 50",)]
    assert hub_server.asked == ["train-00000-of-00001.parquet"]
