"""The text encoder learns too: what moves, what stops, what is written."""

import dataclasses
import json

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_sdft import formats
from keras_sdft.models import StableDiffusion
from keras_sdft.models.exported import METADATA_FILE
from keras_sdft.models.exported import write_export
from keras_sdft.training import AdamW
from keras_sdft.training import Trainer
from tests.training.steps import trainer_of


def text_weights(model):
    return [np.array(w) for w in model.text_encoder.get_weights()]


def assert_equal(a, b):
    for x, y in zip(a, b, strict=True):
        np.testing.assert_array_equal(x, y)


def moved(a, b):
    return [(x != y).any() for x, y in zip(a, b, strict=True)]


@pytest.fixture(scope="module")
def trained(micro_spec, perturb):
    """Three steps, of which the text encoder takes the first two."""
    model = StableDiffusion(
        64, 64, spec=micro_spec, base="tiny", random_weights=True
    )
    perturb(model.diffusion_model)
    trainer = trainer_of(
        model,
        text_encoder={"learning_rate": 1e-4, "stop_step": 2},
        prediction_type="v_prediction",
        zero_terminal_snr=True,
        ema_decay=0.5,
    )
    trainer.compile(AdamW(1e-3), run_eagerly=True)
    generator = np.random.default_rng(0)
    batch = {
        "images": generator.uniform(-1, 1, (2, 64, 64, 3)).astype("float32"),
        "token_ids": generator.integers(0, 2048, (2, 77)).astype("int32"),
        "example_weight": np.ones((2,), "float32"),
    }
    seen = [text_weights(model)]

    class Follow(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            seen.append(text_weights(model))

    data = tf.data.Dataset.from_tensors(batch).repeat(3)
    trainer.fit(data, verbose=0, callbacks=[Follow()])
    return trainer, seen


def test_learns_until_its_stop_step(trained):
    _, seen = trained
    # Every row of the positions, and rows of the tokens that occurred.
    assert all(moved(seen[0], seen[1])) and all(moved(seen[1], seen[2]))
    assert_equal(seen[2], seen[3])


def test_learns_at_its_own_rate(trained):
    """AdamW's first step moves each weight by about the rate."""
    _, seen = trained
    steps = [abs(a - b).max() for a, b in zip(seen[0], seen[1], strict=True)]
    assert max(steps) < 2e-4 and np.median(steps) > 0.9e-4


def test_the_average_covers_it(trained):
    trainer, seen = trained
    expected = [w.astype("float64") for w in seen[0]]
    for step, weights in enumerate(seen[1:]):
        decay = min(0.5, (1 + step) / (10 + step))
        for i, weight in enumerate(weights):
            expected[i] = decay * expected[i] + (1 - decay) * weight
    with trainer.averaged_weights():
        found = text_weights(trainer.stable_diffusion)
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)
    assert_equal(text_weights(trainer.stable_diffusion), seen[3])


@pytest.fixture(scope="module")
def exported(trained, tmp_path_factory):
    return trained[0].export(tmp_path_factory.mktemp("out") / "export")


def test_an_export_brings_it_back(trained, exported):
    trainer, _ = trained
    again = StableDiffusion.from_preset(exported)
    with trainer.averaged_weights():
        expected = text_weights(trainer.stable_diffusion)
    assert_equal(text_weights(again), expected)
    assert again.spec == trainer.stable_diffusion.spec
    assert again.spec.zero_terminal_snr and again.schedule.snr[-1] == 0


def test_an_export_of_an_export_holds_it_too(trained, exported, tmp_path):
    """Though the second training leaves it alone, and the first is gone."""
    again = StableDiffusion.from_preset(exported)
    expected = text_weights(again)
    second = Trainer(again).export(tmp_path / "second")
    found = StableDiffusion.from_preset(second)
    assert found.origin is None
    assert_equal(text_weights(found), expected)


def test_a_conversion_carries_it(tmp_path, perturb):
    model = StableDiffusion.from_preset("tiny")
    perturb(model.text_encoder)
    model.trained_parts.add("text_encoder")
    model.spec = dataclasses.replace(
        model.spec, prediction_type="v_prediction", zero_terminal_snr=True
    )
    write_export(tmp_path / "export", model)
    folder = tmp_path / "folder"
    formats.convert(tmp_path / "export", folder, "diffusers")
    found = StableDiffusion.from_preset(folder)
    assert_equal(text_weights(found), text_weights(model))
    assert found.spec.zero_terminal_snr
    config = json.loads(
        (folder / "scheduler" / "scheduler_config.json").read_text()
    )
    assert config["_class_name"] == "DDIMScheduler"
    assert config["rescale_betas_zero_snr"] is True
    assert config["timestep_spacing"] == "trailing"
    index = json.loads((folder / "model_index.json").read_text())
    assert index["scheduler"] == ["diffusers", "DDIMScheduler"]


def test_metadata_that_names_a_missing_part_is_refused(trained, tmp_path):
    directory = trained[0].export(tmp_path / "out")
    file = directory / METADATA_FILE
    metadata = json.loads(file.read_text())
    del metadata["files"]["text_encoder"]
    file.write_text(json.dumps(metadata))
    with pytest.raises(ValueError, match="no files of .'text_encoder'"):
        StableDiffusion.from_preset(directory)
