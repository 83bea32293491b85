import dataclasses
import logging
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import keras_sdft
from keras_sdft import runs
from keras_sdft.cli import command_line
from keras_sdft.cli import inspect
from keras_sdft.cli import main
from keras_sdft.cli import parser
from keras_sdft.data.shutdown import CALLS


@pytest.fixture
def failing(monkeypatch):
    """Makes `keras-sdft inspect` raise what it is told to."""

    def use(error):
        def fail(options):
            raise error

        command = dataclasses.replace(inspect.COMMAND, run=fail)
        monkeypatch.setitem(command_line.COMMANDS, "inspect", command)

    return use


@pytest.mark.parametrize(
    "error",
    [
        ValueError("wrong, expected this"),
        FileNotFoundError("no such folder"),
        FileExistsError("it is there"),
        PermissionError("not yours"),
    ],
)
def test_what_the_user_can_mend_is_one_line(failing, capsys, error):
    failing(error)
    assert main(["inspect", "x"]) == 2
    output = capsys.readouterr()
    assert output.err == f"keras-sdft: error: {error}\n"
    assert output.out == ""


def test_the_system_s_errors_are_without_their_number(failing, capsys):
    failing(FileNotFoundError(2, "No such file or directory", "there"))
    assert main(["inspect", "x"]) == 2
    expected = "keras-sdft: error: No such file or directory: 'there'\n"
    assert capsys.readouterr().err == expected


def test_what_reading_data_raised_is_one_line(failing, capsys):
    def read():
        raise OSError("100 images in a row could not be read")

    with pytest.raises(OSError):
        CALLS.guard(read)()
    # As TensorFlow hands it on, below a traceback.
    text = "{{node}} OSError: 100 images in a row could not be read\nTraceback"
    failing(RuntimeError(text))
    assert main(["inspect", "x"]) == 2
    expected = "keras-sdft: error: 100 images in a row could not be read\n"
    assert capsys.readouterr().err == expected


@pytest.mark.parametrize(
    "arguments", [["--debug", "inspect", "x"], ["inspect", "x", "--debug"]]
)
def test_debug_shows_the_traceback(failing, arguments):
    failing(ValueError("wrong"))
    with pytest.raises(ValueError, match="wrong"):
        main(arguments)


@pytest.mark.parametrize(("value", "shown"), [("1", True), ("0", False)])
def test_debug_by_environment(failing, monkeypatch, value, shown):
    failing(ValueError("wrong"))
    monkeypatch.setenv("KERAS_SDFT_DEBUG", value)
    if shown:
        with pytest.raises(ValueError, match="wrong"):
            main(["inspect", "x"])
    else:
        assert main(["inspect", "x"]) == 2


def test_a_fault_of_ours_keeps_its_traceback(failing):
    failing(KeyError("a bug"))
    with pytest.raises(KeyError, match="a bug"):
        main(["inspect", "x"])


def test_messages_are_logged_once(failing, monkeypatch, capsys):
    # Without the handlers of the tests.
    monkeypatch.setattr(logging.root, "handlers", [])
    logger = logging.getLogger("keras_sdft.data.sources.dreambooth")

    def warn(options):
        for text in ("one photo", "one photo", "two photos"):
            logger.warning(text)

    command = dataclasses.replace(inspect.COMMAND, run=warn)
    monkeypatch.setitem(command_line.COMMANDS, "inspect", command)
    for _ in range(2):
        assert main(["inspect", "x"]) == 0
        assert capsys.readouterr().err == "one photo\ntwo photos\n"


def test_an_interruption_has_its_code(failing, capsys):
    failing(KeyboardInterrupt())
    assert main(["inspect", "x"]) == 130
    assert capsys.readouterr().err == "\nkeras-sdft: interrupted\n"


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["trian"], ["Did you mean 'train'?", "`keras-sdft --help`"]),
        ([], ["'train'", "'generate'", "`keras-sdft --help`"]),
        (["train", "--dat", "x"], ["--dat", "'--data'?", "keras-sdft train"]),
        (["train", "--data", "x"], ["`--model` and `--output_dir` are req"]),
    ],
)
def test_wrong_flags_are_two_lines(capsys, arguments, parts):
    assert main(arguments) == 2
    output = capsys.readouterr()
    assert output.err.startswith("keras-sdft: error: ")
    assert output.out == "" and len(output.err.splitlines()) == 2
    for part in parts:
        assert part in output.err


