import csv
import json
import os
import re
import shutil
import types

import numpy as np
import pytest
import yaml
from PIL import Image

from keras_sdft import disk
from keras_sdft import runs
from keras_sdft.cli import dreambooth as dreambooth_module
from keras_sdft.cli import main
from keras_sdft.cli import run as run_module
from keras_sdft.cli.dreambooth import Subject
from keras_sdft.cli.dreambooth import with_prompts

INSTANCE = "a photo of sks dog"
CLASS = "a photo of dog"


def paint(folder, count, first=0):
    folder.mkdir(parents=True)
    random = np.random.default_rng(first)
    for number in range(count):
        pixels = random.integers(0, 256, (80, 96, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    return folder


@pytest.fixture
def subject(tmp_path):
    return paint(tmp_path / "subject", 3)


@pytest.fixture
def arguments(subject, tmp_path):
    return [
        "dreambooth",
        "--model=tiny",
        f"--instance_data_dir={subject}",
        f"--instance_prompt={INSTANCE}",
        f"--output_dir={tmp_path / 'run'}",
        "--max_train_steps=2",
    ]


def prior(tmp_path, count=3):
    return [
        f"--class_prompt={CLASS}",
        f"--class_data_dir={tmp_path / 'class'}",
        f"--num_class_images={count}",
        "--class_num_steps=1",
        "--class_guidance_scale=1",
    ]


@pytest.fixture
def micro(monkeypatch, make_micro):
    """Trains a micro model step by step, without tracing a graph."""
    seen = types.SimpleNamespace(models=[], specs=[])
    make_trainer = run_module.make_trainer
    generate = runs.generate_class_images

    def load(options):
        seen.models.append(make_micro())
        return seen.models[-1]

    def make_eager(options, sd, steps):
        seen.trainer = make_trainer(options, sd, steps)
        seen.trainer.run_eagerly = True
        return seen.trainer

    def generate_watched(sd, *arguments, **options):
        seen.specs.append(sd.spec)
        return generate(sd, *arguments, progress=False, **options)

    monkeypatch.setattr(run_module, "load_for_training", load)
    monkeypatch.setattr(run_module, "make_trainer", make_eager)
    monkeypatch.setattr(runs, "generate_class_images", generate_watched)
    return seen


@pytest.fixture
def unloadable(monkeypatch):
    def load(options):
        raise AssertionError("nothing was refused")

    monkeypatch.setattr(run_module, "load_for_training", load)


def history(run):
    with open(run / "history.csv", newline="") as file:
        return list(csv.DictReader(file))


def test_from_photos_to_a_run(
    micro, arguments, subject, tmp_path, capsys, caplog
):
    run, classes = tmp_path / "run", tmp_path / "class"
    paint(classes, 1, first=9)
    more = [
        *prior(tmp_path),
        "--gradient_accumulation_steps=2",
        "--train_text_encoder",
        "--text_encoder_learning_rate=1e-7",
        "--weighting=min_snr",
        "--offset_noise=0.1",
        f"--validation_data_dir={paint(tmp_path / 'others', 1, first=5)}",
    ]
    assert main([*arguments, *more]) == 0
    # One was there, two were generated; the photos' folder is as it was.
    names = [f"seed-{seed:010d}.png" for seed in range(2)]
    found = sorted(os.listdir(classes))
    assert found == ["0.png", "class_images.jsonl", *names]
    assert sorted(os.listdir(subject)) == ["0.png", "1.png", "2.png"]
    lines = (classes / "class_images.jsonl").read_text().splitlines()
    assert [json.loads(line)["seed"] for line in lines] == [0, 1]
    assert [json.loads(line)["text"] for line in lines] == [CLASS, CLASS]

    (row,) = history(run)
    assert row["step"] == "2"
    for name in ("loss", "instance_loss", "prior_loss", "val_loss"):
        assert np.isfinite(float(row[name])), name
    assert int(micro.trainer.step) == 2
    weights = json.loads((run / "weights" / "keras_sdft.json").read_text())
    assert weights["steps"] == 2
    assert "text_encoder" in str(weights)
    output = capsys.readouterr()
    assert "2 generated, 3 wanted" in output.out
    # Two photos and two class images, in two parts.
    assert "2 steps of 2 x 2 images" in output.out
    assert f"--prompt '{INSTANCE}'" in output.out
    assert re.search(r"instance \d\.\d+, prior \d\.\d+", output.err)
    # One photo is few to learn from, and enough to validate with.
    assert "holds one photo" not in caplog.text

    config = yaml.safe_load((run / "config.yaml").read_text())
    assert config["class_data_dir"] == str(classes)
    assert config["learning_rate"] == 1e-6
    assert config["instance_prompt"] == INSTANCE
    head = (run / "config.yaml").read_text().splitlines()[0]
    assert "keras-sdft dreambooth --config" in head


def test_without_a_class_prompt_nothing_is_generated(
    micro, arguments, tmp_path
):
    short = ["--max_train_steps=1", f"--class_data_dir={tmp_path / 'class'}"]
    assert main([*arguments, *short]) == 0
    assert not (tmp_path / "class").exists()
    assert micro.specs == []
    (row,) = history(tmp_path / "run")
    assert "prior_loss" not in row
    config = tmp_path / "run" / "config.yaml"
    again = [f"--output_dir={tmp_path / 'again'}", "--seed=0"]
    assert main(["dreambooth", f"--config={config}", *again]) == 0
    (second,) = history(tmp_path / "again")
    assert second["loss"] == row["loss"]


def test_class_images_come_from_the_model_as_it_was(micro, arguments, tmp_path):
    """A new target is asked of the trained model, not of the base."""
    changed = [
        "--prediction_type=v_prediction",
        "--change_prediction_type",
        "--zero_terminal_snr",
    ]
    changed += ["--max_train_steps=1"]
    assert main([*arguments, *prior(tmp_path, 1), *changed]) == 0
    (spec,) = micro.specs
    assert (spec.prediction_type, spec.zero_terminal_snr) == ("epsilon", False)
    spec = micro.models[0].spec
    assert (spec.prediction_type, spec.zero_terminal_snr) == (
        "v_prediction",
        True,
    )


def test_options_are_refused_before_class_images(
    micro, arguments, tmp_path, capsys
):
    """Also those that only the model or the trainer can judge."""
    for wrong, message in (
        (["--offset_noise=-1"], "offset_noise"),
        (["--ema_decay=1.5"], "ema_decay"),
        (["--timestep_range", "500", "100"], "two integers"),
        (["--crop=center", "--caption_dropout=2"], "caption_dropout"),
        (["--masks=files"], "mask"),
        (
            ["--preview_prompts", "a", "--preview_num_steps=0"],
            "num_steps",
        ),
        (
            ["--lr_scheduler=polynomial", "--lr_end=1"],
            "`lr_end` must be less",
        ),
    ):
        assert main([*arguments, *prior(tmp_path), *wrong]) == 2
        assert message in capsys.readouterr().err
        assert micro.specs == []
        assert not (tmp_path / "class").exists()
        assert not (tmp_path / "run").exists()


def test_folders_that_cannot_be(unloadable, arguments, subject, capsys):
    root = subject.parent
    copied = root / "copied"
    paint(copied, 1, first=4)
    shutil.copy(subject / "0.png", copied / "other.png")
    (root / "empty").mkdir()
    inside = subject / "class"
    for wrong, message in (
        ([f"--class_data_dir={subject}"], "They are the same"),
        ([f"--class_data_dir={inside}"], "inside the other"),
        ([f"--class_data_dir={copied}"], "share no image"),
        (
            [f"--class_data_dir={root / 'run' / 'class'}"],
            "must not contain one",
        ),
        ([], "needs `class_data_dir`"),
        ([f"--instance_data_dir={root / 'empty'}"], "holds no images"),
        ([f"--instance_data_dir={root / 'none'}"], "does not exist"),
        (
            [f"--class_data_dir={copied}", f"--validation_data_dir={subject}"],
            "must hold other photos",
        ),
    ):
        if "validation" in str(wrong):
            (copied / "other.png").unlink()
        if "instance" in str(wrong):
            wrong = [*wrong, f"--class_data_dir={root / 'new'}"]
        assert main([*arguments, f"--class_prompt={CLASS}", *wrong]) == 2
        assert message in capsys.readouterr().err
        assert not (root / "run").exists()
    assert sorted(os.listdir(subject)) == ["0.png", "1.png", "2.png"]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (["--instance_prompt=a photo of dog"], "rare token"),
        (["--token=ohwx"], "must hold the subject's token"),
        (["--class_prompt=a sks dog", "--token=sks"], "must not hold"),
        (["--instance_prompt="], "not empty"),
        (["--instance_prompt=a {token} dog"], "no token was given"),
        (["--instance_prompt=a sks {class}"], "no class was given"),
        (["--instance_prompt=a {subject} dog"], "{token}"),
        (["--prediction_type=v_prediction"], "weights predict 'epsilon'"),
        (["--zero_terminal_snr"], "cannot be used with `prediction"),
        (
            ["--num_class_images=0"],
            "`num_class_images` must be an integer >= 1",
        ),
        (["--prior_preservation=base"], "`class_data_dir` has no effect"),
        (["--num_class_images=100000000"], "still to generate) needs"),
    ],
)
def test_prompts_and_options_that_cannot_be(
    unloadable, arguments, tmp_path, capsys, monkeypatch, wrong, message
):
    usage = types.SimpleNamespace(free=10**9)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    if "--num_class_images=100000000" in wrong:
        # A list of so many names takes a while; the disk is as small.
        wrong = ["--num_class_images=30000"]
    assert main([*arguments, *prior(tmp_path), *wrong]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
    assert not (tmp_path / "class").exists()


def test_a_base_is_needed_to_compare_with(unloadable, arguments, capsys):
    base = [f"--class_prompt={CLASS}", "--prior_preservation=base"]
    wrong = {
        "change the base": [],
        "text_encoder": ["--lora_rank=2", "--train_text_encoder"],
        "change_prediction_type": [
            *("--lora_rank=2", "--prediction_type=v_prediction"),
            "--change_prediction_type",
        ],
    }
    for message, more in wrong.items():
        assert main([*arguments, *base, *more]) == 2
        assert message in capsys.readouterr().err


def options_of(**changes):
    given = {
        "model": "tiny",
        "output_dir": "run",
        "instance_data_dir": "photos",
        "instance_prompt": INSTANCE,
    }
    return dreambooth_module.COMMAND.options(**given | changes)


@pytest.mark.parametrize(
    ("instance", "of_class"),
    [
        ("a photo of {token} {class}", "a photo of {class}"),
        ("a photo of [token] [class noun]", "a photo of [class noun]"),
        ("a photo of [V] {class}", "a photo of {token} {class}"),
    ],
)
def test_templates_are_filled(instance, of_class):
    options = options_of(
        instance_prompt=instance,
        class_prompt="a photo of {class}",
        token="sks",
        class_noun="dog",
    )
    filled = with_prompts(options)
    assert (filled.instance_prompt, filled.class_prompt) == (INSTANCE, CLASS)
    # What is filled in stays: the saved config gives the same run.
    assert vars(with_prompts(filled)) == vars(filled)


def test_a_split_or_common_token_is_told(make_micro, subject, capsys):
    for token, told in (("sks dog", True), (None, False)):
        options = options_of(
            instance_data_dir=str(subject), token=token, max_train_steps=2
        )
        Subject(options, make_micro()).load()
        note = "Note: The token 'sks dog'" in capsys.readouterr().err
        assert note is told


@pytest.mark.slow
def test_the_whole_data_flow(arguments, tmp_path, capsys):
    """The embedded model at its own size, with a graph, and generated from."""
    run, output = tmp_path / "run", tmp_path / "out.png"
    code = main(
        [
            *arguments,
            *prior(tmp_path, 2),
            "--gradient_accumulation_steps=2",
            "--buckets",
            "--preview_prompts",
            INSTANCE,
            "--preview_num_steps=2",
        ]
    )
    assert code == 0
    assert (run / "previews" / "before_and_after.png").exists()
    (row,) = history(run)
    assert np.isfinite(float(row["prior_loss"]))
    generating = ["--num_steps=2", f"--output={output}", "--prompt", INSTANCE]
    assert main(["generate", f"--model={run}", *generating]) == 0
    with Image.open(output) as image:
        assert image.size == (128, 128)


def test_class_images_that_cannot_be_written_are_found_at_once(
    arguments, tmp_path, monkeypatch, capsys
):
    # Root may write everywhere.
    monkeypatch.setattr(disk, "writable", lambda path: "class" not in str(path))
    assert main([*arguments, *prior(tmp_path)]) == 2
    assert "`class_data_dir` cannot be written" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
