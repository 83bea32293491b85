"""The commands of the documents are run, page by page, as a reader would.

Each page has a folder, in which its later commands find what its earlier ones
made. What is in capitals on a page (`DIR`, `RUN`) is called so in the folder
too. Only what the tables here name is run otherwise than it is written; the
first steps are run without them, in `test_quickstart.py`.
"""

import contextlib
import gc
import json
import os
import re
import shlex
import shutil
import subprocess
import sys

import pytest
import yaml

from keras_sdft.cli import main
from tests.documents import PAGES
from tests.documents import ROOT
from tests.documents import blocks
from tests.documents import page_name
from tests.test_quickstart import NAMES as WALKED

# === What is run otherwise ===

# Models that cannot be had here.
MODELS = {"sd1.4": "tiny", "MODEL": "tiny"}
# Flags, and keys of recipes, that decide how long a command takes.
AT_MOST = {
    "max_train_steps": 2,
    "num_train_epochs": 1,
    "lr_warmup_steps": 1,
    "text_encoder_stop_step": 1,
    "resolution": 128,
    "num_class_images": 2,
    "num_steps": 2,
}
# What is added to a command in which a word stands, and that flag does not.
ADDED = {
    "train": {"preview_num_steps": 2},
    "textual_inversion": {"preview_num_steps": 2},
    "dreambooth": {"preview_num_steps": 2, "class_num_steps": 2},
    "generate": {"num_steps": 2},
    # The captions of `DIR` do not hold the word, as a reader's would.
    "--new_token": {"caption_template": "{caption}, <cat-toy>"},
    # At the size of "tiny" the default leaves one bucket.
    "--buckets": {"bucket_max_aspect_ratio": 4},
    "examples/lora.py": {"epochs": 1, "resolution": 64},
    "examples/dreambooth.py": {
        "num_class_images": 2,
        "num_steps": 2,
        "steps": 2,
    },
}

# === What the reader has ===

# Runs that a page's commands use, if they have not made them.
RUNS = ("RUN", "RUN2", "runs/first")
KINDS = {
    "weights": "train --batch_size 4",
    "lora": "train --batch_size 4 --lora_rank 4",
    "word": "textual_inversion --token <cat-toy> --init_word cat",
}
# What a command needs: the first of these that is in it.
NEEDS = {
    "train --config RUN": "weights",
    "--format kohya": "lora",
    "merge ": "lora",
    "--lora ": "lora",
    "cat-toy": "word",
    "--format ": "weights",
}
HUB = {
    "models/stable-diffusion-v1-5/stable-diffusion-v1-5": "pipeline",
    "datasets/lambdalabs/naruto-blip-captions": "DIR",
}
# Files that the text of a page promises.
PROMISED = {
    "docs/cache.md": ("CACHE/cache.json", "CACHE/captions.rows"),
    "docs/command-line.md": (
        *(f"RUN/{name}" for name in ("run.json", "index.html")),
        *(f"RUN/{name}" for name in ("report.json", "config.yaml")),
        *(f"RUN/{name}" for name in ("history.csv", "logs", "checkpoints")),
        *("RUN/weights", "OUT_0.png", "OUT_3.png", "images/grid.png"),
    ),
    "docs/recipes/lora.md": ("RUN/weights/pytorch_lora_weights.safetensors",),
    "docs/recipes/dreambooth.md": ("class/class_images.jsonl",),
    "docs/recipes/textual_inversion.md": ("RUN/weights/cat-toy.safetensors",),
    "docs/gallery.md": ("runs/demo/previews/before_and_after.png",),
    "docs/report.md": ("RUN/index.html",),
}


def shortened(values):
    """Returns flags and their values with none above the table's."""
    return {
        name: min(int(value), AT_MOST[name])
        if name in AT_MOST and value is not None
        else value
        for name, value in values.items()
    }


def adapted(words):
    """Returns the words of a command as they are run."""
    words = [MODELS.get(word, word) for word in words]
    if words[0] == "recipes":
        return words
    for place, word in enumerate(words[:-1]):
        if word.startswith("--") and word[2:] in AT_MOST:
            (value,) = shortened({word[2:]: words[place + 1]}).values()
            words[place + 1] = str(value)
    for flags in [flags for word, flags in ADDED.items() if word in words]:
        for flag, value in flags.items():
            if f"--{flag}" not in words:
                words += [f"--{flag}", str(value)]
    return words


def data(folder):
    """Makes the reader's images: `DIR`, `VALIDATION`, `photos`, and so on."""
    shutil.copytree(ROOT / "examples/data", folder / "examples/data")
    (folder / "examples/data/ink/validation").rename(folder / "VALIDATION")
    shutil.copytree(
        folder / "VALIDATION", folder / "examples/data/ink/validation"
    )
    rows = (folder / "examples/data/ink/train/metadata.jsonl").read_text()
    rows = [json.loads(line) for line in rows.splitlines()[:8]]
    (folder / "DIR").mkdir()
    with open(folder / "DIR/metadata.jsonl", "w") as table:
        for row in rows:
            name = row["file_name"]
            shutil.copy(
                folder / "examples/data/ink/train" / name, folder / "DIR"
            )
            table.write(json.dumps(row) + "\n")
    shutil.copytree(
        folder / "examples/data/sks_cat/instance", folder / "photos"
    )
    for photo in sorted((folder / "photos").glob("*.png")):
        photo.with_suffix(".txt").write_text("a <cat-toy> on a sofa")
    (folder / "prompts.txt").write_text("a red heart\na dog\n")


def call(words):
    """Runs `keras-sdft` in this process."""
    assert main(words) == 0, shlex.join(words)
    gc.collect()


