import json

import pytest

from keras_sdft.cli import main
from keras_sdft.cli.inspect import format_description

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


def test_everything_is_told_in_lines():
    lines = format_description("runs/a", RUN).splitlines()
    assert [line.split() for line in lines[:5]] == [
        ["runs/a"],
        ["kind", "run"],
        ["base", "tiny"],
        ["prediction", "type", "epsilon"],
        ["steps", "100"],
    ]
    assert "widths" in lines[8] and lines[8].endswith("64, 96")
    assert lines[10].split() == [
        "diffusion_model",
        "1,234,567",
        "parameters,",
        "float32,",
        "runs/a/weights/diffusion_model.weights.h5",
    ]
    assert lines[11].split()[-1] == "kcv_decoder.h5"
    assert len(lines) == 12
    assert all(line == line.rstrip() for line in lines)


def test_a_preset_has_no_steps():
    text = format_description("tiny", RUN | {"steps": None, "parts": {}})
    assert "steps" not in text
    assert "parts" not in text


@pytest.fixture
def described(monkeypatch):
    import keras_sdft.models

    monkeypatch.setattr(keras_sdft.models, "describe", lambda path: RUN)


def test_json_is_the_description(described, capsys):
    assert main(["inspect", "runs/a", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == RUN


def test_text_is_the_default(described, capsys):
    assert main(["inspect", "runs/a"]) == 0
    assert capsys.readouterr().out.startswith("runs/a\n  kind")
