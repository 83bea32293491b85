"""The cache of the commands: encoded once, refused or declined in words."""

import json
import os
import types

import pytest

from keras_sdft import disk
from keras_sdft import runs
from keras_sdft.cli import encode as encode_module
from keras_sdft.cli import main
from keras_sdft.cli.command_line import parse
from keras_sdft.cli.encode import as_training
from keras_sdft.cli.train import Captioned
from keras_sdft.runs import caching
from tests.cli.options import options_of


@pytest.fixture
def micro(make_micro, monkeypatch):
    """Lets the commands load a micro model; returns it."""
    model = make_micro()
    monkeypatch.setattr(encode_module, "load_for_training", lambda o: model)
    return model


@pytest.fixture
def options(photos, tmp_path):
    """Makes options of a training of 8 photos for 12 steps of one."""

    def make(**changes):
        given = {
            "data": str(photos),
            "output_dir": str(tmp_path / "runs" / "run"),
        }
        return options_of(**given | changes)

    return make


def default_directory(source):
    return source.caches.training.directory


def no_encoding(*arguments):
    raise RuntimeError("something was encoded")


def test_encode_and_then_train_from_it(
    micro, photos, tmp_path, options, capsys, monkeypatch
):
    cache = tmp_path / "cache"
    arguments = ["encode", "--model=tiny", f"--data={photos}"]
    arguments += [f"--cache={cache}", f"--validation_data={photos}"]
    assert main(arguments) == 0
    output = capsys.readouterr()
    assert f"8 images, 9 captions in {cache} (" in output.out
    assert f"keras-sdft train --cache {cache}" in output.out
    assert "encode images: 100%" in output.err
    state = json.loads((cache / "cache.json").read_text())["keras_sdft_cache"]
    assert state["dtype"] == "float16"
    # The encoders are not needed any more, and not even built again.
    assert micro._image_encoder is micro._text_encoder is None
    monkeypatch.setattr(type(micro), "image_encoder", property(no_encoding))
    monkeypatch.setattr(type(micro), "text_encoder", property(no_encoding))
    chosen = options(cache=str(cache), validation_data=str(photos))
    source = Captioned(chosen, micro, captions=True)
    data = source.load()
    source.caches.fill(keep_text_encoder=False)
    for dataset in (data.training, data.validation):
        batch = next(iter(dataset))
        assert batch["moments"].shape == (1, 8, 8, 8)
        assert batch["context"].shape == (1, 77, 16)


def test_a_stale_cache_is_an_error(micro, photos, tmp_path, capsys):
    arguments = ["encode", "--model=tiny", f"--data={photos}"]
    arguments += [f"--cache={tmp_path / 'cache'}"]
    assert main(arguments) == 0
    (photos / "3.txt").write_text("something else")
    capsys.readouterr()
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert "is stale: the captions or `caption_template`" in error
    assert "Traceback" not in error
    assert main([*arguments, "--overwrite"]) == 0
    assert "is stale and encoded again: the cap" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            ["--cache={photos}"],
            "`cache` and `data` must not contain",
        ),
        (
            ["--cache={photos}/cache"],
            "`cache` and `data` must not contain",
        ),
        (["--cache=c", "--data=nowhere"], "`data` does not exist"),
        (["--cache=c", "--resolution=100"], "Nearest valid: 128"),
    ],
)
def test_mistakes_write_nothing(
    micro, photos, tmp_path, monkeypatch, capsys, flags, message
):
    monkeypatch.chdir(tmp_path)
    before = sorted(os.listdir(photos)), sorted(os.listdir(tmp_path))
    arguments = ["encode", "--model=tiny", f"--data={photos}"]
    flags = [flag.format(photos=photos) for flag in flags]
    assert main(arguments + flags) == 2
    assert message in capsys.readouterr().err
    assert before == (sorted(os.listdir(photos)), sorted(os.listdir(tmp_path)))


