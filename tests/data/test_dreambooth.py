import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from keras_sdft.data import Report
from keras_sdft.data import load_dreambooth

PROMPTS = {
    "instance_prompt": "a photo of sks dog",
    "class_prompt": "a photo of dog",
}


@pytest.fixture
def folders(tmp_path, write_image):
    """Five photos, grey 0 to 40, and three class images, grey 200 to 220."""
    for index in range(5):
        write_image(tmp_path / "photos" / f"{index}.png", 10 * index)
    for index in range(3):
        write_image(tmp_path / "class" / f"{index}.png", 200 + 10 * index)
    return tmp_path


def open_folders(folders, tokenizer, **options):
    options = {
        "class_data_dir": folders / "class",
        "resolution": 64,
        "batch_size": 2,
        **PROMPTS,
        **options,
    }
    return load_dreambooth(folders / "photos", tokenizer, **options)


def test_photos_with_the_class_prompt_stand_for_class_images(
    folders, tokenizer
):
    options = {"prior_preservation": "base", "class_data_dir": None}
    dataset = open_folders(folders, tokenizer, **options)
    photos, classes = [], []
    for batch in dataset:
        for name in ("prior", "base_target"):
            assert batch[name].numpy().tolist() == [0, 1, 0, 1]
        greys = greys_of(batch)
        photos += greys[0::2]
        classes += greys[1::2]
        expected = tokenizer.pad(tokenizer.encode(PROMPTS["class_prompt"]))
        np.testing.assert_array_equal(batch["token_ids"][1], expected)
    assert set(photos) == set(classes) == {0, 1, 2, 3, 4}


def greys_of(batch):
    greys = batch["images"].numpy()[:, 0, 0, 0]
    return [round((grey + 1) * 12.75) for grey in greys]


def test_the_batch(folders, tokenizer):
    dataset = open_folders(folders, tokenizer)
    assert dataset.element_spec == {
        "images": tf.TensorSpec((4, 64, 64, 3), tf.float32),
        "token_ids": tf.TensorSpec((4, 77), tf.int32),
        "example_weight": tf.TensorSpec((4,), tf.float32),
        "prior": tf.TensorSpec((4,), tf.float32),
    }
    assert dataset.cardinality() == 3
    photos, classes = [], []
    for batch in dataset:
        assert batch["prior"].numpy().tolist() == [0, 1, 0, 1]
        greys = greys_of(batch)
        photos += greys[0::2]
        classes += greys[1::2]
        for ids, text in zip(
            batch["token_ids"].numpy(), list(PROMPTS.values()) * 2, strict=True
        ):
            expected = tokenizer.pad(tokenizer.encode(text))
            np.testing.assert_array_equal(ids, expected)
    # Five photos fill six places; three class images go round twice.
    assert set(photos) == {0, 1, 2, 3, 4} and len(photos) == 6
    assert sorted(classes) == [20, 20, 21, 21, 22, 22]
    assert set(classes[:3]) == set(classes[3:]) == {20, 21, 22}


@pytest.mark.parametrize("weight", [1.0, 0.3, 0.0])
def test_the_mean_loss_is_the_photos_and_the_class_s(
    folders, tokenizer, weight
):
    # Full batches: as the published training script computes it.
    (folders / "photos" / "4.png").unlink()
    dataset = open_folders(folders, tokenizer, prior_loss_weight=weight)
    losses = np.random.default_rng(0).random(4)
    for batch in dataset:
        weighted = (batch["example_weight"].numpy() * losses).mean()
        expected = losses[0::2].mean() + weight * losses[1::2].mean()
        assert weighted == pytest.approx(expected)


def test_all_photos_count_alike_in_an_epoch(folders, tokenizer):
    dataset = open_folders(folders, tokenizer)
    totals = dict.fromkeys(range(5), 0.0)
    for batch in dataset:
        weights = batch["example_weight"].numpy()
        for grey, weight in zip(
            greys_of(batch)[0::2], weights[0::2], strict=True
        ):
            totals[grey] += weight
        assert weights[1::2].tolist() == [2.0, 2.0]
    # Twice (the class images' half), and 6 places for 5 photos.
    np.testing.assert_allclose(list(totals.values()), 2 * 6 / 5)


