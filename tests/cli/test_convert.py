from pathlib import Path

from keras_sdft.cli import main

GOLDEN = Path(__file__).parent.parent / "formats" / "golden"


def test_a_pipeline_becomes_a_single_file_and_is_described(tmp_path, capsys):
    output = tmp_path / "single.safetensors"
    command = ["convert", "--model", str(GOLDEN / "sd2"), "--format", "ldm"]
    command += ["--output", str(output)]
    assert main([*command, "--dtype", "float16"]) == 0
    assert f"Wrote {output}" in capsys.readouterr().out
    assert main(["inspect", str(output)]) == 0
    text = capsys.readouterr().out
    assert "original checkpoint" in text and "v_prediction" in text
    assert "float16" in text
    assert main(command) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert main([*command, "--overwrite"]) == 0


def test_unknown_formats_offer_the_nearest(tmp_path, capsys):
    command = ["convert", "--model", "tiny", "--format", "difusers"]
    assert main([*command, "--output", str(tmp_path / "x")]) == 2
    assert "Did you mean 'diffusers'?" in capsys.readouterr().err
