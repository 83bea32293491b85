"""What a network predicts: said by the source, or given, never guessed."""

import pytest

from keras_sdft import formats
from keras_sdft.cli import main
from keras_sdft.cli.command_line import parse
from keras_sdft.cli.run import load_for_training
from keras_sdft.models import StableDiffusion
from keras_sdft.models import describe
from keras_sdft.models import resolve
from keras_sdft.models.exported import write_export
from keras_sdft.models.prediction_types import UnknownPredictionType
from tests.formats.reference import full_size_file
from tests.formats.reference import single_file_shapes


@pytest.fixture(scope="module")
def silent(tmp_path_factory):
    """A single file of SD 2.x as it is published: it does not say."""
    path = tmp_path_factory.mktemp("silent") / "768-v.safetensors"
    return full_size_file(path, single_file_shapes("sd2.1-base"))


def test_a_silent_file_must_be_told(silent):
    with pytest.raises(UnknownPredictionType, match="`prediction_type='eps"):
        StableDiffusion.from_preset(silent)
    with pytest.raises(ValueError, match="--prediction_type v_prediction"):
        formats.load(silent)
    with pytest.raises(ValueError, match="must be.*'sample'"):
        StableDiffusion.from_preset(silent, prediction_type="sample")


@pytest.mark.parametrize(
    "given, side", [("epsilon", 512), ("v_prediction", 768)]
)
def test_a_silent_file_is_what_it_is_told(given, side, silent):
    model = StableDiffusion.from_preset(silent, prediction_type=given)
    assert model.spec.prediction_type == given
    assert (model.img_height, model.spec.resolution) == (side, side)
    assert formats.load(silent, prediction_type=given).spec == model.spec


def test_a_file_may_say_it_in_the_standards_word(tmp_path):
    path = full_size_file(
        tmp_path / "v.safetensors",
        single_file_shapes("sd2.1-base"),
        **{"modelspec.prediction_type": "v"},
    )
    assert resolve(path).spec.prediction_type == "v_prediction"
    with pytest.raises(ValueError, match="'epsilon', and .*v.safetensors"):
        resolve(path, "epsilon")


def test_a_silent_file_of_sd_1_predicts_noise_unless_told(tmp_path):
    path = full_size_file(
        tmp_path / "one.safetensors", single_file_shapes("sd1.4")
    )
    assert resolve(path).spec.prediction_type == "epsilon"
    told = resolve(path, "v_prediction").spec
    assert told.prediction_type == "v_prediction"


def test_looking_needs_no_answer(silent, capsys):
    description = describe(silent)
    assert description["prediction_type"] == "not declared, give it"
    assert description["parts"]["diffusion_model"]["dtype"] == "float16"
    assert main(["inspect", str(silent)]) == 0
    assert "not declared" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["tiny", *sorted(formats.FORMATS)])
def test_what_a_source_says_is_not_overruled(name, saved):
    path = saved.get(name, name)
    StableDiffusion.from_preset(path, prediction_type="epsilon")
    with pytest.raises(ValueError, match="declares 'epsilon'.*`Trainer`"):
        StableDiffusion.from_preset(path, prediction_type="v_prediction")
    with pytest.raises(ValueError, match="'v_prediction', and .* declares"):
        formats.load(path, prediction_type="v_prediction")
    with pytest.raises(ValueError, match="must be one of.*'v'"):
        resolve(path, "v")


def test_a_weight_file_says_nothing(saved):
    path = saved["keras_cv"] / "diffusion_model.weights.h5"
    for given in ("epsilon", "v_prediction"):
        assert resolve(path, given).spec.prediction_type == given
    assert resolve(path).spec.prediction_type == "epsilon"


def test_an_export_says_it_for_the_silent_file_it_came_from(
    silent, tiny, tmp_path
):
    model = StableDiffusion.from_preset(silent, prediction_type="v_prediction")
    # A full-size network is more than a test needs to write.
    model.diffusion_model = tiny.diffusion_model
    export = write_export(tmp_path / "export", model)
    assert resolve(export).spec.prediction_type == "v_prediction"
    assert resolve(export).origin == str(silent)


def test_training_may_aim_elsewhere(silent, monkeypatch):
    """`train --prediction_type` is the target, unless nobody else says."""
    loaded = []

    def from_preset(model, prediction_type, **kwargs):
        loaded.append(prediction_type)

    monkeypatch.setattr(StableDiffusion, "from_preset", from_preset)
    for model, *flags in (
        (str(silent), "--prediction_type", "epsilon"),
        ("tiny", "--prediction_type", "v_prediction"),
        ("tiny",),
    ):
        words = ["train", "--model", model, "--data", "d", "--output_dir", "o"]
        load_for_training(parse([*words, "--max_train_steps", "1", *flags])[1])
    assert loaded == ["epsilon", None, None]


def test_the_command_line_says_how(silent, tmp_path, capsys):
    command = ["generate", "--model", str(silent), "--prompt", "a heart"]
    assert main([*command, "--output", str(tmp_path / "x.png")]) == 2
    assert "--prediction_type v_prediction" in capsys.readouterr().err