def test_micro_batches_hold_as_many_of_each(folders, tokenizer):
    for batch in open_folders(folders, tokenizer):
        parts = batch["prior"].numpy().reshape(2, 2)
        assert parts.mean(axis=1).tolist() == [0.5, 0.5]


def test_without_a_class_prompt_there_is_no_prior(folders, tokenizer):
    dataset = load_dreambooth(
        folders / "photos",
        tokenizer,
        instance_prompt="a photo of sks dog",
        resolution=64,
        batch_size=5,
    )
    assert set(dataset.element_spec) == {
        "images",
        "token_ids",
        "example_weight",
    }
    (batch,) = dataset
    assert sorted(greys_of(batch)) == [0, 1, 2, 3, 4]
    assert batch["example_weight"].numpy().tolist() == [1.0] * 5


def test_same_seed_same_batches_and_a_later_start(folders, tokenizer):
    options = {"crop": "random", "horizontal_flip": True}
    first = open_folders(folders, tokenizer, seed=4, **options)
    passes = [
        [{k: v.numpy() for k, v in b.items()} for b in first] for _ in range(2)
    ]
    later = open_folders(folders, tokenizer, seed=4, start=(1, 0), **options)
    for one, other in zip(later, passes[1], strict=True):
        for name, value in other.items():
            np.testing.assert_array_equal(one[name], value)
    assert [greys_of(b) for b in first] != [
        greys_of(b) for b in open_folders(folders, tokenizer, seed=5)
    ]


def test_workers_and_a_later_start_with_class_images(folders, tokenizer):
    plain = open_folders(folders, tokenizer, repeat=True)
    whole = [greys_of(batch) for batch in plain.take(6)][2:]
    parts = [
        open_folders(
            folders, tokenizer, repeat=True, start=(0, 2), worker=(index, 2)
        ).take(4)
        for index in range(2)
    ]
    for first, second, expected in zip(*parts, whole, strict=True):
        assert greys_of(first) + greys_of(second) == expected
        assert first["prior"].numpy().tolist() == [0, 1]
        assert second["place"].numpy().tolist() == [2, 3]


def test_an_endless_stream_equals_the_epochs(folders, tokenizer):
    stream = open_folders(folders, tokenizer, repeat=True)
    passes = open_folders(folders, tokenizer)
    expected = [greys_of(b) for _ in range(3) for b in passes]
    assert [greys_of(b) for b in stream.take(9)] == expected


def test_repeats_are_photos_of_their_own(folders, tokenizer):
    dataset = open_folders(folders, tokenizer, repeats=4, batch_size=5)
    assert dataset.cardinality() == 4
    photos = sorted(grey for b in dataset for grey in greys_of(b)[0::2])
    assert photos == [0] * 4 + [1] * 4 + [2] * 4 + [3] * 4 + [4] * 4
    with pytest.raises(ValueError, match="`repeats` must be an integer"):
        open_folders(folders, tokenizer, repeats="times")


def test_dropped_remainder(folders, tokenizer):
    dataset = open_folders(folders, tokenizer, drop_remainder=True)
    assert dataset.cardinality() == 2
    with pytest.raises(ValueError, match="`batch_size` must not be larger"):
        open_folders(folders, tokenizer, drop_remainder=True, batch_size=6)


def test_fewer_photos_than_a_batch_are_shown_several_times(folders, tokenizer):
    (batch,) = open_folders(folders, tokenizer, batch_size=8)
    weights = batch["example_weight"].numpy()[0::2]
    assert weights.sum() == pytest.approx(16)
    # 8 places for 5 photos: three stand there twice.
    assert sorted(np.round(weights, 4)) == [1.6] * 6 + [3.2] * 2


