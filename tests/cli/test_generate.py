import os

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from keras_sdft import __version__
from keras_sdft import models
from keras_sdft import runs
from keras_sdft.cli import main
from keras_sdft.cli.command_line import parse


@pytest.fixture
def output(tmp_path):
    return tmp_path / "out" / "heart.png"


def generate(output, *arguments):
    return main(
        [
            "generate",
            "--model=tiny",
            "--prompt",
            "a red heart",
            f"--output={output}",
            *arguments,
        ]
    )


def corner(path):
    with Image.open(path) as image:
        return np.asarray(image)[0, 0].tolist()


def test_one_image_is_the_output(fake_model, output, capsys):
    assert generate(output, "--seed=3", "--num_steps=4") == 0
    assert os.listdir(output.parent) == ["heart.png"]
    assert capsys.readouterr().out == f"{output}\n"
    with Image.open(output) as image:
        assert image.size == (64, 64)
        assert image.text == {
            "prompt": "a red heart",
            "negative_prompt": "",
            "seed": "3",
            "num_steps": "4",
            "guidance_scale": "5.0",
            "sampler": "ddim",
            "model": "tiny",
            "parameters": (
                "a red heart\nSteps: 4, Sampler: DDIM, CFG scale: 5.0, "
                "Seed: 3, Size: 64x64, Model: tiny, "
                f"Version: keras_sdft {__version__}"
            ),
        }
    ((name, given),) = fake_model.loaded
    assert name == "tiny"
    assert {k: v for k, v in given.items() if v} == {}
    assert fake_model.calls == [
        (
            ["a red heart"],
            {
                "negative_prompt": None,
                "num_steps": 4,
                "guidance_scale": 5.0,
                "sampler": "ddim",
                "seed": [3],
            },
        )
    ]


def test_several_images_and_their_grid(fake_model, output):
    assert generate(output, "--seed=3", "--num_images=4") == 0
    names = ["heart.png"] + [f"heart_{i}.png" for i in range(4)]
    assert sorted(os.listdir(output.parent)) == names
    for number in range(4):
        path = output.parent / f"heart_{number}.png"
        assert corner(path) == [3 + number, 0, 0]
        with Image.open(path) as image:
            assert image.text["seed"] == str(3 + number)
    with Image.open(output) as grid:
        assert grid.size == (64 * 2 + 2, 64 * 2 + 2)


def test_several_prompts_are_the_rows(fake_model, output):
    assert generate(output, "--prompt", "a cat", "--num_images=3") == 0
    ((prompts, arguments),) = fake_model.calls
    assert prompts == ["a red heart"] * 3 + ["a cat"] * 3
    assert arguments["seed"] == [0, 1, 2, 0, 1, 2]
    with Image.open(output) as grid:
        assert grid.size == (160 + 3 * 64 + 4, 2 * 64 + 2)
        assert grid.text["prompt"] == "a red heart | a cat"


def test_the_model_gets_size_and_precision(fake_model, output):
    generate(
        output,
        "--height=64",
        "--width=128",
        "--mixed_precision=bf16",
        "--vae=other",
        "--clip_skip=2",
        "--sampler=dpmpp_2m",
        "--negative_prompt=a dog",
        "--guidance_scale=4",
    )
    ((_, given),) = fake_model.loaded
    assert {k: v for k, v in given.items() if v} == {
        "height": 64,
        "width": 128,
        "dtype": "mixed_bfloat16",
        "vae": "other",
        "clip_skip": 2,
    }
    _, arguments = fake_model.calls[0]
    assert arguments["negative_prompt"] == ["a dog"]
    assert arguments["guidance_scale"] == 4.0
    assert arguments["sampler"] == "dpmpp_2m"
    with Image.open(output) as image:
        assert image.text["clip_skip"] == "2"
        lines = image.text["parameters"].splitlines()
        assert lines[1] == "Negative prompt: a dog"
        assert "Sampler: DPM++ 2M" in lines[2] and "Clip skip: 2" in lines[2]


@pytest.mark.parametrize("taken", ["heart.png", "heart_1.png"])
def test_no_file_is_replaced_unless_told(fake_model, output, capsys, taken):
    output.parent.mkdir()
    (output.parent / taken).write_text("mine")
    assert generate(output, "--num_images=2") == 2
    assert "--overwrite" in capsys.readouterr().err
    assert fake_model.loaded == []
    assert (output.parent / taken).read_text() == "mine"
    assert os.listdir(output.parent) == [taken]
    assert generate(output, "--num_images=2", "--overwrite") == 0
    assert len(os.listdir(output.parent)) == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--num_images=0"], "num_images"),
        (["--num_steps=0"], "num_steps"),
        (["--num_steps=1001"], "num_steps"),
        (["--seed=-1"], "seed"),
        (["--height=100"], "Nearest valid: 128"),
        (["--guidance_scale=-1"], "guidance_scale"),
        (["--output=heart.gif"], "must end in one of"),
        (["--batch_size=0"], "batch_size"),
        (["--seed", "1", "2", "--num_images=2"], "Leave out the one"),
        (["--negative_prompt", "a", "b"], "2 for 1 prompts"),
        (["--prompt_file=missing.txt"], "missing.txt"),
    ],
)
def test_bad_values_are_refused_before_loading(
    fake_model, output, capsys, arguments, message
):
    assert generate(output, *arguments) == 2
    assert message in capsys.readouterr().err
    assert fake_model.loaded == []
    assert not output.parent.exists()


