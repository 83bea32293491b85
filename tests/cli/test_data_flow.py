"""The whole data flow: train, generate and inspect the tiny preset."""

import csv
import hashlib
import json
import os

import numpy as np
from PIL import Image

from keras_sdft.cli import main


def digest(folder):
    return {
        name: hashlib.sha256((folder / name).read_bytes()).hexdigest()
        for name in sorted(os.listdir(folder))
    }


def test_from_a_folder_of_images_to_an_image(photos, tmp_path, capsys):
    run, output = tmp_path / "run", tmp_path / "out.png"
    before = digest(photos)
    code = main(
        [
            "train",
            "--model=tiny",
            f"--data={photos}",
            f"--output_dir={run}",
            "--resolution=64",
            "--batch_size=4",
            "--max_train_steps=3",
            "--learning_rate=1e-4",
            "--seed=0",
            "--preview_prompts",
            "a red heart",
            "--preview_num_steps=1",
            "--preview_guidance_scale=1",
        ]
    )
    assert code == 0
    assert digest(photos) == before
    with open(run / "history.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    # Eight images are two steps of four; the third is a part of a pass.
    assert [row["step"] for row in rows] == ["2", "3"]
    assert os.listdir(run / "checkpoints") == ["step_00000003"]
    assert "checkpoints every 10 minutes and at" in capsys.readouterr().out
    assert all(np.isfinite(float(row["loss"])) for row in rows)
    assert sorted(os.listdir(run / "previews")) == [
        "before_and_after.png",
        "step_000000.png",
        "step_000003.png",
    ]

    code = main(
        [
            "generate",
            f"--model={run}",
            "--prompt",
            "a red heart",
            f"--output={output}",
            "--height=64",
            "--width=64",
            "--num_steps=1",
            "--guidance_scale=1",
            "--seed=0",
        ]
    )
    assert code == 0
    # The last preview asked for the same: what was trained is what is
    # loaded.
    with Image.open(run / "previews" / "step_000003.png") as preview:
        generated = np.asarray(preview)[:, -64:]
    with Image.open(output) as image:
        np.testing.assert_allclose(np.asarray(image), generated, atol=1)

    capsys.readouterr()
    assert main(["inspect", str(run), "--json"]) == 0
    description = json.loads(capsys.readouterr().out)
    assert description["kind"] == "run"
    assert description["base"] == "tiny"
    assert description["steps"] == 3
    assert description["parts"]["diffusion_model"]["dtype"] == "float32"

    # A run that has ended is made longer, and repeats no step.
    assert main(["train", "--resume", str(run), "--max_train_steps=4"]) == 0
    output = capsys.readouterr().out
    assert "goes on after step 3\n" in output
    with open(run / "history.csv", newline="") as file:
        assert [row["step"] for row in csv.DictReader(file)] == ["2", "4"]
