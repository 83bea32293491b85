import subprocess
import sys

import pytest

from keras_sdft.cli import command_line
from keras_sdft.cli import main
from keras_sdft.cli.inspect import InspectOptions


@pytest.fixture
def failing(monkeypatch):
    """Makes `keras-sdft inspect` raise what it is told to."""

    def use(error):
        def fail(options):
            raise error

        command = (InspectOptions, fail, True)
        fail.__doc__ = "Fails."
        monkeypatch.setitem(command_line._COMMANDS, "inspect", command)

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


def test_an_interruption_has_its_code(failing, capsys):
    failing(KeyboardInterrupt())
    assert main(["inspect", "x"]) == 130
    assert capsys.readouterr().err == "\nkeras-sdft: interrupted\n"


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["trian"], ["Did you mean 'train'?", "`keras-sdft --help`"]),
        ([], ["train", "generate", "--help"]),
        (["train", "--dat", "x"], ["--dat", "'--data'?", "keras-sdft train"]),
        (["train", "--crop", "centre"], ["'centre'", "'center'?"]),
        (["train", "--data", "x"], ["model", "required"]),
    ],
)
def test_wrong_flags_leave_with_two(capsys, arguments, parts):
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("keras-sdft: error: ")
    for part in parts:
        assert part in error


@pytest.mark.parametrize("command", [[], ["train"], ["generate"], ["inspect"]])
def test_help_leaves_with_nought(capsys, command):
    with pytest.raises(SystemExit) as caught:
        main([*command, "--help"])
    assert caught.value.code == 0
    assert "usage: keras-sdft" in capsys.readouterr().out


def test_help_needs_no_tensorflow():
    code = (
        "import sys\n"
        "from keras_sdft.cli import main\n"
        "try:\n"
        "    main(['train', '--help'])\n"
        "except SystemExit:\n"
        "    print('tensorflow' in sys.modules, 'keras' in sys.modules)\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
    )
    assert result.stdout.splitlines()[-1] == "False False"
