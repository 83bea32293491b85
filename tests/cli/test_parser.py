from __future__ import annotations

import dataclasses
from typing import Literal

import pytest

from keras_sdft.cli import parser
from keras_sdft.cli.command import Command
from keras_sdft.cli.command import Options
from keras_sdft.cli.parser import UsageError


@dataclasses.dataclass(frozen=True)
class Places:
    """The places: where things are.

    Args:
        where: A place.
        learning_rate: How far a step goes.
        weighting: How much each counts.
        prompts: What to generate.
        steps: How many.
        flip: Whether to flip.
        zero: Whether it is zero, if that is said.
    """

    where: str
    learning_rate: float = 1e-5
    weighting: Literal["constant", "min_snr"] = "constant"
    prompts: list[str] | None = None
    steps: int | None = None
    flip: bool = False
    zero: bool | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sizes:
    """The sizes.

    Args:
        depth: How deep, in 100 %.
        sides: Two numbers.
        template: One text or several.
        times: A number or a name.
        kind: Which kind.
    """

    depth: int = 1
    sides: tuple[int, int] | None = None
    template: str | list[str] | None = None
    times: int | str = 1
    kind: str | None = dataclasses.field(
        default=None, metadata={"alias": "class"}
    )

    def __post_init__(self):
        if self.depth < 0:
            raise ValueError(f"`depth` must be >= 0. Received: {self.depth}.")


FLAGS = parser.flags_of((Places, Sizes), {"depth": 3}, ("where",))
DEFAULTS = {
    "where": "here",
    "learning_rate": 1e-5,
    "weighting": "constant",
    "prompts": None,
    "steps": None,
    "flip": False,
    "zero": None,
    "depth": 3,
    "sides": None,
    "template": None,
    "times": 1,
    "kind": None,
}


def read(arguments):
    return parser.read(*parser.split(arguments, FLAGS), FLAGS)


def changed(*arguments):
    """What arguments change, after a check that the rest stays."""
    values, given = read(["here", *arguments])
    assert set(values) == set(DEFAULTS)
    assert {k for k, v in values.items() if v != DEFAULTS[k]} <= given
    return {k: v for k, v in values.items() if v != DEFAULTS[k]}


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("", {}),
        ("--learning_rate 1e-4 --steps=3", {"learning_rate": 1e-4, "steps": 3}),
        ("--learning_rate 1", {"learning_rate": 1.0}),
        ("--steps 3 --steps 4", {"steps": 4}),
        ("--steps -1", {"steps": -1}),
        ("--steps 3 --steps null", {}),
        ("--flip", {"flip": True}),
        ("--flip true --zero=false", {"flip": True, "zero": False}),
        ("--zero --flip false", {"zero": True}),
        ("--zero null", {}),
        ("--weighting min_snr", {"weighting": "min_snr"}),
        ("--prompts a b --depth 5", {"prompts": ["a", "b"], "depth": 5}),
        ("--prompts a --depth 5 --prompts b", {"prompts": ["a", "b"]}),
        ("--prompts=--odd", {"prompts": ["--odd"]}),
        # A text is what was typed, whatever it means in YAML.
        ("--prompts [a] yes 1 null “œ”", {"prompts": "[a] yes 1 null “œ”"}),
        ("--sides 3 4", {"sides": (3, 4)}),
        ("--template x", {"template": "x"}),
        ("--template x y", {"template": ["x", "y"]}),
        ("--times 3", {"times": 3}),
        ("--times column", {"times": "column"}),
        ("--kind dog", {"kind": "dog"}),
        ("--class dog", {"kind": "dog"}),
    ],
)
def test_what_is_typed_has_its_type(arguments, expected):
    found = changed(*arguments.split())
    for name, value in expected.items():
        if name == "prompts" and isinstance(value, str):
            value = value.split()
        assert found[name] == value
    assert set(found) <= {*expected, "depth"}


