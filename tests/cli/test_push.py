"""What a push uploads, and what it says where it cannot."""

import json
from types import SimpleNamespace

import httpx2
import huggingface_hub
import pytest
from huggingface_hub import errors
from PIL import Image

from keras_sdft.cli import main
from keras_sdft.models import ModelCard
from keras_sdft.runs import RunDirectory

SHARED = [
    "README.md",
    "image_0.png",
    "keras_sdft.json",
    "pytorch_lora_weights.safetensors",
]


def write_weights(folder, **changes):
    folder.mkdir(parents=True)
    metadata = {
        "files": {},
        "extra_files": ["pytorch_lora_weights.safetensors"],
        "origin": None,
    }
    (folder / "keras_sdft.json").write_text(json.dumps(metadata | changes))
    (folder / "pytorch_lora_weights.safetensors").write_bytes(b"w" * 3000)
    image = Image.new("RGB", (8, 8))
    ModelCard(kind="lora", images=(("a dog", image),)).write(folder)


@pytest.fixture
def run(tmp_path):
    """A finished run of a LoRA, with all that must stay here."""
    with RunDirectory(tmp_path / "run", "train") as run:
        run.begin()
        write_weights(run.weights)
        for name in (
            "config.yaml",
            "checkpoints/step_10/state.safetensors",
            "logs/events.out.tfevents.1",
            "previews/step_000010.png",
            "weights/diffusion_model.weights.h5.bak",
            "weights/photos/0001.png",
        ):
            (run.path / name).parent.mkdir(parents=True, exist_ok=True)
            (run.path / name).write_text("secret")
        run.finish(step=10)
    return run.path


class FakeHub:
    """Stands in for the Hub's client."""

    def __init__(self):
        self.made, self.commits, self.private = [], [], False
        self.error = None

    def create_repo(self, repo, private, exist_ok):
        if self.error is not None:
            raise self.error
        self.made.append((repo, private, exist_ok))

    def repo_info(self, repo):
        return SimpleNamespace(private=self.private)

    def create_commit(self, repo, operations, commit_message, revision):
        files = {each.path_in_repo for each in operations}
        self.commits.append((repo, files, revision))
        return SimpleNamespace(oid="c" * 40)


@pytest.fixture
def client(monkeypatch):
    fake = FakeHub()
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: fake)
    return fake


def test_a_dry_run_lists_what_is_shared_and_asks_nobody(run, client, capsys):
    assert main(["push", str(run), "hf://me/dog", "--dry_run"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "Would upload to hf://me/dog, public if it is new:"
    assert [line.split()[0] for line in lines[1:-1]] == SHARED
    assert lines[4].split()[1:] == ["3.0", "kB"]
    assert lines[-1].startswith("  4 files, ")
    assert client.made == client.commits == []


def test_a_push_is_one_commit_of_the_same_files(run, client, capsys):
    assert main(["push", str(run / "weights"), "hf://me/dog@v2"]) == 0
    assert client.made == [("me/dog", False, True)]
    assert client.commits == [("me/dog", set(SHARED), "v2")]
    last = capsys.readouterr().out.splitlines()[-1]
    assert last == f"Done: hf://me/dog@{'c' * 40}"


def test_a_public_repository_is_not_taken_for_a_private_one(
    run, client, capsys
):
    arguments = ["push", str(run), "hf://me/dog", "--private"]
    assert main(arguments) == 2
    assert "is public already, so nothing was" in capsys.readouterr().err
    assert client.commits == []
    client.private = True
    assert main(arguments) == 0
    assert client.made[-1] == ("me/dog", True, True)


def refused(status):
    request = httpx2.Request("POST", "http://hub")
    response = httpx2.Response(status, request=request)
    return errors.HfHubHTTPError("refused", response=response)


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (errors.LocalTokenNotFoundError("no token"), "`hf auth login`"),
        (refused(401), "does not know who you are. Log in with `hf auth login"),
        (refused(403), "Check that 'me' is you or your organisation"),
        (refused(409), "refused the upload to hf://me/dog"),
        (refused(503), "push again"),
        (httpx2.ConnectError("no route"), "(no route). Nothing of it"),
    ],
)
def test_what_fails_says_what_to_do(run, client, capsys, error, told):
    client.error = error
    assert main(["push", str(run), "hf://me/dog"]) == 2
    assert told in capsys.readouterr().err


def test_what_is_of_no_use_elsewhere_is_not_pushed(tmp_path, client, capsys):
    lora, whole = tmp_path / "lora", tmp_path / "whole"
    write_weights(lora, origin="/home/me/model")
    assert main(["push", str(lora), "hf://me/dog"]) == 0
    assert client.commits[0][1] == set(SHARED) - {"keras_sdft.json"}
    files = {"diffusion_model": "diffusion_model.weights.h5"}
    write_weights(whole, origin="/home/me/model", files=files)
    assert main(["push", str(whole), "hf://me/dog"]) == 2
    assert f"`keras-sdft convert --model {whole}" in capsys.readouterr().err
    write_weights(tmp_path / "built", origin="hf://a/b@c", files=files)
    assert main(["push", str(tmp_path / "built"), "hf://me/dog"]) == 0
    for path, told in (
        (tmp_path, "holds no weights to push"),
        (tmp_path / "none", "There is no run"),
    ):
        assert main(["push", str(path), "hf://me/dog"]) == 2
        assert told in capsys.readouterr().err
    assert main(["push", str(lora), "me/dog"]) == 2
    assert "Expected hf://owner/name" in capsys.readouterr().err


def test_a_folder_of_diffusers_is_pushed_without_pickles(
    tmp_path, client, capsys
):
    for name in (
        "model_index.json",
        "unet/config.json",
        "unet/diffusion_pytorch_model.safetensors",
        "unet/diffusion_pytorch_model.bin",
        "safety_checker/model.safetensors",
        "notes.txt",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("{}")
    assert main(["push", str(tmp_path), "hf://me/dog"]) == 0
    assert client.commits[0][1] == {
        "model_index.json",
        "unet/config.json",
        "unet/diffusion_pytorch_model.safetensors",
    }
    assert "no model card" in capsys.readouterr().out
