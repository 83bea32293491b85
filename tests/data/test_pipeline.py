import logging

import numpy as np
import pytest
import tensorflow as tf

from keras_sdft.data import Example
from keras_sdft.data import LoadOptions
from keras_sdft.data import Report
from keras_sdft.data import load
from keras_sdft.data.epochs import EpochPlan

OPTIONS = {
    "resolution": 64,
    "batch_size": 3,
    "crop": "random",
    "horizontal_flip": True,
    "caption_template": ["a {caption}", "the {caption}"],
    "caption_dropout": 0.3,
}


@pytest.fixture
def pairs():
    """Ten pictures of noise, larger than the resolution, two captions each."""
    draws = np.random.default_rng(0)
    return [
        (draws.integers(0, 256, (80, 100, 3), np.uint8), [f"x{i}", f"y{i}"])
        for i in range(10)
    ]


def epoch_order(epoch, count, used, seed, shuffle):
    """The rows of an epoch without buckets; `used` is what a batch gives."""
    options = LoadOptions(
        batch_size=used, seed=seed, shuffle=shuffle, drop_remainder=True
    )
    return EpochPlan(np.zeros(count, int), options)(epoch)


def arrays_of(dataset, batches=None):
    taken = dataset if batches is None else dataset.take(batches)
    return [
        {name: value.numpy() for name, value in batch.items()}
        for batch in taken
    ]


def assert_same(first, second):
    assert len(first) == len(second) > 0
    for one, other in zip(first, second, strict=True):
        assert one.keys() == other.keys()
        for name in one:
            np.testing.assert_array_equal(one[name], other[name])


def differ(first, second, name="images"):
    return not all(
        np.array_equal(one[name], other[name])
        for one, other in zip(first, second, strict=True)
    )


def numbers_of(dataset):
    """The pictures of `numbered` that a dataset shows, in order."""
    greys = [batch["images"][:, 0, 0, 0].numpy() for batch in dataset]
    return [round((grey + 1) * 12.75) for grey in np.concatenate(greys)]


def test_the_batch(numbered, tokenizer):
    dataset = load(numbered, tokenizer, resolution=(64, 128), batch_size=5)
    assert dataset.element_spec == {
        "images": tf.TensorSpec((5, 64, 128, 3), tf.float32),
        "token_ids": tf.TensorSpec((5, 77), tf.int32),
        "example_weight": tf.TensorSpec((5,), tf.float32),
    }
    assert dataset.cardinality() == 2
    batches = arrays_of(dataset)
    assert len(batches) == 2
    for batch in batches:
        assert batch["example_weight"].tolist() == [1.0] * 5
        for image, ids in zip(batch["images"], batch["token_ids"], strict=True):
            # Picture i is grey 10 * i and its caption is "number i".
            number = round((image[0, 0, 0] + 1) * 12.75)
            np.testing.assert_allclose(image, number / 12.75 - 1, atol=1e-6)
            expected = tokenizer.pad(tokenizer.encode(f"number {number}"))
            np.testing.assert_array_equal(ids, expected)


def test_scaling_reaches_both_ends(tokenizer):
    black_and_white = np.zeros((64, 64, 3), np.uint8)
    black_and_white[:, 32:] = 255
    (batch,) = load(
        [(black_and_white, "")], tokenizer, resolution=64, batch_size=1
    )
    assert batch["images"].numpy().min() == -1.0
    assert batch["images"].numpy().max() == 1.0
    assert batch["images"].dtype == tf.float32


def test_same_seed_same_batches(pairs, tokenizer):
    first = arrays_of(load(pairs, tokenizer, seed=5, **OPTIONS))
    second = arrays_of(load(pairs, tokenizer, seed=5, **OPTIONS))
    assert_same(first, second)
    other = arrays_of(load(pairs, tokenizer, seed=6, **OPTIONS))
    assert differ(first, other)


def test_later_epoch_equals_the_later_pass(pairs, tokenizer):
    dataset = load(pairs, tokenizer, **OPTIONS)
    passes = [arrays_of(dataset) for _ in range(3)]
    assert differ(passes[0], passes[1]) and differ(passes[1], passes[2])
    later = load(pairs, tokenizer, start=(1, 0), **OPTIONS)
    assert_same(arrays_of(later), passes[1])
    assert_same(arrays_of(later), passes[2])


