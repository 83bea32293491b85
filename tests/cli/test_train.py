import contextlib
import csv
import json
import math
import os
import types

import keras
import numpy as np
import pytest
import tensorflow as tf
import yaml

from keras_sdft import models
from keras_sdft import runs
from keras_sdft.cli import main
from keras_sdft.cli import run as run_module
from keras_sdft.cli import train as train_module
from keras_sdft.cli.command_line import parse
from keras_sdft.cli.run import inputs_of
from keras_sdft.cli.run import resolved
from keras_sdft.cli.train import Captioned
from keras_sdft.data import Report
from keras_sdft.runs import RunData
from keras_sdft.training import checkpoint
from keras_sdft.training.optimizer_groups import learning_rate_of
from tests.cli.options import options_of
from tests.hub_server import commit_of


class FakeStableDiffusion:
    tokenizer = None
    img_height = img_width = 128
    diffusion_model = types.SimpleNamespace(count_params=lambda: 1234567)
    spec = models.PRESETS["tiny"].spec

    def unknown_words(self, texts):
        return [text for text in texts if text == "gourd"]

    def about_words(self, words):
        return f"{words} unknown"

    def text_to_image(self, prompt, batch_size, **arguments):
        return np.zeros((batch_size, 64, 64, 3), np.uint8)


class FakeTrainer(keras.Model):
    """Learns one number; exports the steps it learned for."""

    writes_files = True

    def __init__(self, learning_rate):
        super().__init__()
        self.dense = keras.layers.Dense(1, kernel_initializer="ones")
        self.compile(keras.optimizers.SGD(learning_rate), loss="mse")
        self.stable_diffusion = FakeStableDiffusion()
        self.progress = checkpoint.Progress()

    def fit(self, *args, **kwargs):
        with checkpoint.going_on(self, kwargs):
            return super().fit(*args, **kwargs)

    def call(self, inputs):
        return self.dense(inputs)

    def current_learning_rate(self):
        return learning_rate_of(self.optimizer)

    @contextlib.contextmanager
    def averaged_weights(self):
        yield

    def export(self, directory, overwrite=False, card=None):
        os.makedirs(directory, exist_ok=overwrite)
        with open(os.path.join(directory, "keras_sdft.json"), "w") as file:
            json.dump({"steps": int(self.optimizer.iterations)}, file)


@pytest.fixture
def fakes(monkeypatch):
    """Stands in for the model, the data and the trainer of a run."""
    report = Report()
    batches = tf.data.Dataset.from_tensors(
        (np.ones((2, 3), np.float32), np.ones((2, 1), np.float32))
    ).repeat(4)
    batches = batches.apply(tf.data.experimental.assert_cardinality(4))

    def load_data(self):
        options = self.options
        steps = options.max_train_steps or 4 * options.num_train_epochs
        validation = batches if options.validation_data else None
        return RunData(batches, validation, report, 2, 4, steps)

    def make_trainer(options, model, steps):
        return FakeTrainer(options.learning_rate)

    sd = FakeStableDiffusion()
    monkeypatch.setattr(run_module, "load_for_training", lambda options: sd)
    monkeypatch.setattr(Captioned, "load", load_data)
    monkeypatch.setattr(run_module, "make_trainer", make_trainer)
    monkeypatch.setattr(runs, "check_memory", lambda *_: None)
    monkeypatch.setattr(runs, "check_space", lambda *_: "space")
    return types.SimpleNamespace(report=report)


@pytest.fixture
def arguments(photos, tmp_path):
    return [
        "train",
        "--model=tiny",
        f"--data={photos}",
        f"--output_dir={tmp_path / 'run'}",
        "--max_train_steps=6",
        "--learning_rate=1e-3",
        "--no_cache",
        # A fake has no state to write.
        "--checkpoint_every_minutes=0",
    ]


def history(run):
    with open(run / "history.csv", newline="") as file:
        return list(csv.DictReader(file))