def test_captions_of_both_are_dropped(folders, tokenizer):
    for batch in open_folders(folders, tokenizer, caption_dropout=1.0):
        empty = tokenizer.pad(tokenizer.encode(""))
        assert (batch["token_ids"].numpy() == empty).all()


def test_buckets_are_the_photos_and_class_images_follow(
    tmp_path, tokenizer, write_image
):
    for index, size in enumerate([(110, 60), (110, 60), (80, 80)]):
        write_image(tmp_path / "photos" / f"{index}.png", index, size=size)
        write_image(tmp_path / "class" / f"{index}.png", 200, size=(64, 64))
    report = Report()
    dataset = open_folders(
        tmp_path, tokenizer, resolution=256, buckets=True, report=report
    )
    photos, classes = report.sources
    assert photos.buckets == {"256x256": 1, "320x192": 2}
    assert not classes.buckets
    spec = dataset.element_spec["images"]
    assert spec == tf.TensorSpec((4, None, None, 3), tf.float32)
    shapes = sorted(tuple(b["images"].shape) for b in dataset)
    assert shapes == [(4, 192, 320, 3), (4, 256, 256, 3)]


def test_masks_of_photos_and_whole_class_images(folders, tokenizer):
    mask = np.zeros((64, 64), np.uint8)
    for index in range(5):
        path = folders / "photos" / f"{index}-masklabel.png"
        Image.fromarray(mask).save(path)
    for batch in open_folders(folders, tokenizer, masks="files"):
        assert batch["loss_mask"].numpy()[0::2].max() == 0
        assert batch["loss_mask"].numpy()[1::2].min() == 1


def test_a_lost_class_image_is_replaced_by_one_of_its_kind(folders, tokenizer):
    report = Report()
    dataset = open_folders(folders, tokenizer, report=report)
    (folders / "class" / "0.png").unlink()
    (folders / "photos" / "0.png").unlink()
    for _ in range(3):
        for batch in dataset:
            greys = greys_of(batch)
            assert set(greys[0::2]) <= {1, 2, 3, 4}
            assert set(greys[1::2]) <= {21, 22}
    names = sorted(name for name, _ in report.rows)
    assert names == ["class/0.png", "photos/0.png"]


def test_caption_files_beside_photos_are_not_read(folders, tokenizer):
    (folders / "photos" / "0.txt").write_text("a cat")
    (folders / "photos" / ".DS_Store").write_bytes(b"x")
    dataset = open_folders(folders, tokenizer)
    assert dataset.cardinality() == 3


def test_unreadable_photos_are_reported(folders, tokenizer):
    (folders / "photos" / "0.png").write_bytes(b"")
    with pytest.raises(ValueError, match="1 of 5 images cannot be read"):
        open_folders(folders, tokenizer)
    dataset = open_folders(
        folders, tokenizer, max_unreadable=0.5, report=Report()
    )
    assert dataset.cardinality() == 2


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"prior_loss_weight": -1}, "`prior_loss_weight`.*-1"),
        ({"prior_loss_weight": float("inf")}, "`prior_loss_weight`"),
        ({"prior_loss_weight": "1"}, "`prior_loss_weight`"),
        ({"instance_prompt": "a photo of dog"}, "rare token"),
        ({"token": "zwx"}, "must hold the subject's token"),
        ({"class_data_dir": None}, "needs `class_data_dir`"),
        ({"prior_preservation": "base"}, "`class_data_dir` has no effect"),
        ({"batch_size": 0}, "`batch_size`"),
    ],
)
def test_bad_arguments_are_refused_by_name(folders, tokenizer, options, words):
    with pytest.raises(ValueError, match=words):
        open_folders(folders, tokenizer, **options)


def test_a_misspelt_option_names_the_nearest(folders, tokenizer):
    with pytest.raises(TypeError, match="Did you mean 'horizontal_flip'"):
        open_folders(folders, tokenizer, horizontal_flips=True)