class Made:
    """What the pages' readers have made before, once it is asked for."""

    def __init__(self, folder):
        self.folder = folder
        data(folder)

    def run(self, kind):
        """Returns a run's directory."""
        words = [*shlex.split(KINDS[kind]), "--model=tiny", "--data=DIR"]
        words += ["--max_train_steps=2", "--preview_prompts=a dog"]
        words += ["--preview_num_steps=2"]
        return self._make(kind, [*words, f"--output_dir={kind}"])

    def pipeline(self):
        """Returns a folder as diffusers writes it."""
        words = ["convert", "--model=tiny", "--format=diffusers"]
        return self._make("pipeline", [*words, "--output=pipeline"])

    def _make(self, name, words):
        if not (self.folder / name).exists():
            with contextlib.chdir(self.folder):
                call(words)
        return self.folder / name


class Reader:
    """Runs the commands of a page in a folder."""

    def __init__(self, folder, made, environment):
        self.folder, self.made = folder, made
        self.environment = environment

    def run(self, line):
        words = shlex.split(line, comments=True)
        if words[0] != "keras-sdft":
            return self._run_program(words)
        words, output = words[1:], None
        if ">" in words:
            words, output = words[: words.index(">")], words[-1]
        words = adapted(words)
        for place, word in enumerate(words):
            self._get(word, words, words[place - 1] == "--output_dir")
        with contextlib.ExitStack() as stack:
            if output is not None:
                file = stack.enter_context(open(output, "w"))
                stack.enter_context(contextlib.redirect_stdout(file))
            call(words)
        if words[0] == "recipes" and output is not None:
            self._shorten(output)
        for flag, value in zip(words, words[1:], strict=False):
            if flag in ("--output", "--output_dir", "--cache"):
                assert os.path.exists(value), line

    def _run_program(self, words):
        subprocess.run(
            ["bash", "-euc", shlex.join(adapted(words))],
            env=self.environment,
            check=True,
        )

    def _get(self, word, words, is_made):
        """Lets what a word of a command names be there."""
        name = re.sub(r"(:[0-9.]+|/weights/.*|/config.yaml)$", "", word)
        path = self.folder / name
        if name == "stable-diffusion-2-1" and not path.exists():
            shutil.copytree(self.made.pipeline(), path)
            scheduler = path / "scheduler/scheduler_config.json"
            settings = json.loads(scheduler.read_text())
            settings["prediction_type"] = "v_prediction"
            scheduler.write_text(json.dumps(settings))
        elif name == "runs/keras_sdft_cache" and not path.exists():
            cache = self.made.run("weights").parent / "keras_sdft_cache"
            shutil.copytree(cache, path)
        elif name in RUNS and is_made and path.exists():
            # The reader follows one of a page's ways, and not all of them.
            shutil.rmtree(path)
        elif name in RUNS and not is_made:
            text = shlex.join(words)
            needed = (kind for part, kind in NEEDS.items() if part in text)
            kind = next(needed, None)
            if not path.exists() or kind not in (None, *kinds(path)):
                shutil.rmtree(path, ignore_errors=True)
                shutil.copytree(self.made.run(kind or "weights"), path)

    def _shorten(self, recipe):
        """Lets a recipe be as short as the commands are."""
        values = yaml.safe_load(open(recipe))
        with open(recipe, "w") as file:
            yaml.safe_dump(shortened(values), file)


def kinds(run):
    """Returns which kinds of results a run has."""
    flags = yaml.safe_load((run / "config.yaml").read_text())
    of = {"lora": "lora_rank", "word": "new_token"}
    found = {kind for kind, flag in of.items() if flags.get(flag)}
    if "token" in flags and "instance_prompt" not in flags:
        found.add("word")
    return found or {"weights"}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return Made(tmp_path_factory.mktemp("made"))


@pytest.fixture
def reader(made, tmp_path, monkeypatch, hub_server):
    """A reader in a folder of their own, with their own home."""
    folder = tmp_path / "folder"
    folder.mkdir()
    data(folder)
    monkeypatch.chdir(folder)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    programs = os.path.dirname(sys.executable)
    environment = {
        **os.environ,
        "PATH": os.pathsep.join([programs, os.environ["PATH"]]),
        "PYTHONPATH": str(ROOT),
        "HF_ENDPOINT": hub_server.address,
        "HF_HOME": str(tmp_path / "hub"),
    }
    (folder / "examples").mkdir(exist_ok=True)
    for script in (ROOT / "examples").glob("*.py"):
        (folder / "examples" / script.name).symlink_to(script)
    return Reader(folder, made, environment)


def pages():
    for page in PAGES:
        run = any(block.is_run for block in blocks(page))
        if run and page.parent != ROOT and page_name(page) not in WALKED:
            yield page


@pytest.mark.slow
@pytest.mark.parametrize("page", pages(), ids=page_name)
def test_the_commands_of_a_page(page, reader, hub_server):
    text = page.read_text(encoding="utf-8")
    for name, folder in HUB.items():
        if f"hf://{name.partition('/')[2]}" in text:
            is_model = folder == "pipeline"
            source = (
                reader.made.pipeline() if is_model else reader.folder / folder
            )
            hub_server.repos[name] = source
    if page.stem == "concepts":
        spread(text, reader.folder / "photos")

    for block in blocks(page):
        for line in block.commands if block.is_run else ():
            reader.run(line)

    for name in PROMISED.get(page_name(page), ()):
        assert (reader.folder / name).exists(), name


def spread(text, photos):
    """Puts the photos into the folders that the page shows."""
    images = sorted(photos.glob("*.png"))
    for name in re.findall(r"── (\d+_[^/]+)/", text):
        (photos / name).mkdir()
        shutil.copy(images[0], photos / name)
    for path in [*images, *photos.glob("*.txt")]:
        path.unlink()
