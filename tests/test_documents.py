"""The documents and the example hold what the package has.

Code in the documents is not run here: it is parsed, and every name and
argument in it is looked up. Python after a comment that begins with
`<!-- not run` is only parsed. `test_document_commands.py` runs the commands,
and `test_quickstart.py` the first steps.
"""

import ast
import inspect
import re
import shlex

import pytest
from PIL import Image

import keras_sdft
from keras_sdft.cli.command_line import COMMANDS
from keras_sdft.cli.command_line import parse
from scripts import notebook_pages
from tests.documents import FENCE
from tests.documents import PAGES
from tests.documents import ROOT
from tests.documents import blocks
from tests.documents import page_name

# Pages that are made of notebooks when the site is built.
TUTORIALS = [
    ROOT / "docs" / notebook_pages.FOLDER / f"{path.stem}.md"
    for path in notebook_pages.NOTEBOOKS.glob("*.ipynb")
]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
# What the documents' variables stand for.
VARIABLES = {
    "keras_sdft": keras_sdft,
    "sd": keras_sdft.StableDiffusion,
    "trainer": keras_sdft.Trainer,
}
LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)]*)?\)")


def python_of(page):
    return [block for block in blocks(page) if block.language == "python"]


def looked_up_code():
    for page in PAGES:
        for number, block in enumerate(python_of(page)):
            if block.reason is None:
                name = f"{page_name(page)}-{number}"
                yield pytest.param(block.text, id=name)
    for example in EXAMPLES:
        text = example.read_text(encoding="utf-8")
        yield pytest.param(text, id=page_name(example))


def commands():
    """Yields the arguments of every `keras-sdft` line, also of those not run.

    Those within quotes are the text of another program.
    """
    for page in PAGES:
        lines = [line for b in blocks(page) for line in b.commands]
        for line in lines:
            found = re.match(r"(?:!|[A-Z_]+=\S+ |\S*/)*keras-sdft ", line)
            words = shlex.split(line[found.end() :], True) if found else []
            # These read a file, which is not there yet.
            if words and not {"--config", "--resume"} & {*words}:
                # What is after it is the shell's.
                end = words.index(">") if ">" in words else None
                yield pytest.param(words[:end], id=f"{page.stem}-{words[0]}")


def resolve(node):
    """Returns what `a.b.c` is, or `None` if `a` is no known variable."""
    if isinstance(node, ast.Name):
        return VARIABLES.get(node.id)
    if isinstance(node, ast.Attribute):
        owner = resolve(node.value)
        if owner is None or isinstance(owner, property):
            return None
        # Set by the constructor, so the class itself does not have it.
        made = ("img_height", "img_width", "spec")
        if owner is keras_sdft.StableDiffusion and node.attr in made:
            return None
        assert hasattr(owner, node.attr), ast.unparse(node)
        return getattr(owner, node.attr)
    return None


def check_call(node, function):
    if function is None or not callable(function):
        return
    parameters = list(inspect.signature(function).parameters.values())
    kinds = {parameter.kind for parameter in parameters}
    if inspect.Parameter.VAR_KEYWORD in kinds:
        return
    given = {keyword.arg for keyword in node.keywords}
    assert given <= {p.name for p in parameters}, ast.unparse(node)


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_links_lead_somewhere(page):
    for target in LINK.findall(page.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_python_parses(page):
    for block in python_of(page):
        ast.parse(block.text)


@pytest.mark.parametrize("text", list(looked_up_code()))
def test_names_and_arguments_exist(text):
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Call):
            check_call(node, resolve(node.func))
        elif isinstance(node, ast.Attribute):
            resolve(node)


@pytest.mark.parametrize("words", list(commands()))
def test_commands_are_understood(words):
    name, options = parse(words)
    assert name == words[0]
    COMMANDS[name].check(options)


def test_flags_in_the_text_are_those_of_the_command():
    found = [
        (command, flag)
        for page in PAGES
        for command, rest in re.findall(
            r"`keras-sdft\s+([a-z_]+)\b([^`]*)`",
            FENCE.sub("", page.read_text(encoding="utf-8")),
        )
        for flag in re.findall(r"--([a-z_]+)", rest)
    ]
    assert len(found) > 5
    for command, flag in found:
        assert flag in COMMANDS[command].flags, (command, flag)


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_commands_are_run_or_say_why_not(page):
    for block in blocks(page):
        if block.has_commands and not block.is_run:
            assert len(block.reason.split()) > 2, block
        if block.is_run:
            # What follows runs these pages whole, and no others.
            assert page.parent != ROOT or page.stem.startswith("README")
            assert block.language == "" and block.commands, block


