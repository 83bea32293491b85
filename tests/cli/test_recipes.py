"""The recipes: each file of flags is understood, and fits its page."""

import configparser
import re
import shlex
from pathlib import Path

import pytest
import yaml

import keras_sdft
from keras_sdft.cli.command_line import COMMANDS
from keras_sdft.cli.command_line import main
from keras_sdft.cli.command_line import parse
from keras_sdft.cli.dreambooth import with_prompts

ROOT = Path(__file__).parent.parent.parent
FOLDER = ROOT / "keras_sdft" / "recipes"
RECIPES = sorted(FOLDER.glob("*.yaml"))
each_recipe = pytest.mark.parametrize("path", RECIPES, ids=lambda p: p.stem)
SECTIONS = [
    "When",
    "The command",
    "The script",
    "The options that matter",
    "What the curves look like",
    "Memory",
    "Files it touches",
]


def page_of(path):
    page = ROOT / "docs" / "recipes" / f"{path.stem}.md"
    return page.read_text(encoding="utf-8")


def commands_of(path):
    """The commands of a page, as lists of words."""
    for block in re.findall(r"^```\n(.*?)^```$", page_of(path), re.M | re.S):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line) if "keras-sdft " in line else []
            if words[:1] == ["keras-sdft"]:
                # What is after it is the shell's.
                end = words.index(">") if ">" in words else None
                yield words[1:end]


def command_of(path):
    return path.stem if path.stem in COMMANDS else "train"


def options_of(path):
    command = command_of(path)
    given = ["--model=tiny", "--output_dir=run"]
    given += ["--data=photos"] if command == "train" else []
    return parse([command, f"--config={path}", *given])[1]


def test_there_are_seven():
    names = ["concepts", "dreambooth", "lora", "low_memory", "style"]
    names += ["textual_inversion", "v_prediction"]
    assert [path.stem for path in RECIPES] == names
    pages = sorted((ROOT / "docs" / "recipes").glob("*.md"))
    assert [page.stem for page in pages] == names


@each_recipe
def test_flags_are_understood_and_do_not_contradict(path):
    options = options_of(path)
    given = yaml.safe_load(path.read_text())
    assert set(given) <= set(vars(options))
    COMMANDS[command_of(path)].check(options)
    if path.stem == "dreambooth":
        filled = with_prompts(options)
        prompts = (filled.instance_prompt, filled.class_prompt)
        assert prompts == ("a sks cat", "a cat")


@each_recipe
def test_its_files_are_in_the_checkout(path):
    given = yaml.safe_load(path.read_text())
    for name in ("data", "validation_data", "instance_data_dir"):
        if name in given:
            assert (ROOT / given[name]).exists(), given[name]
    if "output_dir" in given:
        assert given["output_dir"].startswith("runs/")


@each_recipe
def test_its_page_has_every_part(path):
    # A page may add sections of its own; these it must have, in order.
    headings = re.findall(r"^## (.*)$", page_of(path), re.M)
    assert [each for each in headings if each in SECTIONS] == SECTIONS
    assert f"`keras_sdft/recipes/{path.name}`" in page_of(path)
    paths = re.findall(r"`([a-z_]+/[a-z_/]+\.py)`", page_of(path))
    assert len(paths) > 2
    for name in paths:
        root = ROOT if name.startswith("examples/") else ROOT / "keras_sdft"
        assert (root / name).is_file(), name


@each_recipe
def test_its_commands_are_understood(path, monkeypatch):
    monkeypatch.chdir(FOLDER)
    commands = list(commands_of(path))
    assert commands[0] == ["recipes", path.stem]
    assert commands[1][1:3] == ["--config", path.name]
    for words in commands:
        assert parse(words)[0] == words[0]


@each_recipe
def test_options_that_matter_are_flags(path):
    options = vars(options_of(path)) | vars(options_of(RECIPES[1]))
    table = page_of(path).split("## The options that matter")[1]
    table = table.split("\n## ")[0]
    names = re.findall(r"^\| (.*?) \|", table, re.M)
    for name in re.findall(r"`(\w+)[^`]*`", "".join(names)):
        assert name in options, name


def test_the_command_lists_and_prints_them(capsys):
    assert main(["recipes"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == [p.stem for p in RECIPES]
    assert all(len(line.split()) > 5 for line in lines)
    for path in RECIPES:
        assert main(["recipes", path.stem]) == 0
        assert capsys.readouterr().out == path.read_text()
    assert main(["recipes", "stile"]) == 2
    assert "Did you mean 'style'?" in capsys.readouterr().err


def test_the_wheel_has_them():
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    patterns = config["options.package_data"]["keras_sdft"].split()
    assert "recipes/*.yaml" in patterns


def test_the_demo_is_the_style_recipe():
    path = FOLDER / "style.yaml"
    options = options_of(path)
    given = yaml.safe_load(path.read_text())
    assert (
        f"DEMO_RECIPE := {path.relative_to(ROOT).as_posix()}\n"
        in (ROOT / "Makefile").read_text()
    )
    assert (given["model"], given["output_dir"]) == ("tiny", "runs/demo")
    table = (ROOT / given["data"]).read_text()
    *styled, a, b, c, d = options.preview_prompts
    seen = [f'"{prompt}"' in table for prompt in styled]
    assert len(seen) == 8 and sum(seen) == 4
    # What must stay as it was.
    assert not any("ink" in prompt for prompt in (a, b, c, d))


def test_concepts_are_shown_alike():
    path = ROOT / "examples" / "data" / "concepts.jsonl"
    examples = keras_sdft.data.read_examples(str(path), repeats="times")
    counts = {"cat": 0, "ink": 0}
    for index in range(len(examples)):
        (caption,) = examples[index].captions
        counts["cat" if caption == "a sks cat" else "ink"] += 1
    assert counts == {"cat": 66, "ink": 64}
