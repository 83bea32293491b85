"""The rules of docs/architecture.md, read from the source with `ast`.

Nothing of the library is imported here, so this runs in a second and
`make lint` can run it. Each rule is one test that lists every offender.
"""

import ast
import functools
import importlib.util
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "keras_sdft"
FILES = sorted(PACKAGE.rglob("*.py"))
EXAMPLES = sorted((ROOT / "examples").rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))

# Which packages each package may import, besides itself and the leaves.
MAY_IMPORT = {
    "data": set(),
    "models": set(),
    "diffusion": set(),
    "encoding": {"data", "models"},
    "adapters": {"models", "diffusion", "formats"},
    "formats": {"models"},
    "training": {"models", "diffusion", "encoding", "adapters", "formats"},
    "callbacks": {"training", "formats", "diffusion", "models"},
    "runs": {"callbacks", "data", "encoding", "models", "training"},
    "generation": {"adapters", "callbacks", "models", "runs"},
}
# Single files that may import more than their package.
EXCEPTIONS = {
    "models/generation.py": {"diffusion"},
    "models/stable_diffusion.py": {"diffusion"},
}
# Modules that every package may import; what each of them may import.
LEAVES = {
    "checks": set(),
    "collector": set(),
    "devices": {"checks"},
    "disk": set(),
    "distribution": {"checks", "devices", "processes", "tf_config"},
    "files": set(),
    "host_memory": set(),
    "hub": {"hub_files"},
    "hub_files": {"weight_variants"},
    "keras_internals": set(),
    "onednn": {"keras_internals"},
    "parsing": set(),
    "processes": set(),
    "reprs": set(),
    "signature": {"checks"},
    "tf_config": set(),
    "version": set(),
    "weight_variants": set(),
}
# Uses what the other packages export, and nothing below.
CLIENTS = {"cli"}

KERAS_CV_PUBLIC = {
    "keras_cv",
    "keras_cv.models",
    "keras_cv.models.stable_diffusion",
}
KERAS_CV_FILE = "models/keras_cv_parts.py"
PRIVATE_FILE = "keras_internals.py"
# Needed by one reader, or not by the library at all: imported where used.
NOT_AT_IMPORT = {
    "tensorflow_datasets",
    "huggingface_hub",
    "torch",
    "diffusers",
    "transformers",
}
# Public in spite of the underscore: a named tuple's.
PUBLIC = {"_fields", "_asdict", "_replace", "_make", "_exit"}
# A guide is 300 lines; a few files may be longer, none much longer.
LONG_FILE_LINES, LONG_FILES, MAX_FILE_LINES = 500, 4, 700
MAX_FUNCTION_LINES = 80


def name_of(path):
    return path.relative_to(PACKAGE).as_posix()


def package_of(path):
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


# === Who imports whom ===


def test_the_packages_are_found():
    packages = {package_of(file) for file in FILES if file.parent != PACKAGE}
    assert {"data", "models", "diffusion", "training", "cli"} <= packages
    assert packages <= set(MAY_IMPORT) | CLIENTS
    assert EXAMPLES and TESTS


def test_the_page_on_architecture_has_the_same_table():
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (`.*`) \| (.*) \|$", text, re.M)
    told = {}
    for packages, others in rows:
        for package in re.findall(r"`(\w+)`", packages):
            told.setdefault(package, set(re.findall(r"`(\w+)`", others)))
    for package, others in MAY_IMPORT.items():
        assert told[package] == others, package


def test_packages_import_only_what_they_may():
    offenders = []
    for path in FILES:
        package = package_of(path)
        if package not in MAY_IMPORT:
            continue
        allowed = MAY_IMPORT[package] | EXCEPTIONS.get(name_of(path), set())
        # The bare `keras_sdft` would import every package at once.
        found = {parts[0] if parts else "keras_sdft" for parts in ours(path)}
        offenders += [
            f"{name_of(path)} imports {other}"
            for other in sorted(found - allowed - set(LEAVES) - {package})
        ]
    assert offenders == []


def test_annotations_are_not_deferred():
    """Python 3.11 needs it only for a class that names itself: quote that."""
    offenders = [
        name_of(path)
        for path in FILES
        if "__future__" in imported_modules(path)
    ]
    assert offenders == []


