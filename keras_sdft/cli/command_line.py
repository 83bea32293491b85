"""`main`: which command, with which options, and which exit code.

Knows the commands by name; what they do is in their own files.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Sequence
from typing import Any

from keras_sdft.cli import convert
from keras_sdft.cli import dreambooth
from keras_sdft.cli import encode
from keras_sdft.cli import generate
from keras_sdft.cli import inspect
from keras_sdft.cli import train
from keras_sdft.cli.parser import PROGRAM
from keras_sdft.cli.parser import Parser
from keras_sdft.cli.parser import add_options
from keras_sdft.cli.parser import join_lists
from keras_sdft.cli.parser import list_names

# What the user can mend: a wrong value, a missing or unwelcome file.
_MENDABLE = (ValueError, OSError)

# name: (options, function, whether what must be given needs no flag)
_COMMANDS: dict[str, Any] = {
    "train": (train.TrainOptions, train.train, False),
    "dreambooth": (dreambooth.DreamboothOptions, dreambooth.dreambooth, False),
    "encode": (encode.EncodeOptions, encode.encode, False),
    "generate": (generate.GenerateOptions, generate.generate, False),
    "convert": (convert.ConvertOptions, convert.convert, False),
    "inspect": (inspect.InspectOptions, inspect.inspect, True),
}

# Reads headers and JSON: importing TensorFlow would take most of its time.
_WITHOUT_TENSORFLOW = ("inspect",)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line.

    Args:
        arguments: Strings, without the program's name. Defaults to those
            the process was started with.

    Returns:
        The exit code: 0 done, 2 an error the user can mend (one message on
        stderr), 130 interrupted. Errors in the flags leave through
        `SystemExit` with code 2, as `argparse` does. Any other error is
        raised with its traceback.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    debug = _take_debug(arguments)
    command, options = parse(arguments)
    _set_environment()
    try:
        if not debug and command not in _WITHOUT_TENSORFLOW:
            _import_quietly()
        _COMMANDS[command][1](options)
    except _MENDABLE as error:
        if debug:
            raise
        print(f"{PROGRAM}: error: {_message(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        if debug:
            raise
        print(f"\n{PROGRAM}: interrupted", file=sys.stderr)
        return 130
    return 0


def parse(arguments: Sequence[str]) -> tuple[str, object]:
    """Reads the flags (and the file named by `--config`).

    Args:
        arguments: Strings, without the program's name.

    Returns:
        The command's name, and an instance of its dataclass of options.

    Raises:
        SystemExit: With code 2 if a flag or value is wrong, with code 0
            after `--help`.
    """
    arguments = list(arguments)
    for name, (options, _, _) in _COMMANDS.items():
        if arguments[:1] == [name]:
            arguments = join_lists(arguments, list_names(options))
    parsed = _make_parser().parse_args(arguments)
    command = parsed.subcommand
    values = parsed[command].as_dict()
    values.pop("config", None)
    return command, _COMMANDS[command][0](**values)


def _make_parser() -> Parser:
    parser = Parser(
        prog=PROGRAM,
        description="Fine-tune Stable Diffusion on captioned images.",
    )
    parser.add_argument(
        "--debug",
        action="store_true",
        help="Show the traceback of an error; KERAS_SDFT_DEBUG=1 does too.",
    )
    commands = parser.add_subcommands()
    for name, (options, function, positional) in _COMMANDS.items():
        summary = function.__doc__.splitlines()[0]
        child = Parser(description=summary)
        child.add_argument(
            "--config", action="config", help="YAML file with any flags in it."
        )
        add_options(child, options, positional)
        commands.add_subcommand(name, child, help=summary)
    return parser


def _take_debug(arguments: list[str]) -> bool:
    """Takes `--debug` out, wherever it stands."""
    if "--debug" in arguments:
        arguments.remove("--debug")
        return True
    return os.environ.get("KERAS_SDFT_DEBUG", "") not in ("", "0")


def _set_environment() -> None:
    """Sets what TensorFlow reads once, when it is imported."""
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    # Its notes on which kernels it was built with drown our lines.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")


def _import_quietly() -> None:
    """Imports TensorFlow without the lines it prints while it starts.

    They say which kernels and drivers it found, and no setting of its own
    silences them. If the import fails they are shown.
    """
    if "tensorflow" in sys.modules:
        return
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as muffled:
        os.dup2(muffled.fileno(), 2)
        try:
            import tensorflow

            # The search for devices has lines of its own.
            tensorflow.config.list_physical_devices()
            tensorflow.zeros(())
        except BaseException:
            muffled.seek(0)
            os.write(kept, muffled.read())
            raise
        finally:
            os.dup2(kept, 2)
            os.close(kept)


def _message(error: BaseException) -> str:
    return str(error).strip() or type(error).__name__
