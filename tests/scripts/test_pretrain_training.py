"""The training side of the embedded model, on the smallest networks."""

import csv
import dataclasses
import json
import signal
import types

import numpy as np
import pytest

from scripts.pretrain_tiny import autoencoder
from scripts.pretrain_tiny import checkpoints
from scripts.pretrain_tiny import curves
from scripts.pretrain_tiny import dataset
from scripts.pretrain_tiny import evaluate
from scripts.pretrain_tiny import gradients
from scripts.pretrain_tiny import loop
from scripts.pretrain_tiny import measures
from scripts.pretrain_tiny import networks
from scripts.pretrain_tiny import prompts
from scripts.pretrain_tiny import text_to_image
from scripts.pretrain_tiny import whitening

# === Pure functions ===


@pytest.mark.parametrize(
    "step, expected",
    [
        (0, 0.01),  # one hundredth of the warm-up
        (99, 1.0),
        (500, 1.0),
        (750, 0.04 + 0.96 * 0.5),  # halfway down
        (1000, 0.04),
        (5000, 0.04),
    ],
)
def test_learning_rate_rises_stays_and_falls(step, expected):
    schedule = gradients.FlatThenCosine(1.0, 1000)
    assert float(schedule(step)) == pytest.approx(expected, rel=1e-4)


def test_weights_favour_noisy_timesteps():
    weights = text_to_image.weighting(np.array([100.0, 1.0, 0.01]), "epsilon")
    # min(101, 5) / 100, min(2, 5) / 1, min(1.01, 5) / 0.01.
    np.testing.assert_allclose(weights, [0.05, 2.0, 101.0], rtol=1e-6)
    with pytest.raises(ValueError, match="v_prediction"):
        text_to_image.weighting(np.ones(3), "v_prediction")