def test_leaves_import_nothing_of_ours():
    offenders = [
        f"{leaf} imports {'.'.join(parts)}"
        for leaf, allowed in LEAVES.items()
        for parts in ours(PACKAGE / f"{leaf}.py")
        if parts[0] not in allowed
    ]
    assert offenders == []


def deep_names(path, own=None):
    """Returns what a file uses of ours beyond `keras_sdft.<package>.<name>`."""
    found = [
        ".".join(["keras_sdft", *parts])
        for parts in ours(path)
        if len(parts) > 1 and parts[0] != own
    ]
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.ImportFrom):
            module = node.module or ""
            if module.split(".")[0] == "keras_sdft" and (
                module.split(".")[1:2] != [own]
            ):
                names = [alias.name for alias in node.names]
                found += [f"{module}.{n}" for n in names if is_private(n)]
        elif isinstance(node, ast.Attribute):
            parts = ast.unparse(node).split(".")
            if parts[0] == "keras_sdft" and len(parts) == 3:
                module = ".".join(parts)
                if is_module(module) or is_private(parts[2]):
                    found.append(module)
    return found


def test_cli_and_examples_use_public_names():
    clients = [path for path in FILES if package_of(path) in CLIENTS]
    offenders = {
        path.relative_to(ROOT).as_posix(): names
        for path in [*clients, *EXAMPLES]
        if (names := deep_names(path, "cli" if path in clients else None))
    }
    assert offenders == {}


def test_private_keras_cv_is_imported_in_one_file():
    offenders = [
        f"{name_of(path)} imports {module}"
        for path in FILES
        for module in imported_modules(path)
        if module.split(".")[0] == "keras_cv"
        and module not in KERAS_CV_PUBLIC
        and name_of(path) != KERAS_CV_FILE
    ]
    assert offenders == []


def test_heavy_packages_are_imported_where_they_are_used():
    offenders = [
        f"{name_of(path)} imports {module}"
        for path in FILES
        for module in imported_modules(path, tree_of(path).body)
        if module.split(".")[0] in NOT_AT_IMPORT
    ]
    assert offenders == []


# === Private parts of Keras and TensorFlow ===


def is_private(name):
    return name.startswith("_") and not name.endswith("__")


def defined_names(tree):
    """Yields the private names that a file itself defines."""
    for node in ast.walk(tree):
        if isinstance(
            node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
        ):
            yield node.name
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
        elif isinstance(node, ast.Attribute) and isinstance(
            node.ctx, ast.Store
        ):
            if isinstance(node.value, ast.Name) and node.value.id == "self":
                yield node.attr


@functools.cache
def keras_hooks():
    """Returns the names of the private methods of Keras' classes."""
    spec = importlib.util.find_spec("keras")
    keras = Path(spec.submodule_search_locations[0]) / "src"
    files = [keras / "layers" / "layer.py"]
    for part in ("backend/tensorflow", "models", "optimizers", "trainers"):
        files += (keras / part).glob("*.py")
    pattern = re.compile(r"^    def (_[a-z]\w*)\(self", re.MULTILINE)
    texts = [file.read_text(encoding="utf-8") for file in files]
    return {name for text in texts for name in pattern.findall(text)}


def private_uses(tree, package_names):
    """Yields every use of another library's private parts.

    An attribute `_x` of `self` or `super()` must be defined in this
    package, and of anything else in this very file.

    Args:
        tree: A file's syntax tree.
        package_names: Set of the names that the package defines.
    """
    own_names = set(defined_names(tree)) | PUBLIC
    for node in ast.walk(tree):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            modules = [getattr(node, "module", None) or ""]
            modules += [f"{modules[0]}.{alias.name}" for alias in node.names]
            text = " ".join(modules)
            if re.search(r"keras\.src\b|tensorflow\.python\b", text):
                yield ast.unparse(node)
        elif isinstance(node, ast.Attribute):
            text = ast.unparse(node)
            if re.fullmatch(r"keras\.src|(tf|tensorflow)\.python", text):
                yield text
            elif node.attr == "__internal__":
                yield text
            elif is_private(node.attr):
                own = re.fullmatch(
                    r"self|cls|super\(\)", text.rpartition(".")[0]
                )
                if node.attr not in (package_names if own else own_names):
                    yield text
        elif isinstance(node, ast.Call):
            if ast.unparse(node.func) in ("getattr", "setattr", "hasattr"):
                name = node.args[1]
                if isinstance(name, ast.Constant) and is_private(name.value):
                    if name.value not in own_names:
                        yield ast.unparse(node)
        elif isinstance(node, ast.ClassDef) and node.bases:
            methods = {
                item.name
                for item in node.body
                if isinstance(item, ast.FunctionDef)
            }
            for hook in sorted(methods & keras_hooks()):
                yield f"{node.name}.{hook} replaces Keras'"


