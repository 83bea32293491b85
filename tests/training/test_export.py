import json

import keras_cv
import numpy as np
import pytest
from PIL import Image

from keras_sdft.adapters import LoRA
from keras_sdft.models import ModelCard
from keras_sdft.models import StableDiffusion
from keras_sdft.models import describe
from keras_sdft.models.exported import DIFFUSION_MODEL_FILE
from keras_sdft.models.exported import METADATA_FILE
from keras_sdft.training import Trainer


@pytest.fixture
def trained(make_micro, make_dataset):
    # Eagerly: tracing a graph takes longer than the step.
    trainer = Trainer(make_micro(), ema_decay=0.9)
    trainer.compile("sgd", run_eagerly=True)
    trainer.fit(make_dataset(), verbose=0)
    return trainer


def test_an_export_comes_back(trained, tmp_path):
    directory = trained.export(tmp_path / "out")
    again = StableDiffusion.from_preset(directory)
    assert again.spec == trained.stable_diffusion.spec
    with trained.averaged_weights():
        for a, b in zip(
            again.diffusion_model.get_weights(),
            trained.diffusion_model.get_weights(),
            strict=True,
        ):
            np.testing.assert_array_equal(a, b)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out"]


def test_a_run_directory_is_found_by_its_weights(trained, tmp_path):
    trained.export(tmp_path / "weights")
    assert describe(tmp_path)["kind"] == "run"
    assert StableDiffusion.from_preset(tmp_path).spec.name == "micro"


def test_describe_counts_parameters(trained, tmp_path):
    found = describe(trained.export(tmp_path / "out"))
    part = found["parts"]["diffusion_model"]
    assert part["parameters"] == trained.diffusion_model.count_params()
    assert part["dtype"] == "float32"
    assert found["steps"] == 1
    assert found["prediction_type"] == "epsilon"


def test_a_lone_weight_file_is_recognised_by_its_shapes(tmp_path, perturb):
    model = StableDiffusion.from_preset("tiny").diffusion_model
    perturb(model)
    file = tmp_path / "mine.weights.h5"
    model.save_weights(file)
    found = StableDiffusion.from_preset(file)
    assert found.base == "tiny"
    for a, b in zip(
        found.diffusion_model.get_weights(), model.get_weights(), strict=True
    ):
        np.testing.assert_array_equal(a, b)


def test_an_existing_export_is_refused_unless_asked_for(trained, tmp_path):
    directory = trained.export(tmp_path / "out")
    with pytest.raises(FileExistsError, match="overwrite=True"):
        trained.export(directory)
    trained.export(directory, overwrite=True)
    assert describe(directory)["steps"] == 1


def test_what_is_no_export_is_never_replaced(trained, tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "dog.jpg").write_bytes(b"dog")
    with pytest.raises(FileExistsError, match="never replaced"):
        trained.export(tmp_path / "photos", overwrite=True)
    assert (tmp_path / "photos" / "dog.jpg").read_bytes() == b"dog"


def test_files_of_others_in_an_export_stay(trained, tmp_path):
    directory = trained.export(tmp_path / "out")
    (directory / "notes.txt").write_text("mine")
    (directory / "old_best.weights.h5").write_bytes(b"mine")
    (directory / "sub").mkdir()
    (directory / "sub" / "a.png").write_bytes(b"mine")
    trained.export(directory, overwrite=True)
    found = sorted(p.name for p in directory.rglob("*") if p.is_file())
    ours = [DIFFUSION_MODEL_FILE, METADATA_FILE, "README.md"]
    assert found == sorted([*ours, "notes.txt", "old_best.weights.h5", "a.png"])


def test_an_export_behind_a_link_is_replaced_there(trained, tmp_path):
    trained.export(tmp_path / "real")
    (tmp_path / "link").symlink_to("real")
    trained.step.assign(7)
    trained.export(tmp_path / "link", overwrite=True)
    assert (tmp_path / "link").is_symlink()
    assert describe(tmp_path / "real")["steps"] == 7


def test_broken_weights_do_not_replace_good_ones(trained, tmp_path):
    directory = trained.export(tmp_path / "out")
    before = (directory / DIFFUSION_MODEL_FILE).read_bytes()
    weight = trained.diffusion_model.weights[0]
    weight.assign(np.full(weight.shape, np.nan))
    trained.weight_average = None
    with pytest.raises(ValueError, match="1 of .* are NaN or infinite"):
        trained.export(directory, overwrite=True)
    assert (directory / DIFFUSION_MODEL_FILE).read_bytes() == before