def test_timesteps_are_spread_over_the_schedule():
    from keras_sdft.diffusion import stateless_seed

    draws = [
        np.asarray(
            text_to_image.spread_timesteps(
                10, stateless_seed(0, "timesteps", step), 1000
            )
        )
        for step in (0, 0, 1)
    ]
    np.testing.assert_array_equal(draws[0] // 100, np.arange(10))
    np.testing.assert_array_equal(draws[0], draws[1])
    assert (draws[0] != draws[2]).any()


def test_picture_loss_by_hand():
    images = np.zeros((1, 4, 4, 3), "float32")
    # A constant error of 0.5 has no gradient: L1 0.5 plus L2 0.25.
    loss = autoencoder.picture_loss(images + 0.5, images)
    assert float(loss) == pytest.approx(0.75)
    # Columns 0, 1, 0, 1: L1 and L2 of 0.5, edges of 1 across and 0 down;
    # halved, it is 0.5 everywhere.
    stripes = images + np.array([0, 1, 0, 1], "float32")[:, None]
    loss = autoencoder.picture_loss(stripes, images)
    assert float(loss) == pytest.approx(0.5 + 0.5 + 0.5 * 1.0)


def test_divergence_of_a_standard_normal_is_zero():
    moments = np.zeros((1, 2, 2, 8), "float32")
    assert float(autoencoder.divergence(moments)) == 0.0
    moments[..., :4] = 2.0
    assert float(autoencoder.divergence(moments)) == pytest.approx(2.0)


def test_psnr_by_hand():
    images = np.zeros((1, 2, 2, 3), "uint8")
    # 20 log10(255 / 25.5) = 20.
    assert measures.psnr(images, images + 25.5) == pytest.approx(20.0)


def test_errors_by_bucket():
    errors = np.array([1.0, 3.0, 5.0])
    means = measures.by_bucket(errors, np.array([0, 249, 750]))
    assert means[0] == 2.0 and means[3] == 5.0
    assert np.isnan(means[1]) and np.isnan(means[2])


def test_in_chunks_fills_up_and_cuts():
    sizes = []

    def double(part):
        sizes.append(len(part))
        return 2 * part

    result = measures.in_chunks(double, np.arange(5), size=2)
    np.testing.assert_array_equal(result, [0, 2, 4, 6, 8])
    assert sizes == [2, 2, 2]


def test_prompts_are_distinct_words():
    texts = prompts.THINGS + prompts.EVERYDAY + prompts.COLOURED
    assert len(set(texts + prompts.STYLED)) == len(texts + prompts.STYLED)
    assert "an octopus" in prompts.THINGS and "" in prompts.UNKNOWN
    assert len(prompts.PREVIEWS) == 16


def test_grid_has_a_gap_and_a_short_row():
    images = np.zeros((3, 10, 10, 3), "uint8")
    sheet = np.asarray(evaluate.grid(images, columns=2))
    assert sheet.shape == (24, 24, 3)
    assert sheet[0, 0, 0] == 0 and sheet[0, 11, 0] == 255
    assert sheet[15, 5, 0] == 0 and sheet[15, 20, 0] == 255


def test_curves_are_drawn_on_a_logarithmic_axis(tmp_path):
    path = tmp_path / "log.csv"
    path.write_text("step,loss\n10,1.0\n20,0.1\n40,0.01\n")
    svg = curves.draw(curves.read(path), ("loss",))
    ys = [
        float(point.split(",")[1])
        for point in svg.split('points="')[1].split('"')[0].split()
    ]
    assert ys == [48.0, 160.0, 272.0]


# === Checkpoints ===


def make_variables(count=2):
    import keras

    return [
        keras.Variable(np.full((2, 3), index, "float32"))
        for index in range(count)
    ]


def test_checkpoints_come_back_with_their_notes(tmp_path):
    path = tmp_path / "run" / "checkpoint.npz"
    variables = make_variables()
    checkpoints.save(path, {"a": variables}, {"step": 3})
    assert [file.name for file in path.parent.iterdir()] == ["checkpoint.npz"]
    for variable in variables:
        variable.assign(np.full((2, 3), 9.0))
    assert checkpoints.load(path, {"a": variables}) == {"step": 3}
    assert [float(np.asarray(v)[0, 0]) for v in variables] == [0.0, 1.0]


def test_a_checkpoint_of_another_spec_changes_nothing(tmp_path):
    path = tmp_path / "checkpoint.npz"
    checkpoints.save(path, {"a": make_variables(), "b": []}, {})
    variables = make_variables(3)
    with pytest.raises(ValueError, match="2 variables, 3 were expected"):
        checkpoints.load(path, {"a": variables})
    assert float(np.asarray(variables[2])[0, 0]) == 2.0


def test_the_log_forgets_what_the_checkpoint_does_not_know(tmp_path):
    path = tmp_path / "log.csv"
    for step in (10, 20, 30):
        loop._append(path, {"step": step, "loss": 0.123456789})
    loop._trim(path, 20)
    # Another order of the columns, as another backend may give.
    loop._append(path, {"loss": 0.5, "step": 30})
    with open(path, newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["step"] for row in rows] == ["10", "20", "30"]
    assert [row["loss"] for row in rows] == ["0.12346", "0.12346", "0.5"]


# === Whitening ===


def test_whitening_changes_latents_and_no_picture(micro_spec, perturb):
    moments_model, decoder = networks.build_autoencoder(micro_spec)
    perturb(moments_model)
    perturb(decoder, 1)
    images = np.random.default_rng(0).integers(0, 256, (8, 64, 64, 3), "uint8")
    scale = micro_spec.autoencoder.latent_scale
    before = autoencoder.encode(moments_model, images)
    picture = decoder(before[:, :, :, :4] * scale)
    whitening.fold(moments_model, decoder, before, scale)
    after = autoencoder.encode(moments_model, images)
    np.testing.assert_allclose(
        whitening.covariance(after, scale), np.eye(4), atol=1e-3
    )
    assert abs(after[..., :4].mean()) < 1e-3
    # The variances are constants, those of the mean of all places.
    assert np.ptp(after[..., 4:], axis=(0, 1, 2)).max() < 1e-6
    again = np.asarray(decoder(after[:, :, :, :4] * scale))
    np.testing.assert_allclose(again, picture, atol=2e-4)


def test_unused_directions_of_latents_are_refused(micro_spec):
    moments_model, decoder = networks.build_autoencoder(micro_spec)
    moments = np.ones((2, 8, 8, 8), "float32")
    moments[..., 0] = np.random.default_rng(0).normal(size=(2, 8, 8))
    with pytest.raises(ValueError, match="Train longer"):
        whitening.fold(moments_model, decoder, moments, 0.18215)


# === Runs, stopped and gone on with ===


def make_pictures(count=12):
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (count, 64, 64, 3), "uint8")
    return dataset.Pictures(images, [{"name": "x"}] * count)


def make_autoencoder(spec, directory):
    pictures = make_pictures()
    return autoencoder.Training(
        spec,
        loop.Limits(4, log_steps=2),
        pictures,
        np.full(12, 1 / 12),
        directory,
        batch_size=1,
        measure=lambda training: {"weights": len(training.moments.weights)},
    )