def test_private_keras_and_tensorflow_are_used_in_one_file():
    package_names = {n for path in FILES for n in defined_names(tree_of(path))}
    offenders = [
        f"{name_of(path)}: {use}"
        for path in FILES
        if name_of(path) != PRIVATE_FILE
        for use in private_uses(tree_of(path), package_names | PUBLIC)
    ]
    assert offenders == []


def test_tests_use_the_public_trainer():
    offenders = [
        f"{path.name}:{node.lineno}: {ast.unparse(node)}"
        for path in TESTS
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.Attribute)
        and is_private(node.attr)
        and re.search(r"(^|[._])trainer$|Trainer\b", ast.unparse(node.value))
    ]
    assert offenders == []


# === The form of files ===


def functions(path):
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    return [n for n in ast.walk(tree_of(path)) if isinstance(n, kinds)]


def lines_without_docstring(function):
    body = function.body
    has_docstring = ast.get_docstring(function, clean=False) is not None
    docstring = body[0].end_lineno - body[0].lineno + 1 if has_docstring else 0
    return function.end_lineno - function.lineno + 1 - docstring


def test_no_assert_in_the_package():
    offenders = [
        f"{name_of(path)}:{node.lineno}"
        for path in FILES
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.Assert)
    ]
    assert offenders == []


def test_files_have_a_job_and_say_it():
    vague = {"utils", "util", "helpers", "common", "misc"}
    offenders = [
        name_of(path)
        for path in FILES
        if path.stem in vague or not ast.get_docstring(tree_of(path))
    ]
    assert offenders == []


def test_files_and_functions_are_small():
    lengths = {
        name_of(path): len(path.read_text(encoding="utf-8").splitlines())
        for path in FILES
    }
    long = {n: size for n, size in lengths.items() if size > LONG_FILE_LINES}
    assert (
        len(long) <= LONG_FILES and max(lengths.values()) <= MAX_FILE_LINES
    ), long
    offenders = [
        f"{name_of(path)}: {function.name} has {size} lines"
        for path in FILES
        for function in functions(path)
        if (size := lines_without_docstring(function)) > MAX_FUNCTION_LINES
    ]
    assert offenders == []


# === The readers themselves ===


def test_the_import_reader_reads_every_form(tmp_path, monkeypatch):
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    package = tmp_path / "keras_sdft" / "data"
    package.mkdir(parents=True)
    for name in ("images", "captions"):
        (package / f"{name}.py").write_text("")
    file = package / "pipeline.py"
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
    assert deep_names(file) == [
        "keras_sdft.models.spec",
        "keras_sdft.data.images",
        "keras_sdft.data.captions",
    ]


def test_the_reader_of_private_parts_finds_every_form():
    caught = [
        "optimizer._momentums",
        "model._make_function",
        "self.layer._layers",
        "self._trainable_variables",
        "super()._backend_update_step",
        "tf.python.eager",
        "tf.__internal__.distribute",
        "keras.src.backend",
        "getattr(layer, '_metrics')",
    ]
    for code in caught:
        assert list(private_uses(ast.parse(code), {"_own"})) != [], code
    for code in (
        "from keras.src import backend",
        "import tensorflow.python.util",
        "from tensorflow.python.util import x",
        "class A(keras.Model):\n    def _make_function(self): ...",
    ):
        assert list(private_uses(ast.parse(code), {"_own"})) != [], code
    for code in (
        "self._own",
        "Row._fields",
        "x.__dict__",
        "class A:\n    def _mine(self, other): return other._mine",
    ):
        assert list(private_uses(ast.parse(code), {"_own"} | PUBLIC)) == []