@pytest.mark.parametrize("drop_remainder", [True, False])
def test_endless_stream_equals_the_epochs_after_each_other(
    pairs, tokenizer, drop_remainder
):
    options = {**OPTIONS, "drop_remainder": drop_remainder}
    stream = load(pairs, tokenizer, start=(2, 0), repeat=True, **options)
    assert stream.cardinality() == tf.data.INFINITE_CARDINALITY
    passes = load(pairs, tokenizer, start=(2, 0), **options)
    expected = [batch for _ in range(3) for batch in arrays_of(passes)]
    assert len(expected) == (9 if drop_remainder else 12)
    assert_same(arrays_of(stream, len(expected)), expected)
    # An endless stream begins at its epoch each time it is begun.
    assert_same(arrays_of(stream, 2), expected[:2])


def test_parallel_map_keeps_the_order_of_the_epoch(numbered, tokenizer):
    options = {"resolution": 64, "batch_size": 5, "seed": 3}
    shown = numbers_of(load(numbered, tokenizer, **options))
    order = epoch_order(0, count=10, used=10, seed=3, shuffle=True)
    assert shown == order[:, 0].tolist()
    assert sorted(shown) == list(range(10)) != shown


def test_without_shuffling_the_source_keeps_its_order(numbered, tokenizer):
    dataset = load(
        numbered,
        tokenizer,
        resolution=64,
        batch_size=5,
        shuffle=False,
    )
    assert dataset.cardinality() == 2
    assert numbers_of(dataset) == list(range(10))
    assert numbers_of(dataset) == list(range(10))


def test_a_short_last_batch_is_padded_with_rows_of_no_weight(pairs, tokenizer):
    dataset = load(pairs, tokenizer, **OPTIONS)
    assert dataset.cardinality() == 4
    assert dataset.element_spec["images"].shape == (3, 64, 64, 3)
    batches = arrays_of(dataset)
    weights = np.stack([batch["example_weight"] for batch in batches])
    assert weights.tolist() == [[1, 1, 1]] * 3 + [[1, 0, 0]]
    assert (batches[-1]["images"][1:] == -1).all()
    # What is shown is what a batch size that divides shows.
    whole = arrays_of(load(pairs, tokenizer, **{**OPTIONS, "batch_size": 5}))
    for name in whole[0]:
        shown = np.concatenate([batch[name] for batch in batches])[:10]
        expected = np.concatenate([batch[name] for batch in whole])
        np.testing.assert_array_equal(shown, expected)


def test_images_left_out_are_told(pairs, tokenizer, caplog):
    load(pairs, tokenizer, drop_remainder=True, **OPTIONS)
    assert "leaves 1 of 10 images out of each epoch" in caplog.text


@pytest.mark.parametrize("repeat", [False, True])
@pytest.mark.parametrize("buckets", [False, True])
def test_a_pass_begins_at_any_batch(tokenizer, repeat, buckets):
    noise = np.random.default_rng(0).integers
    source = [
        (noise(0, 256, (80, 80 + 60 * (n % 3 == 0), 3), np.uint8), f"n {n}")
        for n in range(10)
    ]
    options = {
        "resolution": 256,
        "batch_size": 4,
        "crop": "random",
        "buckets": buckets,
        "repeat": repeat,
    }
    plain = load(source, tokenizer, **options)
    shown = arrays_of(plain, 6) if repeat else arrays_of(plain)
    shown = shown if repeat else shown + arrays_of(plain)
    for epoch, batch in ((0, 1), (0, 2), (1, 0), (0, 3)):
        later = load(source, tokenizer, start=(epoch, batch), **options)
        first = 3 * epoch + batch
        if repeat:
            assert_same(arrays_of(later, 6 - first), shown[first:])
        else:
            assert int(later.cardinality()) == 3
            end = 3 * (epoch + 1)
            rest = arrays_of(later)
            assert len(rest) == end - first
            if rest:
                assert_same(rest, shown[first:end])
            if end == 3:
                assert_same(arrays_of(later), shown[3:])
    with pytest.raises(ValueError, match="an epoch has 3 batches"):
        load(source, tokenizer, start=(0, 4), **options)


def test_looking_at_batches_and_validating_are_no_passes(pairs, tokenizer):
    dataset = load(pairs, tokenizer, start=(1, 1), **OPTIONS)
    first, later = arrays_of(dataset), arrays_of(dataset)
    dataset.passes.begin()
    assert_same(arrays_of(dataset), first)
    dataset.passes.begin()
    with dataset.passes.validating():
        whole = arrays_of(load(pairs, tokenizer, **OPTIONS))
        assert_same(arrays_of(dataset), whole)
        assert_same(arrays_of(dataset), whole)
    assert_same(arrays_of(dataset), later)