def test_a_run_directory_holds_everything(fakes, arguments, tmp_path, capsys):
    run = tmp_path / "run"
    prompts = ["--preview_prompts", "a", "b", "--preview_every_steps=3"]
    assert main([*arguments, *prompts]) == 0
    names = ["config.yaml", "history.csv", "index.html", "logs", "previews"]
    names += ["report.json", "run.json", "weights"]
    assert sorted(os.listdir(run)) == [".lock", *names]
    report = (run / "index.html").read_text(encoding="utf-8")
    assert "finished after 6 steps" in report and "step 3: b" in report
    record = runs.read_record(run)
    assert (record.command, record.state, record.step) == (
        "train",
        "finished",
        6,
    )
    assert sorted(os.listdir(run / "previews")) == [
        "before_and_after.png",
        "step_000000.png",
        "step_000003.png",
        "step_000006.png",
    ]
    events, previews = sorted(os.listdir(run / "logs"))
    assert events.startswith("events.") and previews == "previews"
    # Six steps are one pass of four and a half one.
    assert [row["step"] for row in history(run)] == ["4", "6"]
    weights = json.loads((run / "weights" / "keras_sdft.json").read_text())
    assert weights == {"steps": 6}
    output = capsys.readouterr()
    assert "1,234,567 weights" in output.out
    assert f"keras-sdft generate --model {run} --prompt a" in output.out
    assert "steps 6/6" in output.err


def test_the_card_shows_the_last_preview_after_a_signal_at_the_last_step(
    fakes, arguments, tmp_path, monkeypatch
):
    last, export = tmp_path / "run/previews/step_000006.png", FakeTrainer.export
    was_there = []

    def record(trainer, *given, **named):
        was_there.append(last.exists())
        return export(trainer, *given, **named)

    monkeypatch.setattr(FakeTrainer, "export", record)
    told = property(lambda progress: progress.position.step > 0)
    monkeypatch.setattr(checkpoint.Progress, "is_interrupted", told)
    assert main([*arguments, "--preview_prompts", "a"]) == 0
    # The weights come first, and the preview is generated for the card then.
    assert was_there == [False, True]


def test_words_of_previews_that_are_not_known_are_told(
    fakes, arguments, capsys
):
    assert main([*arguments, "--preview_prompts", "a cat", "gourd"]) == 0
    told = "['gourd'] unknown, and no caption has them"
    assert capsys.readouterr().out.count(told) == 1


def test_the_saved_config_is_the_run_again(fakes, arguments, tmp_path):
    first, second = tmp_path / "run", tmp_path / "again"
    assert main([*arguments, "--preview_prompts", "yes", "--overwrite"]) == 0
    config = ["--config", str(first / "config.yaml")]
    assert main(["train", *config, f"--output_dir={second}"]) == 0
    saved = [
        yaml.safe_load((run / "config.yaml").read_text())
        for run in (first, second)
    ]
    assert saved[0].pop("output_dir") == str(first)
    assert saved[1].pop("output_dir") == str(second)
    assert saved[0] == saved[1]
    assert saved[0]["overwrite"] is False
    assert saved[0]["preview_prompts"] == ["yes"]
    assert saved[0]["mixed_precision"] == "no"


def test_the_commit_of_an_address_is_saved(
    fakes, arguments, photos, tmp_path, hub_server
):
    hub_server.repos["datasets/me/photos"] = photos
    arguments[2] = "--data=hf://me/photos"
    assert main(arguments) == 0
    config = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    commit = commit_of("datasets/me/photos")
    assert config["data"] == f"hf://me/photos@{commit}"


def test_config_holds_every_flag_and_flags_win(fakes, arguments, tmp_path):
    assert main(arguments) == 0
    path = tmp_path / "run" / "config.yaml"
    names = set(train_module.COMMAND.flags) - {"resume"}
    assert set(yaml.safe_load(path.read_text())) == names
    config = ["train", "--config", str(path)]
    _, options = parse([*config, "--seed=5", "--learning_rate=1e-5"])
    assert (options.seed, options.learning_rate) == (5, 1e-5)
    assert options.max_train_steps == 6


def saved(**given):
    options = options_of(**given)
    return resolved(options, inputs_of(options, ("data",)))


def test_paths_are_saved_whole_and_a_preset_stays_a_name(
    photos, tmp_path, monkeypatch
):
    (tmp_path / "tiny").mkdir()
    monkeypatch.chdir(tmp_path)
    values = saved(data="photos")
    assert values["model"] == "tiny"
    assert values["data"] == str(photos)
    assert values["output_dir"] == str(tmp_path / "run")
    values = saved(data="tfds:mnist")
    assert values["data"] == "tfds:mnist"


