import json

import pytest

from keras_sdft.cli import main

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
    import keras_sdft.models

    monkeypatch.setattr(keras_sdft.models, "describe", lambda path, **_: RUN)


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


def test_what_is_not_known_is_left_out(described, capsys, monkeypatch):
    monkeypatch.setitem(RUN, "steps", None)
    assert main(["inspect", "runs/a"]) == 0
    assert "steps" not in capsys.readouterr().out
