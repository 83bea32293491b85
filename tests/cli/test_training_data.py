"""Each flag of the data reaches its argument."""

import types

import pytest

from keras_sdft import data as data_room
from keras_sdft import models
from keras_sdft import runs
from keras_sdft.cli.dreambooth import Subject
from keras_sdft.cli.train import Captioned
from tests.cli.options import options_of
from tests.cli.options import subject_of

SD = types.SimpleNamespace(
    tokenizer="tokenizer", img_height=64, img_width=128, spec="spec"
)


def load_data(options):
    return Captioned(options.replace(no_cache=True), SD).load()


class Batches:
    def cardinality(self):
        return 5


@pytest.fixture
def calls(monkeypatch):
    """Records what data was asked for."""
    found = []

    def load(source, tokenizer, **arguments):
        found.append((source, arguments))
        assert tokenizer == "tokenizer"
        return Batches()

    monkeypatch.setattr(data_room, "load", load)
    monkeypatch.setattr(data_room, "load_dreambooth", load)
    monkeypatch.setattr(models, "check_token", lambda *_: "")
    monkeypatch.setattr(runs, "generate_class_images", lambda *_, **given: [])
    return found


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("split", "train"),
        ("crop", "random"),
        ("horizontal_flip", True),
        ("caption_dropout", 0.3),
        ("caption_template", "a photo of {caption}"),
        ("image_column", "picture"),
        ("caption_column", "words"),
        ("mask_column", "mask"),
        ("masks", "alpha"),
        ("shuffle_tags", True),
        ("keep_tokens", 2),
        ("tag_separator", ";"),
        ("repeats", 3),
        ("max_unreadable", 0.5),
        ("seed", 7),
    ],
)
def test_flags_reach_the_data(calls, name, value):
    load_data(options_of())
    load_data(options_of(**{name: value}))
    (_, plain), (_, given) = calls
    plain.pop("report"), given.pop("report")
    assert given[name] == value != plain[name]
    assert {k for k in plain if plain[k] != given[k]} == {name}


def test_buckets_have_their_limits(calls):
    load_data(options_of())
    load_data(
        options_of(
            buckets=True,
            bucket_step=128,
            bucket_min_side=128,
            bucket_max_side=1024,
            bucket_max_aspect_ratio=2.0,
        )
    )
    assert calls[0][1]["buckets"] is False
    limited = calls[1][1]
    assert limited["buckets"] is True
    assert limited["bucket_step"] == limited["bucket_min_side"] == 128
    assert limited["bucket_max_side"] == 1024
    assert limited["bucket_max_aspect_ratio"] == 2.0


def test_a_batch_is_a_whole_optimizer_step(calls):
    options = options_of(
        batch_size=3,
        gradient_accumulation_steps=2,
        validation_data="held_out",
        horizontal_flip=True,
        buckets=True,
    )
    data = load_data(options)
    (source, training), (other, validation) = calls
    assert (source, other) == ("photos", "held_out")
    assert training["batch_size"] == data.images_per_step == 6
    assert training["resolution"] == (64, 128)
    assert (data.steps_per_epoch, data.steps, data.epochs) == (5, 12, 3)
    assert data.is_pass and training["start"] == (0, 0)
    # Validation sees the images as they are.
    assert validation["batch_size"] == 3
    assert validation["shuffle"] is False
    for name in ("horizontal_flip", "caption_dropout", "buckets", "masks"):
        assert name not in validation


def test_one_source_may_be_read_twice(calls, monkeypatch):
    """What is validated on and trained on has two lines in the report."""

    def load(source, tokenizer, report, **arguments):
        records = types.SimpleNamespace(identity=source)
        report.add_source(source, data_room.Examples(records, [0, 1]))
        return Batches()

    monkeypatch.setattr(data_room, "load", load)
    options = options_of(validation_data="photos")
    lines = load_data(options).report.summary().splitlines()
    assert lines == [
        "training images in photos: 2 images found, 2 used",
        "validation images in photos: 2 images found, 2 used",
        "  It is what is trained on.",
    ]


def test_epochs_are_passes_over_the_data(calls):
    options = options_of(max_train_steps=None, num_train_epochs=4)
    assert load_data(options).steps == 20


def test_photos_are_read_alone_and_then_with_class_images(calls):
    options = subject_of(
        batch_size=2,
        gradient_accumulation_steps=2,
        class_prompt="a photo of dog",
        class_data_dir="class",
        prior_loss_weight=0.5,
        masks="files",
        buckets=True,
        validation_data_dir="others",
        validation_every_steps=5,
    )
    subject = Subject(options, SD)
    photos = subject.load()
    (_, alone), (other, validation) = calls
    assert "class_prompt" not in alone and "start" not in alone
    assert alone["masks"] == "files"
    assert (other, validation["shuffle"]) == ("others", False)
    assert (photos.steps_per_epoch, photos.steps, photos.epochs) == (5, 12, 3)
    subject.start = (1, 2)
    data = subject.prepare(photos)
    source, arguments = calls[2]
    assert source == "photos"
    assert arguments["instance_prompt"] == "a photo of sks dog"
    assert arguments["class_prompt"] == "a photo of dog"
    assert arguments["class_data_dir"] == "class"
    assert arguments["prior_loss_weight"] == 0.5
    assert arguments["batches_per_epoch"] == 5
    assert arguments["start"] == (1, 2)
    assert arguments["batch_size"] == 4
    assert arguments["buckets"] is True
    # As many class images as photos.
    assert not data.is_pass and data.images_per_step == 8
    assert data.validation is photos.validation


def test_without_a_class_there_is_no_prior(calls):
    options = subject_of(class_data_dir="class")
    subject = Subject(options, SD)
    photos = subject.load()
    subject.prepare(photos)
    assert calls[1][1]["class_prompt"] is None
    assert calls[1][1]["class_data_dir"] is None
    assert photos.images_per_step == 1


def test_a_short_run_of_photos(calls):
    options = subject_of(max_train_steps=None, num_train_epochs=2)
    subject = Subject(options, SD)
    photos = subject.load()
    assert (photos.steps, photos.steps_per_epoch, photos.epochs) == (10, 10, 1)
