import os

import numpy as np
import pytest
from PIL import Image

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
            "guidance_scale": "7.5",
            "sampler": "ddim",
            "model": "tiny",
        }
    ((name, given),) = fake_model.loaded
    assert name == "tiny"
    assert {k: v for k, v in given.items() if v} == {}
    assert fake_model.calls == [
        (
            "a red heart",
            {
                "negative_prompt": None,
                "num_steps": 4,
                "guidance_scale": 7.5,
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
    seen = [(p, *a["seed"]) for p, a in fake_model.calls]
    expected = [(p, s) for p in ("a red heart", "a cat") for s in range(3)]
    assert seen == expected
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
    assert arguments["negative_prompt"] == "a dog"
    assert arguments["guidance_scale"] == 4.0
    assert arguments["sampler"] == "dpmpp_2m"
    with Image.open(output) as image:
        assert image.text["clip_skip"] == "2"


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
        (["--output=heart.jpg"], "ending in '.png'"),
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
