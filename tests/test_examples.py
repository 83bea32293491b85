"""The examples run, on small made-up pictures, and leave what they say."""

import json
import runpy
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import keras_sdft

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (4, 72, 96, 3))
    lines = []
    for index, image in enumerate(pixels.astype("uint8")):
        name = f"{index}.png"
        Image.fromarray(image).save(folder / name)
        lines.append(json.dumps({"file_name": name, "text": f"no. {index}"}))
    (folder / "metadata.jsonl").write_text("\n".join(lines))
    return folder


@pytest.mark.slow
def test_finetune(photos, tmp_path, capsys):
    output = tmp_path / "fine-tuned"
    script = runpy.run_path(str(ROOT / "examples" / "finetune.py"))
    script["main"](
        [str(photos), "--output_dir", str(output), "--resolution", "64"]
        + ["--batch_size", "2", "--epochs", "1", "--num_steps", "2"]
    )
    picture = output / "before_and_after.png"
    assert capsys.readouterr().out.splitlines()[-1] == str(picture)
    before, after = np.split(np.asarray(Image.open(picture)), 2, axis=1)
    assert before.shape == (64, 64, 3)
    assert (before != after).any()
    # What was exported draws the same picture as what was trained.
    sd = keras_sdft.StableDiffusion.from_preset(output, 64, 64)
    again = sd.text_to_image("a red heart", num_steps=2, seed=0)[0]
    assert np.abs(again.astype(int) - after.astype(int)).max() <= 1


@pytest.mark.slow
def test_lora(photos, tmp_path, capsys):
    output = tmp_path / "style.safetensors"
    script = runpy.run_path(str(ROOT / "examples" / "lora.py"))
    script["main"](
        [str(photos), "--output", str(output), "--resolution", "64"]
        + ["--epochs", "1", "--learning_rate", "0.01"]
    )
    assert capsys.readouterr().out.splitlines()[-1] == f"{output}.png"
    images = np.split(np.asarray(Image.open(f"{output}.png")), 3, axis=1)
    assert (images[0] != images[1]).any() and (images[1] != images[2]).any()


@pytest.mark.slow
def test_dreambooth(photos, tmp_path):
    classes, output = tmp_path / "class", tmp_path / "subject"
    script = runpy.run_path(str(ROOT / "examples" / "dreambooth.py"))
    script["main"](
        [str(photos), str(classes), "a sks cat", "a cat"]
        + ["--output_dir", str(output), "--num_class_images", "2"]
        + ["--steps", "2", "--num_steps", "2"]
    )
    names = [f"seed-{seed:010d}.png" for seed in range(2)]
    assert sorted(path.name for path in classes.glob("*.png")) == names
    drawn = np.asarray(Image.open(output / "subject.png"))
    sd = keras_sdft.StableDiffusion.from_preset(output)
    again = sd.text_to_image("a sks cat", num_steps=2, seed=0)[0]
    assert np.abs(again.astype(int) - drawn.astype(int)).max() <= 1
