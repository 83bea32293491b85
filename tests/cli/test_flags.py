"""The flags and their defaults are promised: `flags.json` lists them."""

import json
from pathlib import Path

from keras_sdft.cli.command_line import COMMANDS
from keras_sdft.cli.command_line import parse

FROZEN = json.loads(Path(__file__).with_name("flags.json").read_text())
# Of the flags that must be given; one that takes a choice has that.
CHOICES = {"format": "ldm"}


def arguments_of(command):
    given = {
        name: CHOICES.get(name, "x") for name in FROZEN[command]["required"]
    }
    if command in ("inspect", "push", "report"):
        return [command, *given.values()]
    return [command, *(f"--{name}={value}" for name, value in given.items())]


def defaults_of(command, *more):
    options = vars(parse([*arguments_of(command), *more])[1])
    required = set(FROZEN[command]["required"])
    assert required <= set(options)
    return {k: v for k, v in options.items() if k not in required}


def test_flags_and_defaults_are_the_frozen_ones():
    assert set(FROZEN) == set(COMMANDS)
    for command, frozen in FROZEN.items():
        assert defaults_of(command) == frozen["defaults"], command


def test_every_flag_takes_its_default_as_a_value():
    for command, frozen in FROZEN.items():
        given = [
            f"--{name}={value}"
            for name, value in frozen["defaults"].items()
            if value is not None
        ]
        assert defaults_of(command, *given) == frozen["defaults"], command
