"""The lowest versions that are tested are those that setup.cfg accepts."""

import configparser
from pathlib import Path

from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).resolve().parent.parent


def accepted():
    """Returns the lowest version of each direct dependency of setup.cfg."""
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    lines = config["options"]["install_requires"].split("\n")
    requirements = [Requirement(line) for line in lines if line.strip()]
    return {
        requirement.name: Version(specifier.version)
        for requirement in requirements
        for specifier in requirement.specifier
        if specifier.operator in (">=", "==")
    }


def pinned(name):
    """Returns the versions that a file of requirements pins."""
    text = (ROOT / name).read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if line and line[0] != "#"]
    requirements = [Requirement(line) for line in lines]
    return {
        requirement.name: Version(specifier.version)
        for requirement in requirements
        for specifier in requirement.specifier
    }


def test_the_lowest_accepted_versions_are_tested():
    lowest = accepted()
    assert len(lowest) > 10
    tested = pinned("requirements-lowest.txt")
    assert lowest == {name: tested.get(name) for name in lowest}


def test_the_tested_set_is_accepted_and_whole():
    tested = pinned("requirements.txt")
    for name, version in accepted().items():
        assert tested[name] >= version, name


def test_jax_is_tested_with_the_same_set():
    tested = pinned("requirements.txt")
    with_jax = pinned("requirements-jax.txt")
    assert with_jax.pop("tensorflow-cpu") == tested["tensorflow"]
    assert {"jax", "jaxlib"} <= set(with_jax)
    shared = {n: v for n, v in with_jax.items() if not n.startswith("jax")}
    assert shared == {name: tested.get(name) for name in shared}
    assert set(accepted()) - set(shared) == {"tensorflow"}
