"""The first steps are walked: each command and script, as it is written."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.documents import ROOT
from tests.documents import blocks

# What stands for the reader's own, and what the pages say to put there.
OWN = {"DIR": "examples/data/ink/train", "RUN": "runs/own", "OUT": "own"}
NAMES = {
    "docs/quickstart.md": (
        "runs/first/index.html",
        "runs/first/previews/before_and_after.png",
        "images/grid.png",
        "pipeline/model_index.json",
        "pipeline/README.md",
        "first.safetensors",
        "fine-tuned/diffusion_model.weights.h5",
        "dog.png",
    ),
    "README.md": (
        "runs/own/index.html",
        "own.png",
        "own_3.png",
        "fine-tuned/diffusion_model.weights.h5",
        "heart.png",
    ),
}


def steps(page):
    """Yields the arguments of a process for each step of a page, in order."""
    for block in blocks(ROOT / page):
        if block.reason is None and block.language == "python":
            yield [sys.executable, "-c", block.text]
        elif block.is_run:
            text = block.text
            for placeholder, own in OWN.items():
                text = text.replace(f" {placeholder}", f" {own}")
            yield ["bash", "-euxc", text]


@pytest.mark.slow
@pytest.mark.parametrize("page", NAMES)
def test_the_first_steps(page, tmp_path):
    shutil.copytree(ROOT / "examples/data", tmp_path / "examples/data")
    (tmp_path / "photos").symlink_to("examples/data/ink/train")
    commands = str(Path(sys.executable).parent)
    environment = {
        **os.environ,
        "PATH": os.pathsep.join([commands, os.environ["PATH"]]),
        "PYTHONPATH": str(ROOT),
    }

    for step in steps(page):
        subprocess.run(step, cwd=tmp_path, env=environment, check=True)

    for name in NAMES[page]:
        path = tmp_path / name
        assert path.stat().st_size > 0
        if path.suffix == ".png":
            assert np.asarray(Image.open(path).convert("RGB")).std() > 10
