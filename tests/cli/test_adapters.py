"""LoRA and embedding files through the commands, from training to an image."""

import json

import numpy as np
import pytest
from PIL import Image

from keras_sdft import adapters
from keras_sdft.cli import main
from keras_sdft.cli import run as run_module
from keras_sdft.cli.command_line import parse
from keras_sdft.formats import embedding_files
from keras_sdft.formats import lora_files

WEIGHTS = f"weights/{lora_files.FILE}"


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    for index in range(2):
        image = np.full((64, 64, 3), 90 * index, "uint8")
        Image.fromarray(image).save(folder / f"{index}.png")
    return folder


def train(command, **flags):
    """Trains `tiny` for one step, without tracing a graph of it."""

    make = run_module.make_trainer

    def eager(options, sd, steps):
        trainer = make(options, sd, steps)
        trainer.run_eagerly = True
        return trainer

    flags |= {"model": "tiny", "resolution": 64, "max_train_steps": 1}
    given = [f"--{name}={value}" for name, value in flags.items()]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run_module, "make_trainer", eager)
        return main([command, *given])


@pytest.fixture(scope="module")
def lora_run(tmp_path_factory, photos):
    """A run of one step, whose LoRA is large enough to be seen."""
    run = tmp_path_factory.mktemp("lora") / "run"
    flags = {"lora_rank": 2, "lora_alpha": 20, "learning_rate": 0.5}
    flags |= {"data": photos, "output_dir": run, "no_cache": True}
    assert train("train", caption="a red heart", batch_size=2, **flags) == 0
    return run


def generate(out, *more, model="tiny"):
    arguments = ["generate", "--model", str(model), "--output", str(out)]
    arguments += ["--num_steps", "2", "--height", "64", "--width", "64"]
    if main([*arguments, "--prompt", "a red heart", *map(str, more)]):
        return None
    return np.asarray(Image.open(out), "int32")


def test_one_lora_by_every_way_to_use_it(lora_run, tmp_path, capsys):
    file, kohya = lora_run / WEIGHTS, tmp_path / "style.safetensors"
    arguments = ["--output", str(kohya), "--format", "kohya"]
    assert main(["convert", "--model", str(file), *arguments]) == 0
    base = generate(tmp_path / "base.png")
    found = generate(tmp_path / "run.png", model=lora_run)
    assert np.abs(found - base).max() > 8
    # Half of it from a file and half from the run are the whole of it.
    merged, word = tmp_path / "merged", tmp_path / "toy.safetensors"
    embedding_files.write(word, {"<toy>": np.ones((2, 128), "float32")})
    arguments = ["--lora", f"{kohya}:0.5", "--lora", f"{lora_run}:0.5"]
    arguments += ["--output", str(merged), "--embedding", str(word)]
    assert main(["merge", "--model", "tiny", *arguments]) == 0
    told = capsys.readouterr().out
    assert "Left out, as files of their own: <toy>" in told
    image = generate(tmp_path / "merged.png", model=merged)
    assert np.abs(image - found).max() <= 2
    capsys.readouterr()
    assert main(["inspect", str(kohya), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["kind"], told["dialect"], told["ranks"]) == (
        "LoRA",
        "kohya",
        [2],
    )
    # A whole model cannot be made of a run whose LoRA is a file of its own.
    arguments = ["--output", str(tmp_path / "no"), "--format", "diffusers"]
    assert main(["convert", "--model", str(lora_run), *arguments]) == 2
    assert "keras-sdft merge" in capsys.readouterr().err


def test_a_word_is_learned_and_used(tmp_path, photos, capsys):
    run = tmp_path / "run"
    flags = {"token": "<toy>", "init_word": "heart", "learning_rate": 0.5}
    flags |= {"data": photos, "output_dir": run, "repeats": 1}
    assert train("textual_inversion", **flags) == 0
    assert "generate --model" in capsys.readouterr().out
    # The saved flags make the same run again, the learning rate among them.
    config = ["--config", str(run / "config.yaml")]
    name, options = parse(["textual_inversion", *config])
    saved = (options.token, options.repeats, options.learning_rate)
    assert (name, *saved) == ("textual_inversion", "<toy>", 1, 0.5)
    ((token, vectors),) = embedding_files.read(
        run / "weights" / "toy.safetensors"
    ).items()
    assert token == "<toy>" and vectors.shape == (1, 128)


def test_captions_of_a_word_hold_it_and_no_other_name():
    for templates in adapters.CAPTION_TEMPLATES.values():
        assert len(set(templates)) == len(templates) >= 10
        assert all(text.count("{caption}") == 1 for text in templates)


def test_an_embedding_is_used_by_its_name(tmp_path, capsys):
    path = tmp_path / "toy.safetensors"
    vectors = np.random.default_rng(0).normal(size=(2, 128))
    embedding_files.write(path, {"<toy>": vectors.astype("float32")})
    plain = generate(tmp_path / "a.png", "--prompt", "a <toy>")
    found = generate(
        tmp_path / "b.png", "--prompt", "a <toy>", "--embedding", path
    )
    assert np.abs(found - plain).max() > 8
    assert main(["inspect", str(path)]) == 0
    assert "<toy>" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--lora", "a.safetensors:strong"], "must be a number, the strength"),
        (["--lora", "missing.safetensors"], "missing.safetensors"),
        (["--embedding", "a.pt"], "is a pickle"),
    ],
)
def test_what_cannot_be_loaded_is_named(tmp_path, capsys, more, message):
    assert generate(tmp_path / "x.png", *more) is None
    assert message in capsys.readouterr().err