def test_flags_go_before_files_and_later_files_before_earlier(tmp_path):
    first, second = tmp_path / "1.yaml", tmp_path / "2.yaml"
    first.write_text("learning_rate: 1e-3\nsteps: 7\nflip: true\nclass: cat\n")
    second.write_text("steps: 8\nsides: [1, 2]\nprompts: [a b]\n")
    found = changed("--config", str(first), f"--config={second}", "--depth=1")
    assert found == {
        "learning_rate": 1e-3,
        "steps": 8,
        "flip": True,
        "kind": "cat",
        "sides": (1, 2),
        "prompts": ["a b"],
        "depth": 1,
    }
    assert changed("--steps=9", f"--config={second}")["steps"] == 9
    (tmp_path / "empty.yaml").write_text("# nothing\n")
    assert changed("--config", str(tmp_path / "empty.yaml")) == {}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("x --learning_rat 1", "no flag '--learning_rat'. Did you mean '--le"),
        ("x --learning-rate 1", "Did you mean '--learning_rate'?"),
        # An abbreviation is a misspelling.
        ("x --learn 1", "There is no flag '--learn'."),
        ("x --lr 1", "'--lr'. Here it is `--learning_rate`."),
        ("x -s 1", "There is no flag '-s'."),
        ("x --weighting min_snrr", "Did you mean 'min_snr'?"),
        (
            "x --weighting z",
            "`weighting` must be one of ['constant', 'min_snr']. Received: "
            "weighting='z'.",
        ),
        (
            "x --steps many",
            "`steps` must be an integer or null. Received: steps='many'.",
        ),
        ("x --learning_rate fast", "`learning_rate` must be a number. Rec"),
        ("x --sides 1 a", "a list as in `--sides N [N ...]` or null. Received"),
        ("x --flip=maybe", "`flip` must be true or false. Received"),
        ("x y", "'y' stands without a flag."),
        ("x --steps", "`--steps` needs a value after it."),
        ("x --steps --flip", "`--steps` needs a value after it."),
        ("x --prompts", "`--prompts` needs a value after it."),
        ("--steps 3", "`WHERE` is required."),
        ("x --config none.yaml", "'none.yaml': No such file"),
    ],
)
def test_mistakes_are_one_line_and_offer_the_nearest(arguments, message):
    with pytest.raises(UsageError) as caught:
        read(arguments.split())
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"learning_rat: 1\n", "no flag 'learning_rat'. Did you mean 'learnin"),
        (b"lr: 1\n", "there is no flag 'lr'. Here it is `learning_rate`."),
        (b"steps: [1\n", "is no valid YAML: "),
        (
            b"steps: " + b"[" * 3000,
            "is no valid YAML: it is nested more than 20",
        ),
        (b"steps: &a [1]\nname: *a\n", "is no valid YAML: aliases"),
        (b"steps: \xff\n", "is no valid YAML: "),
        (b"- steps\n", "must hold lines `flag: value`. Received: list."),
        (b"steps: 1.5\n", "`steps` must be an integer or null. Received: st"),
        (b"where: null\n", "`WHERE` is required."),
        (b"prompts: a\n", "`prompts` must be a list"),
    ],
)
def test_mistakes_in_a_file(tmp_path, content, message):
    path = tmp_path / "run.yaml"
    path.write_bytes(content)
    given = [] if b"where" in content else ["x"]
    with pytest.raises(UsageError) as caught:
        read([*given, "--config", str(path)])
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def go(options):
    """Goes through the places."""


COMMAND = Command(
    run=go,
    groups=(Places, Sizes),
    common=("steps",),
    example="keras-sdft go --where x",
)


def test_the_help_is_made_of_the_docstrings():
    text = COMMAND.help_text(everything=True)
    assert text.startswith("usage: keras-sdft go --FLAG VALUE ...\n\nGoes ")
    assert "keras-sdft go --where x" in text
    assert text.index("The places: where") < text.index("--where TEXT")
    assert text.index("--flip [true|false]") < text.index("The sizes:")
    assert "How far a step goes. (default: 1e-05)" in text
    assert "--weighting {constant,min_snr}" in text
    assert "--prompts TEXT [TEXT ...]" in text
    assert "--sides N [N ...]" in text
    assert "--kind TEXT, --class TEXT" in text
    assert "How deep, in 100 %." in text


def test_a_long_help_is_shortened(monkeypatch):
    assert "The sizes:" in COMMAND.help_text(everything=False)
    monkeypatch.setattr("keras_sdft.cli.command._HELP_LINES", 10)
    text = COMMAND.help_text(everything=False)
    assert "--where TEXT" in text and "--steps N" in text
    assert "--depth" not in text
    assert "--help-all" in text and "all 12 flags" in text


def test_options_are_values_and_groups():
    options = COMMAND.options(where="x", depth=2)
    assert (options.depth, options.steps) == (2, None)
    assert options.of(Sizes) == Sizes(depth=2)
    assert options.replace(depth=4).of(Sizes) == Sizes(depth=4)
    assert options.depth == 2
    assert options.replace(steps=4).given == {"where", "depth"}
    assert "given" not in vars(options)
    COMMAND.check(options)
    with pytest.raises(ValueError, match="`depth` must be >= 0"):
        COMMAND.check(options.replace(depth=-1))
    with pytest.raises(AttributeError, match="no flag 'depht'"):
        _ = options.depht
    assert isinstance(COMMAND.parse(["--where", "x"]), Options)