def test_names_of_the_api_page_exist():
    text = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    names = re.findall(r"^::: (\S+)$", text, re.M)
    assert len(names) > 10
    for name in names:
        resolve(ast.parse(name, mode="eval").body)


def test_every_page_is_in_the_menu():
    menu = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    for page in [*(ROOT / "docs").rglob("*.md"), *TUTORIALS]:
        assert f": {page.relative_to(ROOT / 'docs').as_posix()}\n" in menu


def test_the_tree_of_the_architecture_is_the_package():
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    tree = next(
        block.text
        for block in blocks(ROOT / "docs/architecture.md")
        if block.language == "text"
    )
    folders, missing = {-1: ROOT}, []
    for line in tree.splitlines():
        names = re.match(r"( *)((?:[\w.]+(?:/|\.py) ?)*)", line)
        depth = len(names[1]) // 2
        for name in names[2].split():
            path = folders[depth - 1] / name
            if name.endswith("/"):
                folders[depth] = path
            if not path.exists():
                missing.append(str(path.relative_to(ROOT)))
    assert not missing
    packages = (ROOT / "keras_sdft").glob("*/__init__.py")
    assert not [p for p in packages if f"  {p.parent.name}/ " not in text]


def test_pictures_are_not_reduced_to_palettes():
    paths = (ROOT / "docs/images").iterdir()
    pictures = [path for path in paths if path.suffix != ".svg"]
    assert len(pictures) > 5
    assert {Image.open(path).mode for path in pictures} == {"RGB"}


def literals():
    """Yields every string of the package; what is filled in is left out."""
    for path in (ROOT / "keras_sdft").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            parts = node.values if isinstance(node, ast.JoinedStr) else [node]
            yield "\0".join(
                part.value
                for part in parts
                if isinstance(part, ast.Constant)
                and isinstance(part.value, str)
            )


def test_messages_of_the_page_on_installation_are_those_of_the_code():
    text = (ROOT / "docs/install.md").read_text(encoding="utf-8")
    table = text.split("## Messages")[1]
    cells = re.findall(r"^\| ([^|]*`[^|]*) \|", table, re.M)
    make = re.sub(r"\\\n\t", "", (ROOT / "Makefile").read_text())
    known = [make, *(each.replace("`", "") for each in literals())]
    assert len(cells) > 10
    for cell in cells:
        for message in re.findall(r"`([^`]+)`", cell):
            ours = not cell.startswith("pip's")
            assert any(message in k for k in known) == ours, message


def test_the_front_pages_show_the_same_script():
    readme, index = (
        python_of(ROOT / name)[0].text
        for name in ("README.md", "docs/index.md")
    )
    assert readme == index


def test_the_korean_readme_has_the_code_and_the_links_of_the_english_one():
    english, korean = (
        (ROOT / name).read_text(encoding="utf-8")
        for name in ("README.md", "README.ko.md")
    )
    assert FENCE.findall(english) == FENCE.findall(korean)
    assert "](README.ko.md)" in english.split("\n\n")[1]
    assert "](README.md)" in korean.split("\n\n")[1]
    english, korean = (FENCE.sub("", text) for text in (english, korean))
    # Code, links, rows of tables and numbers: what a translation keeps.
    for pattern in (r"`[^`]+`", r"\]\((?!README)[^)]+\)", r"\d+\.\d+"):
        ours, theirs = (
            sorted(
                re.sub(r"\s+", " ", found)
                for found in re.findall(pattern, text)
            )
            for text in (english, korean)
        )
        assert ours == theirs, pattern
    for pattern in (r"^## ", r"^\|"):
        counts = {len(re.findall(pattern, t, re.M)) for t in (english, korean)}
        assert len(counts) == 1, pattern


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_the_examples_are_short(path):
    assert len(path.read_text().splitlines()) <= 60
