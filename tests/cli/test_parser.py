from __future__ import annotations

import dataclasses
from typing import Literal

import pytest

from keras_sdft.cli.parser import Parser
from keras_sdft.cli.parser import add_options
from keras_sdft.cli.parser import join_lists
from keras_sdft.cli.parser import list_names


@dataclasses.dataclass(frozen=True)
class Options:
    """Options of a test.

    Args:
        where: A place.
        learning_rate: How far a step goes.
        weighting: How much each counts.
        prompts: What to draw.
        steps: How many.
        flip: Whether to flip.
    """

    where: str
    learning_rate: float = 1e-5
    weighting: Literal["constant", "min_snr"] = "constant"
    prompts: list[str] | None = None
    steps: int | None = None
    flip: bool = False


@pytest.fixture
def parser():
    parser = Parser(prog="keras-sdft")
    parser.add_argument("--config", action="config")
    add_options(parser, Options, positional=True)
    return parser


def read(parser, *arguments):
    values = parser.parse_args(list(arguments)).as_dict()
    values.pop("config")
    return Options(**values)


def refused(parser, capsys, *arguments):
    with pytest.raises(SystemExit) as caught:
        parser.parse_args(list(arguments))
    assert caught.value.code == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert "Traceback" not in output.err
    first, second = output.err.splitlines()
    assert first.startswith("keras-sdft: error: ")
    assert second == "See `keras-sdft --help`."
    return first


def test_values_have_their_types(parser):
    options = read(parser, "here", "--learning_rate", "1e-4", "--steps=3")
    assert options == Options("here", learning_rate=1e-4, steps=3)


def test_a_switch_needs_no_value_but_takes_one(parser):
    assert read(parser, "here", "--flip").flip is True
    assert read(parser, "here", "--flip", "false").flip is False
    assert read(parser, "here").flip is False


def test_flags_go_before_the_file(parser, tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text("learning_rate: 1e-3\nsteps: 7\nflip: true\n")
    options = read(parser, "here", "--config", str(path), "--steps", "9")
    assert options == Options("here", 1e-3, steps=9, flip=True)


def test_help_comes_from_the_docstring(parser, capsys):
    with pytest.raises(SystemExit) as caught:
        parser.parse_args(["--help"])
    assert caught.value.code == 0
    text = capsys.readouterr().out
    assert "How far a step goes." in text
    assert "A place." in text
    assert "default: 1e-05" in text


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["--learning_rat", "1"], ["--learning_rat", "'--learning_rate'?"]),
        (["--learning-rate", "1"], ["'--learning_rate'?"]),
        # An abbreviation is a misspelling.
        (["--learn", "1"], ["unrecognized", "--learn"]),
        (["--weighting", "min_snrr"], ["'min_snrr'", "'min_snr'?"]),
        (["--weighting", "zzz"], ["'zzz'", "'constant', 'min_snr'"]),
        (["--steps", "many"], ["--steps cannot be 'many'", "int, null"]),
        (["--learning_rate", "fast"], ["--learning_rate", "'fast'", "float"]),
        (["--config", "none.yaml"], ["none.yaml"]),
    ],
)
def test_errors_are_one_line_and_offer_the_nearest(
    parser, capsys, arguments, parts
):
    line = refused(parser, capsys, "here", *arguments)
    for part in parts:
        assert part in line


def test_a_misspelt_key_in_the_file(parser, capsys, tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text("learning_rat: 1e-3\n")
    line = refused(parser, capsys, "here", "--config", str(path))
    assert "learning_rat" in line
    assert "'learning_rate'?" in line


def test_a_missing_argument_is_named(parser, capsys):
    assert "where" in refused(parser, capsys, "--steps", "3")


def test_lists_are_found():
    assert list_names(Options) == ["prompts"]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--p", "a", "b", "--s", "3"], ["--s", "3", '--p=["a", "b"]']),
        (["--p", "a", "--p", "b"], ['--p=["a", "b"]']),
        (["--p=a", "x"], ["x", '--p=["a"]']),
        (["--p=--odd"], ['--p=["--odd"]']),
        (["--p", "[a]", "yes", "1"], ['--p=["[a]", "yes", "1"]']),
        (["--p", ""], ['--p=[""]']),
        (["--p"], ["--p"]),
        (["--pp", "a"], ["--pp", "a"]),
    ],
)
def test_lists_are_joined(arguments, expected):
    assert join_lists(arguments, ["p"]) == expected


@pytest.mark.parametrize("text", ["[a]", "yes", "1", "null", "a: b", "“œ”"])
def test_a_text_in_a_list_stays_what_was_typed(parser, text):
    arguments = join_lists(["here", "--prompts", text, "b"], ["prompts"])
    assert read(parser, *arguments).prompts == [text, "b"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shared:
    """Shared: what several have.

    Args:
        depth: How deep.
        sides: Two numbers.
    """

    depth: int = 1
    sides: list[int] | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Special(Shared):
    """Special: what one has.

    Args:
        kind: Which kind.
    """

    depth: int = 3
    kind: str | None = dataclasses.field(
        default=None, metadata={"flag": "--class"}
    )


@pytest.fixture
def special():
    parser = Parser(prog="keras-sdft")
    add_options(parser, Special)
    return parser


def test_inherited_flags_are_groups_of_their_own(special, capsys):
    with pytest.raises(SystemExit):
        special.parse_args(["--help"])
    text = capsys.readouterr().out
    assert text.index("Special: what one has") < text.index("Which kind.")
    assert text.index("Which kind.") < text.index("Shared: what several have")
    assert text.count("How deep.") == 1
    assert "[type: int, default: 3]" in text.replace("(", "[").replace(")", "]")
    assert "--sides N [N ...]" in text


def test_a_later_class_has_the_last_word(special):
    assert special.parse_args([]).depth == 3
    assert special.parse_args(["--depth=5"]).depth == 5


def test_a_flag_may_have_another_name(special):
    for flag in ("--kind", "--class"):
        assert special.parse_args([flag, "dog"]).kind == "dog"


def test_numbers_of_a_list_are_numbers(special):
    arguments = join_lists(["--sides", "3", "4"], list_names(Special))
    assert special.parse_args(arguments).sides == [3, 4]