def test_a_run_has_a_cache_unless_told_otherwise(
    micro, options, tmp_path, capsys
):
    chosen = options(batch_size=2)
    source = Captioned(chosen, micro, captions=False)
    data = source.load()
    folder = default_directory(source)
    assert os.path.dirname(folder) == str(tmp_path / "runs/keras_sdft_cache")
    assert not os.path.exists(folder)
    source.caches.fill(keep_text_encoder=True)
    assert f"8 images in {folder}" in capsys.readouterr().out
    # The text encoder learns, so its captions cannot be encoded once.
    assert set(data.training.element_spec) == {
        "moments",
        "token_ids",
        "example_weight",
    }
    source = Captioned(options(no_cache=True), micro)
    source.load()
    assert source.caches.training is None


def test_options_have_folders_of_their_own(options):
    def folder_of(options, size):
        sd = types.SimpleNamespace(img_height=size)
        source = Captioned(options.replace(no_cache=True), sd, captions=True)
        place = options.output_dir, size, source.deciding()
        return caching.default_cache(*place)

    folders = {
        folder_of(options(**changes), size)
        for changes in ({}, {"horizontal_flip": True}, {"model": "sd1.4"})
        for size in (64, 128)
    }
    assert len(folders) == 6
    same = options(seed=7, learning_rate=1.0, output_dir=options().output_dir)
    assert folder_of(same, 64) in folders


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"crop": "random"}, "`crop='random'` cannot be cached"),
        ({"shuffle_tags": True}, "`shuffle_tags` cannot be cached"),
        ({"max_train_steps": 7}, "the run shows 7 images, and 8 would be"),
        (
            {"max_train_steps": None, "num_train_epochs": 1}
            | {"horizontal_flip": True},
            "the run shows 8 images, and 16 would be encoded. `--cache DIR`",
        ),
    ],
)
def test_why_there_is_no_cache_is_told(
    micro, options, tmp_path, capsys, changes, reason
):
    chosen = options(**changes)
    source = Captioned(chosen, micro, captions=True)
    data = source.load()
    source.caches.fill(keep_text_encoder=False)
    assert f"No cache: {reason}" in capsys.readouterr().out
    assert {"images", "token_ids"} <= set(data.training.element_spec)
    assert not (tmp_path / "runs").exists()


def test_a_full_disk_is_left_alone(micro, options, capsys, monkeypatch):
    monkeypatch.setattr(caching, "_SHARE", 0.0)
    chosen = options()
    source = Captioned(chosen, micro, captions=True)
    source.load()
    source.caches.fill(keep_text_encoder=False)
    assert "No cache: it would take 0.0 GB of the" in capsys.readouterr().out


def test_what_was_asked_for_is_refused_by_name(micro, options, tmp_path):
    chosen = options(cache=str(tmp_path / "cache"), crop="random")
    with pytest.raises(ValueError, match="`crop='random'` cannot be cached"):
        Captioned(chosen, micro, captions=True).load()


def test_flags_that_contradict_each_other(options, photos):
    for given in ({"cache": "c"}, {"cache_dtype": "float32"}):
        with pytest.raises(ValueError, match="has no effect with `no_cache`"):
            runs.CacheOptions(no_cache=True, **given)


def test_encode_reads_what_train_reads():
    flags = ["--model=tiny", "--data=photos", "--cache=c", "--buckets"]
    flags += ["--repeats=3", "--masks=alpha", "--horizontal_flip"]
    _, chosen = parse(["encode", *flags, "--no_captions"])
    training = as_training(chosen)
    assert training.buckets and training.horizontal_flip
    assert (training.repeats, training.masks) == (3, "alpha")
    assert not hasattr(training, "no_captions")


def test_a_cache_that_cannot_be_written_is_declined(
    micro, options, monkeypatch, capsys
):
    # Root may write everywhere.
    monkeypatch.setattr(disk, "writable", lambda path: False)
    source = Captioned(options(), micro, captions=True)
    source.load()
    assert source.caches.training is None
    source.caches.fill(keep_text_encoder=False)
    told = capsys.readouterr().out
    assert "No cache:" in told and "cannot be written to" in told