def test_a_directory_is_no_output(fake_model, tmp_path, capsys):
    path = tmp_path / "folder.png"
    path.mkdir()
    assert generate(path, "--overwrite") == 2
    assert "must be a file" in capsys.readouterr().err
    assert path.is_dir()


def test_a_prompt_is_the_text_that_was_typed():
    command, options = parse(
        ["generate", "--model=tiny", "--output=a.png", "--prompt", "[a]: yes"]
    )
    assert command == "generate"
    assert options.prompt == ["[a]: yes"]


def test_prompts_of_a_file_seeds_and_negative_prompts(
    fake_model, tmp_path, capsys
):
    file = tmp_path / "prompts.txt"
    file.write_text("# animals\na cat\n\n  a Dog, sitting  \n")
    folder = tmp_path / "out"
    arguments = ["--prompt_file", str(file), "--output", str(folder)]
    arguments += ["--seed", "7", "3", "--negative_prompt", "blue", "red"]
    assert main(["generate", "--model=tiny", *arguments]) == 0
    names = ["000-a-cat-7.png", "001-a-cat-3.png"]
    names += ["002-a-dog-sitting-7.png", "003-a-dog-sitting-3.png", "grid.png"]
    assert sorted(os.listdir(folder)) == names
    printed = capsys.readouterr().out.split()
    assert [os.path.basename(path) for path in printed] == names
    ((prompts, asked),) = fake_model.calls
    assert prompts == ["a cat", "a cat", "a Dog, sitting", "a Dog, sitting"]
    assert asked["seed"] == [7, 3, 7, 3]
    assert asked["negative_prompt"] == ["blue", "blue", "red", "red"]
    assert corner(folder / names[3]) == [3, 0, 0]


@pytest.mark.parametrize("extension", ["jpg", "webp"])
def test_other_formats_hold_the_settings_too(fake_model, output, extension):
    path = output.with_suffix(f".{extension}")
    assert generate(path, "--seed=90") == 0
    with Image.open(path) as image:
        assert image.format == {"jpg": "JPEG", "webp": "WEBP"}[extension]
        assert abs(image.getpixel((0, 0))[0] - 90) < 4
        comment = image.getexif().get_ifd(0x8769)[0x9286]
    assert comment.startswith(b"UNICODE\0")
    text = comment[8:].decode("utf-16-be")
    assert text.startswith("a red heart\nSteps: 25, ") and "Seed: 90" in text


def test_batches_are_of_one_size_and_smaller_where_memory_ends(
    fake_model, output, monkeypatch
):
    sizes = []
    whole = fake_model.text_to_image

    def limited(prompts, **arguments):
        sizes.append(len(prompts))
        if len(prompts) > 2:
            raise tf.errors.ResourceExhaustedError(None, None, "memory")
        return whole(prompts, **arguments)

    monkeypatch.setattr(fake_model, "text_to_image", limited)
    assert generate(output, "--num_images=5", "--batch_size=4") == 0
    # The last one is filled up to the size of the others.
    assert sizes == [4, 2, 2, 2]
    for number in range(5):
        assert corner(output.parent / f"heart_{number}.png") == [number, 0, 0]


def test_a_run_is_sampled_as_its_previews_were(fake_model, output, tmp_path):
    run = tmp_path / "run"
    with runs.RunDirectory(run, "train") as directory:
        saved = {"preview_num_steps": 9, "preview_guidance_scale": 4.0}
        directory.write_config(saved, "again")
        directory.begin()
    assert generate(output, f"--model={run}", "--num_steps=4") == 0
    assert generate(output, f"--model={run}", "--overwrite") == 0
    given = [
        (call["num_steps"], call["guidance_scale"])
        for _, call in fake_model.calls
    ]
    assert given == [(4, 4.0), (9, 4.0)]


def test_other_models_have_steps_and_guidance_of_their_own(
    fake_model, output, tmp_path, monkeypatch
):
    run = tmp_path / "run"
    with runs.RunDirectory(run, "train") as directory:
        saved = {"preview_num_steps": None, "preview_guidance_scale": None}
        directory.write_config(saved, "again")
        directory.begin()
    assert generate(output, f"--model={run}") == 0
    full_size = models.PRESETS["sd1.4"].spec
    monkeypatch.setattr(fake_model, "spec", full_size)
    assert generate(output, "--model=sd1.4", "--overwrite") == 0
    given = [
        (call["num_steps"], call["guidance_scale"])
        for _, call in fake_model.calls
    ]
    assert given == [(25, 5.0), (25, 7.5)]