def state_of(training):
    return [
        np.asarray(variable)
        for variables in training.run.groups.values()
        for variable in variables
    ]


@pytest.mark.slow
def test_four_steps_are_two_and_two(micro_spec, tmp_path):
    make = make_autoencoder
    whole = make(micro_spec, tmp_path / "whole")
    whole.run.train()
    first = make(micro_spec, tmp_path / "parts")
    first.run.limits.minutes = 0.0
    first.run.train()
    assert first.run.step == 1
    second = make(micro_spec, tmp_path / "parts")
    second.run.resume()
    assert second.run.step == 1
    second.run.train()
    for one, other in zip(state_of(whole), state_of(second), strict=True):
        # Equal but for the order in which threads add.
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)
    logs = [
        curves.read(tmp_path / name / "log.csv") for name in ("whole", "parts")
    ]
    assert logs[0]["step"] == [2.0, 4.0]
    assert logs[1]["step"] == [1.0, 2.0, 4.0]
    assert logs[0]["loss"][-1] == pytest.approx(logs[1]["loss"][-1], rel=1e-5)


@pytest.mark.slow
def test_what_was_trained_is_read_back(micro_spec, tmp_path):
    training = make_autoencoder(micro_spec, tmp_path)
    training.run.train()
    before = training.moments.get_weights()
    notes = training.finish()
    np.testing.assert_allclose(notes["whitened"], np.eye(4), atol=1e-3)
    # Going on with training goes on from the weights that are not white.
    for one, other in zip(before, training.moments.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    moments, _ = autoencoder.load(micro_spec, tmp_path)
    scale = micro_spec.autoencoder.latent_scale
    encoded = autoencoder.encode(moments, training.pictures.images)
    np.testing.assert_allclose(
        whitening.covariance(encoded, scale), np.eye(4), atol=1e-2
    )


# === Text to image, by the library ===


STAGE = text_to_image.Stage("few", 2, 1e-3, 0.5, batch_size=2)


def test_wrong_captions_change_one_thing_alone():
    rows = [
        {"look": "default", "text": ["a cat"]},
        {"look": "chalk", "text": ["a dog in chalk style"]},
        {"look": "flat", "text": ["an owl in flat style"]},
    ]
    assert text_to_image.wrong_things(rows) == [
        "a dog",
        "an owl in chalk style",
        "a cat in flat style",
    ]
    assert text_to_image.wrong_styles(rows) == [
        "a cat in flat style",
        "a dog",
        "an owl in chalk style",
    ]


def test_a_stage_has_its_own_table(tmp_path):
    rows = [
        {"name": name, "thing": name, "text": [text], "times": 2}
        for name, text in (
            ("axe", "an axe"),
            ("cat", "a cat"),
            ("cat", "a cat in chalk style"),
            ("cat", "a cat on a red background"),
            ("cat", "a pink cat"),
        )
    ]
    lines = [json.dumps(row) for row in rows]
    (tmp_path / "train.jsonl").write_text("\n".join(lines) + "\n")

    def kept(**changes):
        stage = dataclasses.replace(STAGE, **changes)
        path = text_to_image.write_table(stage, tmp_path)
        assert path == tmp_path / "train-few.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()]

    assert kept() == rows
    # The demo's things come first, and the cat is one of them.
    assert kept(names=1) == rows[1:]
    assert kept(plain=True) == rows[:2]
    assert kept(names=1, plain=True) == rows[1:2]
    assert [row["times"] for row in kept(more_of=1)] == [2, 8, 8, 8, 8]


def test_measures_forget_what_comes_again(tmp_path):
    path = tmp_path / "measures.csv"
    for step in (10, 20, 10):
        text_to_image._append(path, {"epoch": 1, "step": step})
    assert curves.read(path)["step"] == [10.0]


@pytest.mark.slow
def test_the_trainer_learns_both_networks_with_spread_timesteps(make_micro):
    sd = make_micro()
    trainer = text_to_image.make_trainer(sd, STAGE, 10)
    found = trainer.noise_sampler((4, 8, 8, 4), 0)
    np.testing.assert_array_equal(
        np.asarray(found["timesteps"]) // 250, np.arange(4)
    )
    assert sorted(trainer.networks) == ["diffusion_model", "text_encoder"]


def test_time_ends_a_stage_in_order():
    interruption = types.SimpleNamespace(signal=None)
    text_to_image.TimeLimit(interruption, 1e18).on_train_batch_begin(0)
    assert interruption.signal is None
    text_to_image.TimeLimit(interruption, 0.0).on_train_batch_begin(0)
    assert interruption.signal == signal.SIGINT