def test_unreadable_images_are_told_and_kept(
    fakes, arguments, tmp_path, capsys
):
    fakes.report.add("3.png", "truncated")
    assert main(arguments) == 0
    text = (tmp_path / "run" / "skipped.csv").read_text()
    assert text.splitlines() == ["image,reason", "3.png,truncated"]
    assert "3.png  truncated" in capsys.readouterr().out


def test_validation_has_its_column(fakes, arguments, tmp_path, photos):
    assert main([*arguments, f"--validation_data={photos}"]) == 0
    assert all(float(row["val_loss"]) for row in history(tmp_path / "run"))


def test_weights_can_be_written_on_the_way(fakes, arguments, tmp_path):
    assert main([*arguments, "--save_every_steps=4"]) == 0
    path = tmp_path / "run" / "weights" / "keras_sdft.json"
    assert json.loads(path.read_text()) == {"steps": 6}


def test_a_loss_that_is_no_number_stops_the_run(
    fakes, arguments, tmp_path, capsys
):
    assert main([*arguments, "--learning_rate=1e30"]) == 2
    error = capsys.readouterr().err
    assert "Try a lower `learning_rate` (it was 1e+30)" in error
    assert "Traceback" not in error
    assert not (tmp_path / "run" / "weights").exists()


def test_an_earlier_run_needs_overwrite(fakes, arguments, tmp_path, capsys):
    assert main(arguments) == 0
    assert main(arguments) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert main([*arguments, "--overwrite", "--max_train_steps=2"]) == 0
    assert [row["step"] for row in history(tmp_path / "run")] == ["2"]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--num_train_epochs=2"], "exactly one of `max_train_steps`"),
        (["--max_train_steps=null"], "exactly one of `max_train_steps`"),
        (["--max_train_steps=0"], "`max_train_steps` must be an integer >= 1"),
        (["--batch_size=0"], "`batch_size` must be an integer >= 1"),
        (["--learning_rate=0"], "`learning_rate` must be a finite number > 0"),
        (["--adam_beta2=1"], "`adam_beta2` must be a finite number in [0, 1)"),
        (["--resolution=100"], "Nearest valid: 128"),
    ],
)
def test_bad_values_make_no_directory(
    fakes, arguments, tmp_path, capsys, more, message
):
    assert main([*arguments, *more]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_the_data_folder_is_never_written_into(
    fakes, arguments, photos, capsys
):
    before = sorted(os.listdir(photos))
    assert main([*arguments, f"--output_dir={photos / 'run'}"]) == 2
    assert "must not contain one another" in capsys.readouterr().err
    assert sorted(os.listdir(photos)) == before


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data": "nowhere"}, "nowhere"),
        ({"model": "tinny"}, "'tiny'"),
        ({"preview_prompts": ["a"], "preview_num_steps": 0}, "num_steps"),
        ({"caption_dropout": 2.0}, "caption_dropout"),
        ({"caption_template": "a photo"}, "caption"),
        ({"ema_decay": 1.5}, "ema_decay"),
        ({"offset_noise": -1.0}, "offset_noise"),
    ],
)
def test_packages_refuse_before_anything_is_made(
    photos, tmp_path, monkeypatch, changes, message
):
    real = runs.make_callbacks

    def no_training(*arguments):
        real(*arguments)
        raise AssertionError("nothing was refused")

    monkeypatch.setattr(runs, "make_callbacks", no_training)
    given = {"data": str(photos), "output_dir": str(tmp_path / "run")}
    options = options_of(**given | {"max_train_steps": 1} | changes)
    if "ema_decay" not in changes and "offset_noise" not in changes:
        trainer = types.SimpleNamespace()
        monkeypatch.setattr(run_module, "make_trainer", lambda *a: trainer)
        monkeypatch.setattr(runs, "check_memory", lambda *_: None)
    with pytest.raises((ValueError, OSError), match=message):
        train_module.train(options)
    assert not (tmp_path / "run").exists()


def test_epochs_are_rounded_up():
    data = RunData(None, None, None, 2, steps_per_epoch=4, steps=9)
    assert data.epochs == 3
    assert math.isclose(data.steps / data.steps_per_epoch, 2.25)


def test_the_best_weights_need_a_validation(fakes, arguments, tmp_path, capsys):
    assert main([*arguments, "--keep_best=val_loss"]) == 2
    assert "validates on nothing" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
