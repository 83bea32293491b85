"""The rules of docs/house.md, read from the source with `ast`.

Nothing of the library is imported here, so this runs in a second and
`make lint` can run it.
"""

import ast
import functools
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "keras_sdft"
FILES = sorted(PACKAGE.rglob("*.py"))
SCRIPTS = sorted((ROOT / "examples").rglob("*.py"))
each_file = pytest.mark.parametrize(
    "path", FILES, ids=lambda path: path.relative_to(PACKAGE).as_posix()
)

# Who may import whom: room -> sibling rooms.
MAY_IMPORT = {
    "data": set(),
    "models": set(),
    "diffusion": set(),
    "adapters": {"models"},
    "formats": {"models", "adapters"},
    "training": {"models", "diffusion", "adapters"},
    "callbacks": {"training", "diffusion", "formats"},
}
# Single files that may do more than their room.
EXCEPTIONS = {
    "models/generation.py": {"diffusion"},
    "models/stable_diffusion.py": {"diffusion"},
}
# Modules at the top that know nothing of any room; all may import them.
LEAVES = {"checks", "files", "keras_internals", "onednn", "version"}
# Rooms that stand outside and see only what the others export.
OUTSIDE = {"cli"}

KERAS_CV_PUBLIC = {
    "keras_cv",
    "keras_cv.models",
    "keras_cv.models.stable_diffusion",
}
KERAS_CV_DOOR = "models/keras_cv_parts.py"
# Needed by one reader, or not by the library at all: imported where used.
NOT_AT_IMPORT = {"tensorflow_datasets", "torch", "diffusers", "transformers"}
MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 80


def name_of(path):
    return path.relative_to(PACKAGE).as_posix()


def room_of(path):
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


@functools.cache
def tree_of(path):
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def is_module(dotted):
    """Whether a dotted name is a module or package of this repository."""
    path = ROOT.joinpath(*dotted.split("."))
    return path.with_suffix(".py").is_file() or path.is_dir()


def imported_modules(path, nodes=None):
    """Yields the dotted module behind every import in a file.

    `from keras_sdft import data` is `keras_sdft.data`, and
    `from keras_sdft.data import load` is `keras_sdft.data`.
    """
    for node in ast.walk(tree_of(path)) if nodes is None else nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            if node.level:
                package = path.relative_to(ROOT).parts[: -node.level]
                module = ".".join([*package, module]).rstrip(".")
            for alias in node.names:
                child = f"{module}.{alias.name}"
                is_ours = child.startswith("keras_sdft.")
                yield child if is_ours and is_module(child) else module


def ours(path):
    """Returns the parts after `keras_sdft` of every import of our own."""
    names = [module.split(".") for module in imported_modules(path)]
    return [parts[1:] for parts in names if parts[0] == "keras_sdft"]


def functions(path):
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    return [n for n in ast.walk(tree_of(path)) if isinstance(n, kinds)]


def lines_without_docstring(function):
    body = function.body
    has_docstring = ast.get_docstring(function, clean=False) is not None
    docstring = body[0].end_lineno - body[0].lineno + 1 if has_docstring else 0
    return function.end_lineno - function.lineno + 1 - docstring


def files_in(rooms):
    return pytest.mark.parametrize(
        "path", [p for p in FILES if room_of(p) in rooms], ids=name_of
    )


def test_the_package_is_found():
    assert len(FILES) > 10
    assert {"data", "models", "diffusion", "training"} <= {
        room_of(file) for file in FILES
    }


def test_every_room_has_a_rule():
    rooms = {room_of(file) for file in FILES if file.parent != PACKAGE}
    assert rooms <= set(MAY_IMPORT) | OUTSIDE


@files_in(MAY_IMPORT)
def test_rooms_import_only_whom_they_may(path):
    room = room_of(path)
    allowed = MAY_IMPORT[room] | EXCEPTIONS.get(name_of(path), set())
    allowed = allowed | LEAVES | {room}
    # The bare `keras_sdft` would import every room at once.
    found = {parts[0] if parts else "keras_sdft" for parts in ours(path)}
    assert found <= allowed, f"{name_of(path)} may import {sorted(allowed)}"


def test_leaves_import_nothing_of_ours():
    for leaf in LEAVES:
        assert ours(PACKAGE / f"{leaf}.py") == []


@files_in(OUTSIDE)
def test_the_command_line_uses_public_names(path):
    for parts in ours(path):
        is_own = parts[:1] == [room_of(path)]
        assert is_own or len(parts) <= 1, ".".join(["keras_sdft", *parts])


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.name)
def test_examples_use_public_names(script):
    names = set(imported_modules(script))
    own = {name for name in names if name.split(".")[0] == "keras_sdft"}
    assert own <= {"keras_sdft"}


@each_file
def test_private_keras_cv_has_one_door(path):
    modules = set(imported_modules(path))
    private = {
        module
        for module in modules
        if module.split(".")[0] == "keras_cv" and module not in KERAS_CV_PUBLIC
    }
    assert not private or name_of(path) == KERAS_CV_DOOR


@each_file
def test_heavy_packages_are_imported_where_they_are_used(path):
    at_import = list(imported_modules(path, tree_of(path).body))
    assert not {name.split(".")[0] for name in at_import} & NOT_AT_IMPORT


@each_file
def test_no_assert_in_the_package(path):
    found = [n for n in ast.walk(tree_of(path)) if isinstance(n, ast.Assert)]
    assert [node.lineno for node in found] == []


@each_file
def test_no_file_is_called_utils(path):
    assert path.stem not in ("utils", "util", "helpers", "common", "misc")


@each_file
def test_files_begin_with_their_job(path):
    assert ast.get_docstring(tree_of(path)), "the module has no docstring"


@each_file
def test_files_are_small(path):
    lines = len(path.read_text(encoding="utf-8").splitlines())
    assert lines <= MAX_FILE_LINES


@each_file
def test_functions_are_small(path):
    sizes = {f.name: lines_without_docstring(f) for f in functions(path)}
    long = {n: size for n, size in sizes.items() if size > MAX_FUNCTION_LINES}
    assert long == {}


def test_the_import_reader_reads_every_form(tmp_path, monkeypatch):
    """The reader itself, on a file with each way to write an import."""
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    room = tmp_path / "keras_sdft" / "data"
    room.mkdir(parents=True)
    for name in ("images", "captions"):
        (room / f"{name}.py").write_text("")
    file = room / "pipeline.py"
    file.write_text(
        "import keras_sdft.models.spec as spec\n"
        "from keras_sdft import data, __version__\n"
        "from keras_sdft.data.images import decode\n"
        "from . import captions\n"
        "from ..training import Trainer\n"
        "def late():\n"
        "    import torch\n"
    )
    assert list(imported_modules(file)) == [
        "keras_sdft.models.spec",
        "keras_sdft.data",
        "keras_sdft",
        "keras_sdft.data.images",
        "keras_sdft.data.captions",
        "keras_sdft.training",
        "torch",
    ]
    assert "torch" not in imported_modules(file, tree_of(file).body)
