import logging

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from keras_sdft.data import Report
from keras_sdft.data import load
from keras_sdft.data import read_examples
from keras_sdft.data.buckets import assign
from keras_sdft.data.buckets import bucket_sizes
from keras_sdft.data.buckets import nearest_sizes
from keras_sdft.data.options import LoadOptions


def picture(height, width, value=None):
    if value is not None:
        return np.full((height, width, 3), value, np.uint8)
    draws = np.random.default_rng(height * 1000 + width)
    return draws.integers(0, 256, (height, width, 3), np.uint8)


# At 256: 7 squares, 3 wide ones, 1 upright one.
@pytest.fixture
def pairs():
    shapes = [(80, 80)] * 7 + [(60, 110)] * 3 + [(110, 60)]
    return [
        (picture(*shape, value=10 * index), f"number {index}")
        for index, shape in enumerate(shapes)
    ]


def test_sizes_of_512():
    sizes = bucket_sizes(LoadOptions(buckets=True))
    # Cells of 64: 8x8 is 64 of them, none is more.
    cells = [(height // 64, width // 64) for height, width in sizes]
    assert cells == [
        (12, 5),
        (11, 5),
        (10, 6),
        (9, 7),
        (8, 8),
        (7, 9),
        (6, 10),
        (5, 11),
        (5, 12),
    ]


@pytest.mark.parametrize("size", [(512, 512), (768, 768), (448, 640)])
@pytest.mark.parametrize("ratio", [1.0, 2.0, 4.0])
def test_limits_hold(size, ratio):
    options = LoadOptions(
        resolution=size,
        buckets=True,
        bucket_max_aspect_ratio=ratio,
        bucket_min_side=320,
        bucket_max_side=1024,
    )
    sizes = bucket_sizes(options)
    assert size in sizes and len(set(sizes)) == len(sizes)
    for height, width in set(sizes) - {size}:
        assert height % 64 == 0 and width % 64 == 0
        assert height * width <= size[0] * size[1]
        assert 320 <= min(height, width) <= max(height, width) <= 1024
        assert max(height, width) / min(height, width) <= ratio


def test_the_resolution_must_be_inside_the_limits(tokenizer):
    with pytest.raises(ValueError, match="min_side=320"):
        load(
            [(picture(8, 8), "")],
            tokenizer,
            resolution=256,
            buckets=True,
            bucket_min_side=320,
        )


def test_the_nearest_aspect_ratio_in_proportion():
    table = ((256, 256), (192, 320), (320, 192), (128, 512))
    sizes = [
        (1000, 1000),
        (1000, 1280),  # 1.28 is nearer to 1 than to 1.67
        (1000, 1300),  # 1.30 is past their geometric mean, 1.291
        (1300, 1000),
        (100, 1000),
        # As far from 1.667 as from 4: the larger area.
        (1000, round(1000 * (5 / 3 * 4) ** 0.5)),
    ]
    found = nearest_sizes(sizes, table)
    assert found.tolist()[:5] == [0, 0, 1, 2, 3]
    assert nearest_sizes([(6, 10)], ((64, 128), (128, 256))).tolist() == [1]


def greys(batch):
    images = batch["images"].numpy()
    return [round((image[0, 0, 0] + 1) * 12.75) for image in images]


def test_batches_of_buckets(pairs, tokenizer):
    dataset = load(pairs, tokenizer, resolution=256, batch_size=4, buckets=True)
    assert dataset.element_spec == {
        "images": tf.TensorSpec((4, None, None, 3), tf.float32),
        "token_ids": tf.TensorSpec((4, 77), tf.int32),
        "example_weight": tf.TensorSpec((4,), tf.float32),
    }
    assert dataset.cardinality() == 4
    for _ in range(2):
        weights = np.zeros(11)
        shapes = []
        for batch in dataset:
            shapes.append(tuple(batch["images"].shape))
            for number, weight, ids in zip(
                greys(batch),
                batch["example_weight"].numpy(),
                batch["token_ids"].numpy(),
                strict=True,
            ):
                weights[number] += weight
                expected = tokenizer.pad(tokenizer.encode(f"number {number}"))
                np.testing.assert_array_equal(ids, expected)
        # Every example counts alike, and their mean over 16 places is one.
        np.testing.assert_allclose(weights, 16 / 11, rtol=1e-6)
        assert sorted(shapes) == [
            (4, 192, 320, 3),
            (4, 256, 256, 3),
            (4, 256, 256, 3),
            (4, 320, 192, 3),
        ]


def test_an_endless_stream_equals_the_epochs(pairs, tokenizer):
    options = {"resolution": 256, "batch_size": 4, "buckets": True}
    stream = load(pairs, tokenizer, repeat=True, start=(1, 0), **options)
    passes = load(pairs, tokenizer, start=(1, 0), **options)
    expected = [batch for _ in range(2) for batch in passes]
    for one, other in zip(stream.take(8), expected, strict=True):
        np.testing.assert_array_equal(one["images"], other["images"])
        np.testing.assert_array_equal(
            one["example_weight"], other["example_weight"]
        )


def test_copies_in_one_epoch_are_cropped_each_in_their_own_way(tokenizer):
    dataset = load(
        [(picture(70, 400), "")],
        tokenizer,
        resolution=256,
        batch_size=2,
        crop="random",
        buckets=True,
    )
    (batch,) = dataset
    assert batch["images"].shape == (2, 192, 320, 3)
    assert not np.array_equal(batch["images"][0], batch["images"][1])
    assert batch["example_weight"].numpy().tolist() == [1.0, 1.0]


def test_one_used_bucket_is_a_static_shape(tokenizer):
    dataset = load(
        [(picture(60, 110), "")] * 4,
        tokenizer,
        resolution=256,
        batch_size=2,
        buckets=True,
    )
    assert dataset.element_spec["images"].shape == (2, 192, 320, 3)


def test_an_image_lies_as_its_exif_orientation_says(tmp_path, tokenizer):
    exif = Image.Exif()
    exif[0x0112] = 6
    path = tmp_path / "a.jpg"
    Image.fromarray(picture(60, 110)).save(path, exif=exif)
    (batch,) = load(
        [(path, "")], tokenizer, resolution=256, batch_size=1, buckets=True
    )
    assert batch["images"].shape == (1, 320, 192, 3)


def test_dropped_remainders_are_counted(pairs, tokenizer, caplog):
    options = {"resolution": 256, "buckets": True, "drop_remainder": True}
    dataset = load(pairs, tokenizer, batch_size=3, **options)
    assert dataset.cardinality() == 3
    assert "leaves 2 of 11 images out of each epoch" in caplog.text
    assert "1 of them always" in caplog.text
    with pytest.raises(ValueError, match="320x192: 3.*256x256: 7|256x256: 7"):
        load(pairs, tokenizer, batch_size=8, **options)


def test_the_table_of_buckets_is_logged(pairs, tokenizer, caplog):
    with caplog.at_level(logging.INFO, logger="keras_sdft"):
        load(pairs, tokenizer, resolution=256, buckets=True)
    assert "3 buckets" in caplog.text
    assert "320x192: 3" in caplog.text and "256x256: 7" in caplog.text


def test_an_image_that_is_lost_is_replaced_at_its_bucket_s_size(
    tmp_path, tokenizer
):
    paths = []
    for index, shape in enumerate([(80, 80), (60, 110)]):
        paths.append(tmp_path / f"{index}.png")
        Image.fromarray(picture(*shape, value=100)).save(paths[-1])
    report = Report()
    dataset = load(
        [(path, "") for path in paths],
        tokenizer,
        resolution=256,
        batch_size=1,
        buckets=True,
        report=report,
    )
    paths[1].unlink()
    shapes = sorted(tuple(batch["images"].shape) for batch in dataset)
    assert shapes == [(1, 192, 320, 3), (1, 256, 256, 3)]
    assert len(report) == 1


def test_an_image_that_cannot_be_read_goes_to_the_resolution():
    examples = read_examples([(b"", "a"), (picture(60, 110), "b")])
    found = assign(examples, LoadOptions(resolution=256, buckets=True))
    sizes = [found.sizes[bucket] for bucket in found.bucket_of]
    assert sizes == [(256, 256), (192, 320)]


def test_a_resolution_too_small_for_buckets_is_warned_of(tokenizer, caplog):
    dataset = load(
        [(picture(60, 110), "")],
        tokenizer,
        resolution=128,
        batch_size=1,
        buckets=True,
    )
    assert dataset.element_spec["images"].shape == (1, 128, 128, 3)
    assert "Buckets change nothing: at 128x128" in caplog.text
