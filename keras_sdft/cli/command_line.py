"""`main`: which command, with which options, and which exit code."""

import contextlib
import logging
import os
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator
from collections.abc import Sequence

import yaml

import keras_sdft
from keras_sdft.checks import did_you_mean
from keras_sdft.cli import cache
from keras_sdft.cli import convert
from keras_sdft.cli import dreambooth
from keras_sdft.cli import encode
from keras_sdft.cli import generate
from keras_sdft.cli import inspect
from keras_sdft.cli import push
from keras_sdft.cli import recipes
from keras_sdft.cli import report
from keras_sdft.cli import textual_inversion
from keras_sdft.cli import train
from keras_sdft.cli.command import PROGRAM
from keras_sdft.cli.command import Command
from keras_sdft.cli.command import Options
from keras_sdft.cli.parser import UsageError

# What the user can correct: a wrong value, a missing or unwelcome file.
_MENDABLE = (ValueError, OSError, keras_sdft.distribution.WorkerError)

COMMANDS: dict[str, Command] = {
    command.name: command
    for command in (
        train.COMMAND,
        dreambooth.COMMAND,
        textual_inversion.COMMAND,
        encode.COMMAND,
        cache.COMMAND,
        generate.COMMAND,
        convert.CONVERT,
        convert.MERGE,
        inspect.COMMAND,
        push.COMMAND,
        report.COMMAND,
        recipes.COMMAND,
    )
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line.

    Args:
        arguments: Strings, without the program's name. Defaults to those
            the process was started with.

    Returns:
        The exit code: 0 done, 2 an error the user can correct (one message
        on stderr), 130 or 143 interrupted. Any other error is raised with its
        traceback.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    debug = os.environ.get("KERAS_SDFT_DEBUG", "") not in ("", "0")
    debug = debug or "--debug" in given
    everywhere = ("--debug", "--print_config")
    arguments = [word for word in given if word not in everywhere]
    text = _information(arguments)
    if text is not None:
        print(text)
        return 0
    try:
        name, options = parse(arguments)
        if "--print_config" in given:
            values = options.plain()
            text = yaml.safe_dump(values, sort_keys=False, allow_unicode=True)
            print(text, end="")
            return 0
        COMMANDS[name].check(options)
        _log_each_message_once()
        _prepare_tensorflow(COMMANDS[name].needs_tensorflow and not debug)
        with _term_like_interrupt():
            COMMANDS[name].run(COMMANDS[name].pin(options))
    except UsageError as error:
        print(f"{PROGRAM}: error: {error}", file=sys.stderr)
        command = [PROGRAM, *(n for n in arguments[:1] if n in COMMANDS)]
        print(f"See `{' '.join(command)} --help`.", file=sys.stderr)
        return 2
    except KeyboardInterrupt as error:
        # Training has said by itself how to go on.
        number = getattr(error, "signal", None)
        if number is not None:
            return 128 + number
        if debug:
            raise
        print(f"\n{PROGRAM}: interrupted", file=sys.stderr)
        return 130
    except Exception as error:
        # What reading data raised is inside an error of TensorFlow's.
        cause = keras_sdft.data.cause_of(error) or error
        if debug or not isinstance(cause, _MENDABLE):
            raise
        print(f"{PROGRAM}: error: {_text_of(cause)}", file=sys.stderr)
        keras_sdft.distribution.leave(cause, 2)
        return 2
    return 0


def _text_of(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror and error.filename:
        # Without Python's "[Errno 2]".
        return f"{error.strerror}: {error.filename!r}"
    return str(error).strip() or type(error).__name__


def parse(arguments: Sequence[str]) -> tuple[str, Options]:
    """Returns the command's name and its options.

    Raises:
        UsageError: If the command, a flag or a value is wrong, or one is
            missing.
    """
    name = next(iter(arguments), "")
    if name not in COMMANDS:
        raise UsageError(
            f"The first argument must be a command, one of {list(COMMANDS)}. "
            f"Received: {name!r}.{did_you_mean(name, COMMANDS)}"
        )
    return name, COMMANDS[name].parse(arguments[1:])


def _information(arguments: Sequence[str]) -> str | None:
    """Returns the text that was asked for instead of a command's work."""
    everything = bool({"--help-all", "--help_all"} & set(arguments))
    if everything or {"--help", "-h"} & set(arguments):
        command = COMMANDS.get(arguments[0])
        return command.help_text(everything) if command else _overview()
    if "--version" in arguments:
        return f"{PROGRAM} {keras_sdft.__version__}"
    return None


def _overview() -> str:
    rows = "\n".join(f"  {n:<19}{c.summary}" for n, c in COMMANDS.items())
    return f"""usage: {PROGRAM} COMMAND --FLAG VALUE ...

Fine-tunes Stable Diffusion on captioned images.

commands:
{rows}

{PROGRAM} COMMAND --help   explains the flags of a command
{PROGRAM} --version        prints the version
--debug, or KERAS_SDFT_DEBUG=1 in the environment, shows an error's traceback"""


def _log_each_message_once() -> None:
    """Leaves out what was logged before, as data is read more than once."""
    seen: set[str] = set()

    def is_new(record: logging.LogRecord) -> bool:
        count = len(seen)
        seen.add(record.getMessage())
        return len(seen) > count

    # Where the process handles no logs, this handler does.
    logging.lastResort.filters = [is_new]


class _Terminated(KeyboardInterrupt):
    """TERM was received."""

    signal = int(signal.SIGTERM)


@contextlib.contextmanager
def _term_like_interrupt() -> Iterator[None]:
    """Context manager in which TERM raises, as Ctrl-C does.

    Without it the process ends where it is, and leaves what is half done.
    """

    def end(*_: object) -> None:
        raise _Terminated

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _prepare_tensorflow(quietly: bool) -> None:
    """Imports TensorFlow without the lines it prints while it starts.

    They say which kernels and drivers it found, and no setting of its own
    silences them all. If the import fails they are shown.
    """
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    keras_sdft.devices.keep_compiled()
    if not quietly or "tensorflow" in sys.modules:
        return
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as muffled:
        os.dup2(muffled.fileno(), 2)
        try:
            import tensorflow

            # The search for devices has lines of its own.
            tensorflow.config.list_physical_devices()
            keras_sdft.devices.leave_to_jax()
            # Several machines must be known before the first operation.
            if not os.environ.get(keras_sdft.distribution.VARIABLE):
                tensorflow.zeros(())
        except BaseException:
            muffled.seek(0)
            os.write(kept, muffled.read())
            raise
        finally:
            os.dup2(kept, 2)
            os.close(kept)