def test_broken_adapters_do_not_replace_good_ones(make_micro, tmp_path):
    trainer = Trainer(make_micro(), train=[LoRA(rank=2)])
    trainer.compile()
    directory = trainer.export(tmp_path / "out")
    (name,) = [p.name for p in directory.glob("*.safetensors")]
    before = (directory / name).read_bytes()
    weight = trainer.trainable_variables[0]
    weight.assign(np.full(weight.shape, np.inf))
    with pytest.raises(ValueError, match="1 of .* are NaN or infinite"):
        trainer.export(directory, overwrite=True)
    assert (directory / name).read_bytes() == before
    weight.assign(np.zeros(weight.shape))
    trainer.export(directory, overwrite=True)
    assert (directory / name).read_bytes() != before


def test_a_failed_export_leaves_nothing(trained, tmp_path, monkeypatch):
    def full(path):
        raise OSError("disk full")

    monkeypatch.setattr(trained.diffusion_model, "save_weights", full)
    with pytest.raises(OSError, match="disk full"):
        trained.export(tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "damage, message",
    [
        (lambda d: (d / METADATA_FILE).write_text("{"), "damaged"),
        (lambda d: (d / METADATA_FILE).write_text("{}"), "damaged"),
        (lambda d: change(d, format_version=99), "version 99"),
        (
            lambda d: change(d, files={"diffusion_model": "../x"}),
            "'../x'",
        ),
        (lambda d: (d / DIFFUSION_MODEL_FILE).unlink(), "is not in"),
        (lambda d: (d / METADATA_FILE).unlink(), "no export"),
    ],
)
def test_damaged_exports_are_refused(trained, tmp_path, damage, message):
    directory = trained.export(tmp_path / "out")
    damage(directory)
    with pytest.raises(ValueError, match=message):
        StableDiffusion.from_preset(directory)


def change(directory, **values):
    file = directory / METADATA_FILE
    metadata = json.loads(file.read_text())
    file.write_text(json.dumps({**metadata, **values}))


@pytest.mark.parametrize("content", [b"", b"no weights", b"\x89HDF\r\n"])
def test_files_without_weights_are_refused(tmp_path, content):
    file = tmp_path / "model.weights.h5"
    file.write_bytes(content)
    with pytest.raises(ValueError, match="is damaged, or no Keras"):
        StableDiffusion.from_preset(file)


@pytest.mark.slow
def test_plain_keras_cv_loads_a_full_size_export(tmp_path, monkeypatch):
    """Random weights of full size, exported, loaded and drawn by KerasCV."""
    model = StableDiffusion(
        512, 512, base="sd1.4", random_weights=True, numerics="keras_cv"
    )
    Trainer(model).export(tmp_path / "out")
    weights = model.diffusion_model.get_weights()
    del model
    file = tmp_path / "out" / DIFFUSION_MODEL_FILE
    theirs = keras_cv.models.stable_diffusion.DiffusionModel(
        128, 128, 77, download_weights=False
    )
    theirs.load_weights(file)
    for a, b in zip(theirs.get_weights(), weights, strict=True):
        np.testing.assert_array_equal(a, b)
    plain = keras_cv.models.StableDiffusion(128, 128, jit_compile=False)
    plain._diffusion_model = theirs
    plain._text_encoder = keras_cv.models.stable_diffusion.TextEncoder(
        77, download_weights=False
    )
    plain._decoder = keras_cv.models.stable_diffusion.Decoder(
        128, 128, download_weights=False
    )
    images = plain.generate_image(
        np.zeros((77, 768), "float32"), num_steps=1, seed=0
    )
    assert images.shape == (1, 128, 128, 3)


def test_a_card_goes_with_an_export_and_stays_where_it_was_changed(
    trained, tmp_path
):
    given = ModelCard(
        license="mit", images=(("a dog", Image.new("RGB", (8, 8))),)
    )
    directory = trained.export(tmp_path / "out", card=given)
    card = directory / "README.md"
    text = card.read_text(encoding="utf-8")
    for part in ("license: mit", "| optimizer steps | 1 |", "![a dog]"):
        assert part in text
    assert "| what was trained | diffusion model |" in text
    # Ours is replaced, with its images.
    trained.export(directory, overwrite=True)
    assert "license: unknown" in card.read_text(encoding="utf-8")
    assert not (directory / "image_0.png").exists()
    card.write_text("mine", encoding="utf-8")
    trained.export(directory, overwrite=True)
    assert card.read_text(encoding="utf-8") == "mine"


def test_the_card_of_a_lora_is_for_diffusers(make_micro, tmp_path):
    trainer = Trainer(make_micro(), train=[LoRA(rank=2)])
    trainer.compile("sgd")
    directory = trainer.export(tmp_path / "out")
    text = (directory / "README.md").read_text(encoding="utf-8")
    assert "library_name: diffusers" in text and "- lora\n" in text
    assert "load_lora_weights" in text
