import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds

from keras_sdft.data import Report
from keras_sdft.data import load
from keras_sdft.data import read_examples
from keras_sdft.data.images import UnreadableImage
from keras_sdft.data.sources.tfds import TfRecords
from keras_sdft.data.sources.tfds import index_tfrecord
from keras_sdft.data.sources.tfds import split_name


class TinyCaptioned(tfds.core.GeneratorBasedBuilder):
    """Pictures of one grey; picture i is grey i, caption "number i"."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        return tfds.core.DatasetInfo(
            builder=self,
            features=tfds.features.FeaturesDict(
                {
                    "photo": tfds.features.Image(shape=(None, None, 3)),
                    "label": np.int64,
                    "title": tfds.features.Text(),
                    "captions": tfds.features.Sequence(
                        {"text": tfds.features.Text(), "id": np.int64}
                    ),
                }
            ),
        )

    def _split_generators(self, manager):
        return {"train": self._generate(0, 12), "test": self._generate(100, 4)}

    def _generate_examples(self):
        raise NotImplementedError

    def _generate(self, start, count):
        for i in range(start, start + count):
            yield (
                i,
                {
                    "photo": np.full((70, 80, 3), i, np.uint8),
                    "label": i,
                    "title": f"number {i}",
                    "captions": [
                        {"text": f"one {i}", "id": 0},
                        {"text": f"two {i}", "id": 1},
                    ],
                },
            )


@pytest.fixture(scope="module", params=["tfrecord", "array_record"])
def builder(request, tmp_path_factory):
    path = tmp_path_factory.mktemp(request.param)
    builder = TinyCaptioned(data_dir=path, file_format=request.param)
    config = tfds.download.DownloadConfig(num_shards=3)
    builder.download_and_prepare(download_config=config)
    return builder


def numbers_of(examples):
    return sorted(int(e.captions[0].split()[-1]) for e in examples)


def test_features_are_found_and_images_stay_encoded(builder):
    examples = read_examples(builder, caption_column="title")
    assert numbers_of(examples) == list(range(12))
    assert all(isinstance(example.image, bytes) for example in examples)
    assert "tiny_captioned/1.0.0:train[0]" in examples[0].name


@pytest.mark.parametrize(
    ("split", "count"), [("test", 4), ("train[:5]", 5), ("train[50%:]", 6)]
)
def test_splits_and_parts_of_them(builder, split, count):
    whole = [e.image for e in read_examples(builder, caption_column="title")]
    part = read_examples(builder, split=split, caption_column="title")
    assert len(part) == count
    if split == "train[:5]":
        assert [example.image for example in part] == whole[:5]


def test_nested_text_gives_several_captions(builder):
    example = read_examples(builder, caption_column="captions/text")[0]
    first, second = example.captions
    assert first.split() == ["one", second.split()[1]]


def test_batches_show_each_picture_with_its_caption(builder, tokenizer):
    dataset = load(
        builder,
        tokenizer,
        resolution=64,
        batch_size=4,
        caption_column="title",
    )
    seen = []
    for batch in dataset:
        greys = (batch["images"][:, 0, 0, 0].numpy() + 1) * 127.5
        for grey, ids in zip(greys, batch["token_ids"].numpy(), strict=True):
            number = round(float(grey))
            expected = tokenizer.pad(tokenizer.encode(f"number {number}"))
            assert (ids == expected).all()
            seen.append(number)
    assert sorted(seen) == list(range(12)) and seen != sorted(seen)


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({}, "one of the dataset's text features.*Received: .*'text'"),
        ({"caption_column": "titel"}, "Did you mean 'title'"),
        (
            {"caption_column": "title", "image_column": "foto"},
            "Did you mean 'photo'",
        ),
        ({"caption_column": "title", "split": "val"}, "no split 'val'"),
        ({"caption_column": "title", "reader": "x"}, "`reader`"),
    ],
)
def test_unknown_features_and_splits_are_refused(builder, columns, words):
    with pytest.raises(ValueError, match=words):
        read_examples(builder, **columns)


def test_dataset_by_name(builder, monkeypatch):
    monkeypatch.setattr(tfds, "builder", lambda name: {"tiny": builder}[name])
    examples = read_examples("tfds:tiny:train[:3]", caption_column="title")
    assert len(examples) == 3
    assert len(read_examples("tfds:tiny", caption_column="title")) == 12


def test_unknown_dataset_is_refused():
    with pytest.raises(ValueError, match="no dataset 'no_such_thing'"):
        read_examples("tfds:no_such_thing")


@pytest.mark.parametrize(
    ("source", "name", "split"),
    [
        ("tfds:coco_captions", "coco_captions", None),
        ("tfds:coco_captions:val", "coco_captions", "val"),
        ("tfds:a/b:1.0.0", "a/b:1.0.0", None),
        ("tfds:a/b:1.*.*:train[:10%]", "a/b:1.*.*", "train[:10%]"),
        ("tfds:a:train[2:5]", "a", "train[2:5]"),
    ],
)
def test_name_and_split(source, name, split):
    assert split_name(source) == (name, split)


@pytest.fixture
def tfrecord(tmp_path):
    path = tmp_path / "x.tfrecord"
    with tf.io.TFRecordWriter(str(path)) as writer:
        for count in (5, 64, 100, 3000):
            writer.write(bytes(index % 251 for index in range(count)))
    return path


def test_truncated_tfrecord_is_refused(tfrecord):
    assert index_tfrecord(str(tfrecord)).tolist() == [0, 21, 101, 217]
    tfrecord.write_bytes(tfrecord.read_bytes()[:500])
    with pytest.raises(ValueError, match="ends within a record.*500.*3233"):
        index_tfrecord(str(tfrecord))


def test_a_flipped_bit_of_a_tfrecord_is_found(tfrecord):
    class Features:
        def deserialize_example_np(self, data, decoders):
            return data

    def records_of(offsets):
        files = [str(tfrecord)], np.zeros(len(offsets), int)
        return TfRecords(*files, offsets, Features(), {})

    data = tfrecord.read_bytes()
    offsets = index_tfrecord(str(tfrecord))
    records = records_of(offsets)
    assert [len(record) for record in records] == [5, 64, 100, 3000]
    for place in np.random.default_rng(0).integers(0, len(data) * 8, 150):
        damaged = bytearray(data)
        damaged[place // 8] ^= 1 << place % 8
        tfrecord.write_bytes(damaged)
        index = np.searchsorted(offsets, place // 8, side="right") - 1
        with pytest.raises(UnreadableImage, match=r"x.tfrecord: corrupted rec"):
            records[index]
        if place // 8 - offsets[index] < 8:
            with pytest.raises(ValueError, match="within a rec|corrupted rec"):
                list(records_of(index_tfrecord(str(tfrecord))))
    tfrecord.unlink()
    with pytest.raises(UnreadableImage, match="No such file"):
        records[0]


def test_a_damaged_record_is_left_out_and_told(tmp_path, tokenizer):
    builder = TinyCaptioned(data_dir=tmp_path, file_format="tfrecord")
    builder.download_and_prepare()
    (path,) = tmp_path.rglob("*train*tfrecord*")
    offsets = index_tfrecord(str(path))
    data = bytearray(path.read_bytes())
    data[(offsets[3] + offsets[4]) // 2] ^= 4
    path.write_bytes(data)
    report = Report()
    dataset = load(
        builder,
        tokenizer,
        caption_column="title",
        resolution=64,
        batch_size=11,
        report=report,
    )
    (batch,) = dataset
    assert (batch["example_weight"].numpy() == 1).all()
    ((_, reason),) = report.rows
    assert "corrupted record" in reason
