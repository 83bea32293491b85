import json

import pytest

from keras_sdft.cli import main
from keras_sdft.runs import RunDirectory

RUN = {
    "kind": "run",
    "base": "tiny",
    "spec": {"name": "tiny", "diffusion_model": {"widths": [64, 96]}},
    "prediction_type": "epsilon",
    "steps": 100,
    "parts": {
        "diffusion_model": {
            "parameters": 1234567,
            "dtype": "float32",
            "file": "runs/a/weights/diffusion_model.weights.h5",
        },
        "decoder": {"file": "kcv_decoder.h5"},
    },
}


@pytest.fixture
def described(monkeypatch):
    import keras_sdft.formats

    monkeypatch.setattr(keras_sdft.formats, "describe", lambda path, **_: RUN)


def test_json_is_the_description(described, capsys):
    assert main(["inspect", "runs/a", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == RUN


def test_text_is_the_default(described, capsys):
    assert main(["inspect", "runs/a"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[-1].strip() for line in lines] == [
        "runs/a",
        "run",
        "tiny",
        "spec",
        "tiny",
        "diffusion model",
        "64, 96",
        "epsilon",
        "100",
        "parts",
        "diffusion model",
        "1,234,567",
        "float32",
        "runs/a/weights/diffusion_model.weights.h5",
        "decoder",
        "kcv_decoder.h5",
    ]
    assert lines[6].startswith("      widths   ")
    assert lines[0] == lines[0].strip()


def test_the_names_of_a_files_metadata_are_its_own(
    described, capsys, monkeypatch
):
    name = "modelspec.a_name_that_is_longer_than_its_column"
    monkeypatch.setitem(RUN, "metadata", {name: "text", "ss_v2": "False"})
    assert main(["inspect", "a.safetensors"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-2:] == [f"    {name} text", f"    ss_v2{'':19}False"]


def test_what_is_not_known_is_left_out(described, capsys, monkeypatch):
    monkeypatch.setitem(RUN, "steps", None)
    assert main(["inspect", "runs/a"]) == 0
    assert "steps" not in capsys.readouterr().out


def test_a_run_that_was_interrupted_says_how_to_go_on(tmp_path, capsys):
    path = tmp_path / "run"
    with RunDirectory(path, "train") as run:
        run.begin()
        run.update(state="interrupted", step=7)
    assert main(["inspect", str(path)]) == 0
    shown = capsys.readouterr().out
    assert "interrupted after 7 steps" in shown
    assert "go on with" not in shown
    checkpoint = path / "checkpoints" / "step_00000005"
    checkpoint.mkdir(parents=True)
    for name in ("state.safetensors", "checkpoint.json"):
        (checkpoint / name).write_bytes(b"{}")
    assert main(["inspect", str(path)]) == 0
    shown = capsys.readouterr().out
    assert "step 5 (2 bytes)" in shown
    assert f"keras-sdft train --resume {path}" in shown