def test_epochs_of_another_length_follow_each_other(pairs, tokenizer):
    stream = arrays_of(load(pairs, tokenizer, repeat=True, **OPTIONS), 10)
    for length in (2, 5):
        options = {**OPTIONS, "batches_per_epoch": length}
        dataset = load(pairs, tokenizer, **options)
        assert int(dataset.cardinality()) == length
        passes = [arrays_of(dataset) for _ in range(10 // length)]
        assert_same([batch for one in passes for batch in one], stream)
        later = load(pairs, tokenizer, start=(1, 1), **options)
        assert_same(arrays_of(later), passes[1][1:])
    with pytest.raises(ValueError, match="no effect with `repeat=True`"):
        load(pairs, tokenizer, repeat=True, **options)


@pytest.mark.parametrize("buckets", [False, True])
def test_workers_make_the_rows_of_one_worker_s_batches(
    tokenizer, buckets, tmp_path
):
    made = []

    class Watched:
        def __len__(self):
            return 10

        def __getitem__(self, index):
            made.append(index)
            width = 80 + 60 * (index % 3 == 0)
            draws = np.random.default_rng(index)
            return draws.integers(
                0, 256, (80, width, 3), np.uint8
            ), f"n {index}"

    options = {
        "resolution": 256,
        "batch_size": 4,
        "crop": "random",
        "buckets": buckets,
    }
    plain = load(Watched(), tokenizer, **options)
    whole = arrays_of(plain)
    parts = []
    for index in range(2):
        dataset = load(Watched(), tokenizer, worker=(index, 2), **options)
        assert dataset.element_spec["images"].shape[0] == 2
        made.clear()
        parts.append(arrays_of(dataset))
        # The rows of others, and padding, are not even read.
        assert len(made) < 10
    for batch, *own in zip(whole, *parts, strict=True):
        for name in batch:
            joined = np.concatenate([part[name] for part in own])
            np.testing.assert_array_equal(joined, batch[name])
        assert [part["place"].tolist() for part in own] == [[0, 1], [2, 3]]
        assert all((part["whole"] == 4).all() for part in own)


def test_dropped_remainder_is_another_one_each_epoch():
    left_out = {
        (set(range(10)) - set(epoch_order(e, 10, 9, 0, True)[:, 0])).pop()
        for e in range(20)
    }
    assert len(left_out) > 3


def test_order_is_a_permutation_of_the_whole_set():
    order = epoch_order(7, count=1000, used=1000, seed=1, shuffle=True)
    assert order.shape == (1000, 5) and order.dtype == np.int64
    assert sorted(order[:, 0]) == list(range(1000))
    assert (order[:, 1] == 7).all()
    # Far from where they were: a third of the set away, on average.
    assert np.abs(order[:, 0] - np.arange(1000)).mean() > 250


def test_options_do_not_move_each_others_draws(pairs, tokenizer):
    plain = {**OPTIONS, "horizontal_flip": False}
    flipped = arrays_of(load(pairs, tokenizer, **OPTIONS))
    straight = arrays_of(load(pairs, tokenizer, **plain))
    mirrored = 0
    for one, other in zip(flipped, straight, strict=True):
        np.testing.assert_array_equal(one["token_ids"], other["token_ids"])
        for a, b in zip(one["images"], other["images"], strict=True):
            assert np.array_equal(a, b) or np.array_equal(a, b[:, ::-1])
            mirrored += not np.array_equal(a, b)
    assert 0 < mirrored < 9


def test_shares_of_flips_captions_and_dropout(tokenizer):
    image = np.zeros((64, 64, 3), np.uint8)
    image[:, :32] = 255
    dataset = load(
        [(image, ["x", "y"])] * 500,
        tokenizer,
        resolution=64,
        batch_size=500,
        horizontal_flip=True,
        caption_dropout=0.2,
    )
    (batch,) = arrays_of(dataset)
    # 5 standard deviations of 500 fair draws are 0.11.
    assert abs((batch["images"][:, 0, 0, 0] < 0).mean() - 0.5) < 0.11
    words = batch["token_ids"][:, 1]
    empty = words == tokenizer.end_of_text
    assert abs(empty.mean() - 0.2) < 0.09
    x = tokenizer.encode("x")[1]
    assert abs((words[~empty] == x).mean() - 0.5) < 0.13


def test_class_folder_repeats_are_cropped_each_in_their_own_way(
    tmp_path, tokenizer, write_image
):
    path = write_image(tmp_path / "2_sks dog" / "a.png", size=(300, 64))
    pixels = np.random.default_rng(0).integers(0, 256, (64, 300, 3), np.uint8)
    tf.keras.utils.save_img(path, pixels, scale=False)
    dataset = load(
        tmp_path, tokenizer, resolution=64, batch_size=2, crop="random"
    )
    (batch,) = arrays_of(dataset)
    assert not np.array_equal(batch["images"][0], batch["images"][1])


def test_unreadable_images_are_left_out_and_reported(
    numbered, tokenizer, caplog
):
    (numbered / "4.png").write_bytes(b"")
    report = Report()
    options = {"resolution": 64, "batch_size": 3}
    dataset = load(numbered, tokenizer, report=report, **options)
    assert dataset.cardinality() == 3
    assert sorted(numbers_of(dataset)) == [0, 1, 2, 3, 5, 6, 7, 8, 9]
    assert [image for image, _ in report.rows] == ["4.png"]
    assert not caplog.records
    load(numbered, tokenizer, **options)
    assert "1 images cannot be read" in caplog.text and "4.png" in caplog.text
    with pytest.raises(ValueError, match="1 of 10 images"):
        load(numbered, tokenizer, max_unreadable=0.05, **options)
    assert (numbered / "4.png").read_bytes() == b""


def test_an_image_lost_while_training_is_replaced(numbered, tokenizer, caplog):
    report = Report()
    options = {"resolution": 64, "batch_size": 5, "shuffle": False}
    dataset = load(numbered, tokenizer, report=report, **options)
    (numbered / "4.png").unlink()
    with caplog.at_level(logging.WARNING):
        first = numbers_of(dataset)
        second = numbers_of(dataset)
    assert len(first) == 10
    assert first[:4] == [0, 1, 2, 3] and first[5:] == [5, 6, 7, 8, 9]
    assert 4 not in first + second
    assert report.rows == [("4.png", "the file does not exist")]
    assert caplog.text.count("4.png") == 1


def test_losing_all_images_stops_with_the_reason(numbered, tokenizer):
    dataset = load(numbered, tokenizer, resolution=64, batch_size=5)
    for path in numbered.glob("*.png"):
        path.unlink()
    with pytest.raises(tf.errors.UnknownError, match="100 images in a row"):
        list(dataset)


def test_all_images_unreadable_is_refused_at_any_share(numbered, tokenizer):
    for path in numbered.glob("*.png"):
        path.write_bytes(b"")
    with pytest.raises(ValueError, match="No image can be read"):
        load(numbered, tokenizer, resolution=64, max_unreadable=1.0)


@pytest.mark.parametrize(
    ("resolution", "expected"),
    [
        (64, (64, 64)),
        ((128, 192), (128, 192)),
        ([64, np.int64(128)], (64, 128)),
    ],
)
def test_resolution(resolution, expected):
    assert LoadOptions(resolution=resolution).size == expected


@pytest.mark.parametrize(
    ("option", "value", "words"),
    [
        ("resolution", 500, "multiple of 64.*Nearest valid: 512."),
        ("resolution", (64, 100), "Nearest valid: 128."),
        ("resolution", 0, "Nearest valid: 64."),
        ("resolution", "512", "multiple of 64"),
        ("resolution", 64.0, "multiple of 64"),
        ("resolution", (64, 64, 3), "must be an integer"),
        ("batch_size", 0, ".1, 65536."),
        ("batch_size", 2.5, "integer"),
        ("batch_size", 10**12, ".1, 65536."),
        ("resolution", 64 * 10**9, ".64, 16384."),
        ("start", (10**30, 0), ".0, 2147483648."),
        ("repeats", 10**12, "at most 10,000,000"),
        ("repeats", 10**30, "at most 10,000,000"),
        ("batch_size", True, "integer"),
        ("drop_remainder", 1, "True or False"),
        ("seed", -1, ">= 0"),
        ("start", (-1, 0), ".0, 2147483648."),
        ("start", 3, "pair of integers"),
        ("worker", (2, 2), "in .0, 1."),
        ("worker", (0, 3), "multiple of 3, the number.*Nearest valid: 3"),
        ("crop", "centre", "Did you mean 'center'"),
        ("reader", "metadata_json", "Did you mean 'metadata_jsonl'"),
        ("caption_template", "a photo", "{caption}"),
        ("caption_dropout", 1.5, ".0, 1."),
        ("max_unreadable", "10%", ".0, 1."),
        ("keep_tokens", 2, "no effect without `shuffle_tags`"),
        ("keep_tokens", -1, ">= 0"),
        ("tag_separator", "", "not empty"),
        ("repeats", 0, ">= 1"),
        ("repeats", "", "or the name of a table's column"),
        ("repeats", "times", "no column 'times'"),
        ("masks", "alhpa", "Did you mean 'alpha'"),
        ("buckets", 64, "must be True or False"),
        ("bucket_step", 32, "multiple of 64 pixels.*Nearest valid: 64"),
        ("bucket_min_side", 128, "no effect without `buckets`"),
        ("bucket_max_aspect_ratio", 0.5, ">= 1"),
        ("bucket_max_aspect_ratio", float("nan"), "finite number"),
        ("mask_column", "mask", "no effect without `masks=files`"),
    ],
)
def test_bad_options_are_refused_by_name(
    numbered, tokenizer, option, value, words
):
    with pytest.raises(ValueError, match=words) as error:
        load(numbered, tokenizer, **{"resolution": 64, option: value})
    assert option in str(error.value)


def test_fewer_examples_than_a_batch_are_padded(numbered, tokenizer):
    options = {"resolution": 64, "batch_size": 16}
    (batch,) = load(numbered, tokenizer, **options)
    assert batch["images"].shape[0] == 16
    assert batch["example_weight"].numpy().sum() == 10
    with pytest.raises(ValueError, match="(?s)=16 and 10 ex.*at most 10"):
        load(numbered, tokenizer, drop_remainder=True, **options)


def test_keras_fit_sees_one_epoch_a_pass(numbered, tokenizer):
    dataset = load(numbered, tokenizer, resolution=64, batch_size=5)
    passes = []

    class Watching(tf.keras.Model):
        def train_step(self, batch):
            images = batch["images"]
            tf.py_function(
                lambda x: passes.append(x.numpy()), [images[:, 0, 0, 0]], []
            )
            return {"loss": tf.reduce_mean(images)}

    model = Watching()
    model.compile()
    model.fit(dataset, epochs=2, verbose=0)
    shown = [round((grey + 1) * 12.75) for grey in np.concatenate(passes)]
    expected = [
        epoch_order(epoch, 10, 10, 0, True)[:, 0].tolist() for epoch in (0, 1)
    ]
    assert [shown[:10], shown[10:]] == expected


def test_tags_are_shuffled_anew_in_each_epoch(tokenizer):
    image = np.zeros((64, 64, 3), np.uint8)
    source = [(image, "first, b, c, d, e, f, g")]
    options = {"resolution": 64, "batch_size": 1}
    dataset = load(
        source, tokenizer, shuffle_tags=True, keep_tokens=1, **options
    )
    passes = [arrays_of(dataset)[0]["token_ids"][0] for _ in range(3)]
    plain = arrays_of(load(source, tokenizer, **options))[0]["token_ids"][0]
    assert len({ids.tobytes() for ids in passes}) == 3
    for ids in passes:
        # Words end with their comma here, so the last one is not the same.
        assert ids[1] == plain[1] and ids.shape == plain.shape
    options["start"] = (2, 0)
    again = load(source, tokenizer, shuffle_tags=True, keep_tokens=1, **options)
    np.testing.assert_array_equal(
        arrays_of(again)[0]["token_ids"][0], passes[2]
    )


def test_shuffled_tags_do_not_move_other_draws(pairs, tokenizer):
    plain = arrays_of(load(pairs, tokenizer, **OPTIONS))
    tags = arrays_of(load(pairs, tokenizer, shuffle_tags=True, **OPTIONS))
    # One tag each, so not even the captions differ.
    assert_same(plain, tags)


def test_repeats_are_examples_of_their_own(numbered, tokenizer):
    dataset = load(numbered, tokenizer, resolution=64, batch_size=10, repeats=2)
    assert dataset.cardinality() == 2
    assert sorted(numbers_of(dataset)) == sorted(2 * list(range(10)))


def test_an_example_brings_its_weight(tokenizer):
    image = np.zeros((64, 64, 3), np.uint8)
    source = [Example(image, "a", weight=0.5), (image, "b")]
    (batch,) = arrays_of(
        load(source, tokenizer, resolution=64, batch_size=2, shuffle=False)
    )
    assert batch["example_weight"].tolist() == [0.5, 1.0]
    expected = tokenizer.pad(tokenizer.encode("a"))
    np.testing.assert_array_equal(batch["token_ids"][0], expected)
