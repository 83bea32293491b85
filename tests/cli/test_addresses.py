"""Which flags take an address of the Hub, and that each names its commit."""

import pytest
from PIL import Image

from keras_sdft.cli import main
from keras_sdft.cli.command_line import COMMANDS
from tests.hub_server import commit_of

MODEL = {"model": "models", "vae": "models"}
ADAPTERS = {"lora": "models", "embedding": "models"}
DATA = {"data": "datasets", "validation_data": "datasets"}
PHOTOS = {"instance_data_dir": "datasets", "validation_data_dir": "datasets"}
# By command, the flags that are read, and of which kind.
READ = {
    "train": MODEL | DATA,
    "dreambooth": MODEL | PHOTOS,
    "textual_inversion": MODEL | DATA,
    "encode": MODEL | DATA,
    "generate": MODEL | ADAPTERS,
    "convert": MODEL,
    "merge": MODEL | ADAPTERS,
    "inspect": {"path": "models"},
    "push": {},
    "cache": {},
    "report": {},
    "recipes": {},
}


@pytest.fixture
def served(hub_server, tmp_path):
    (tmp_path / "it").mkdir()
    for kind in ("models", "datasets"):
        hub_server.repos[f"{kind}/me/it"] = tmp_path / "it"
    return hub_server


def test_every_command_names_the_commits_of_all_that_it_reads(served):
    assert set(READ) == set(COMMANDS)
    for name, kinds in READ.items():
        command = COMMANDS[name]
        for flag in command.flags:
            asked = "hf://me/it:0.8" if flag == "lora" else "hf://me/it"
            is_list = flag in ADAPTERS
            others = dict.fromkeys(command.flags)
            given = {flag: [asked] if is_list else asked}
            options = command.options(**others | given)
            if (name, flag) == ("push", "to"):
                assert command.pin(options).to == asked
            elif flag in kinds:
                commit = commit_of(f"{kinds[flag]}/me/it")
                found = getattr(command.pin(options), flag)
                expected = asked.replace("me/it", f"me/it@{commit}")
                assert found == ([expected] if is_list else expected)
            else:
                with pytest.raises(ValueError, match=f"`{flag}` must be a pa"):
                    command.pin(options)


def test_an_image_names_the_commit_that_it_is_of(
    fake_model, served, tmp_path, capsys
):
    path = tmp_path / "out.png"
    arguments = ["generate", "--model=hf://me/it", "--prompt=a red heart"]
    assert main([*arguments, f"--output={path}"]) == 0
    pinned = f"hf://me/it@{commit_of('models/me/it')}"
    assert fake_model.loaded[0][0] == pinned
    with Image.open(path) as image:
        assert image.text["model"] == pinned
        assert "Model: me/it, " in image.text["parameters"]
    assert main([*arguments, "--output=hf://me/out.png"]) == 2
    told = capsys.readouterr().err
    assert "`output` must be a path on this machine. Received: 'hf" in told