def test_groups_check_themselves_before_anything_is_loaded(failing, capsys):
    failing(AssertionError("it ran"))
    flags = ["--model=tiny", "--prompt=a", "--output=a.png", "--num_steps=0"]
    assert main(["generate", *flags]) == 2
    error = capsys.readouterr().err
    assert "`num_steps` must be an integer in [1, 1000]. Rec" in error


def test_help_is_short_and_can_be_long(capsys):
    for name, command in command_line.COMMANDS.items():
        assert main([name, "--help"]) == 0
        text = capsys.readouterr().out
        assert text.count("\n") <= 80, name
        assert f"keras-sdft {name}" in text.split("example:")[1]
        assert main([name, "--help-all"]) == 0
        text = capsys.readouterr().out
        for flag in command.flags.values():
            start = text.find(f"  --{flag.name} ")
            if flag.name in command.positionals:
                start = text.find(f"  {flag.name.upper()} ")
            # The flag, its value, and a sentence.
            assert len(text[start:].split("\n  --")[0].split()) > 4, flag.name
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    assert all(f"  {name} " in text for name in command_line.COMMANDS)


def test_a_file_of_flags_is_printed_and_read(capsys, tmp_path):
    flags = ["--model=tiny", "--data=d", "--output_dir=r", "--seed=3"]
    flags += ["--timestep_range", "0", "500", "--preview_prompts", "yes"]
    assert main(["train", *flags, "--print_config"]) == 0
    path = tmp_path / "train.yaml"
    path.write_text(capsys.readouterr().out, encoding="utf-8")
    again = command_line.parse(["train", "--config", str(path)])[1]
    assert vars(again) == vars(command_line.parse(["train", *flags])[1])


def test_the_version(capsys):
    assert main(["--version"]) == 0
    output = capsys.readouterr().out
    assert output == f"keras-sdft {keras_sdft.__version__}\n"


def test_spellings_of_other_trainers_lead_to_flags_that_exist():
    names = {n for c in command_line.COMMANDS.values() for n in c.flags}
    assert set(parser.OTHER_SPELLINGS) <= names
    for theirs in parser.OTHER_SPELLINGS.values():
        assert not names & set(theirs.split()), theirs
    for ours, command in (
        ("data", "train"),
        ("instance_data_dir", "dreambooth"),
    ):
        known = command_line.COMMANDS[command].flags
        assert f"`{ours}`" in parser.hint("train-data-dir", known)


def test_the_page_of_other_trainers_has_flags_that_exist():
    page = Path(__file__).parents[2] / "docs" / "from-other-trainers.md"
    text = page.read_text(encoding="utf-8")
    names = {n for c in command_line.COMMANDS.values() for n in c.flags}
    named = set(re.findall(r"`--(\w+)| --(\w+)", text))
    named = {a or b for a, b in named} - {"lr", "config"}
    assert len(named) > 60 and named <= names, named - names
    answered = {
        (ours, theirs)
        for left, right in re.findall(r"^\| (.*?) \| (.*?) \|", text, re.M)
        for theirs in re.findall(r"(\w+)[^`]*`", left)
        for ours in re.findall(r"--(\w+)", right)
    }
    for ours, others in parser.OTHER_SPELLINGS.items():
        for theirs in others.split():
            assert (ours, theirs) in answered


def test_help_needs_no_tensorflow():
    code = (
        "import sys\n"
        "from keras_sdft.cli import main\n"
        "main(['train', '--help'])\n"
        "print('tensorflow' in sys.modules, 'keras' in sys.modules)\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
    )
    assert result.stdout.splitlines()[-1] == "False False"


def test_term_ends_a_command_in_order(monkeypatch, tmp_path):
    def run(options):
        with runs.RunDirectory(tmp_path / "run", "train"):
            assert (tmp_path / "run").is_dir()
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(10)

    train = dataclasses.replace(command_line.COMMANDS["train"], run=run)
    monkeypatch.setitem(command_line.COMMANDS, "train", train)
    before = signal.getsignal(signal.SIGTERM)
    arguments = ["--model=tiny", "--data=x", "--output_dir=y"]
    assert main(["train", *arguments, "--max_train_steps=1"]) == 143
    assert not (tmp_path / "run").exists()
    assert signal.getsignal(signal.SIGTERM) is before
