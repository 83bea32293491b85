import keras
import keras_cv
import numpy as np
import pytest
import tensorflow as tf

from keras_sdft import devices
from keras_sdft.diffusion import gaussian
from keras_sdft.diffusion import sample_timesteps
from keras_sdft.diffusion import stateless_seed
from keras_sdft.models import StableDiffusion
from keras_sdft.training import AdamW
from keras_sdft.training import Trainer
from keras_sdft.training.tensorflow.train_step import loss_and_gradients
from tests.keras_cv_unet import narrow_keras_cv_unet
from tests.training.steps import step_of
from tests.training.steps import tensors_of
from tests.training.steps import trainer_of


@pytest.fixture
def make_trainer(make_micro):
    """Makes trainers that run eagerly, unless asked for a graph.

    A graph takes many seconds to trace, a step some milliseconds to run.
    """

    def make(optimizer=None, graph=False, **kwargs):
        trainer = trainer_of(make_micro(), **kwargs)
        optimizer = optimizer or AdamW(learning_rate=1e-3)
        trainer.compile(optimizer, run_eagerly=not graph)
        return trainer

    return make


def fit(trainer, dataset, **kwargs):
    return trainer.fit(dataset, verbose=0, **kwargs).history


def weights_of(trainer):
    return trainer.diffusion_model.get_weights()


def assert_equal(a, b):
    for x, y in zip(a, b, strict=True):
        np.testing.assert_array_equal(x, y)


def assert_close(a, b, relative=1e-4):
    for x, y in zip(a, b, strict=True):
        error = np.linalg.norm(x - y)
        assert error <= relative * np.linalg.norm(x) + 1e-7


# === One step, written out from the formulas ===


def step_by_hand(model, batch, seed=0):
    """Loss, gradients and updated weights of the first training step.

    Of the library it uses the networks, and the random draws.
    """
    betas = np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
    alphas_cumprod = np.cumprod(1 - betas)
    t = np.asarray(sample_timesteps(4, stateless_seed(seed, "timesteps", 0)))
    shape = (4, 8, 8, 4)
    noise = np.asarray(gaussian(shape, stateless_seed(seed, "noise", 0)))
    draw = np.asarray(gaussian(shape, stateless_seed(seed, "latents", 0)))

    moments = np.asarray(model.moments_model(batch["images"]))
    mean, log_variance = moments[..., :4], moments[..., 4:]
    latents = (mean + np.exp(log_variance / 2) * draw) * 0.18215
    alpha = alphas_cumprod[t].reshape(4, 1, 1, 1)
    noised = alpha**0.5 * latents + (1 - alpha) ** 0.5 * noise

    frequencies = 10000.0 ** (-np.arange(8) / 8)
    angles = t[:, None] * frequencies
    embedding = np.concatenate([np.cos(angles), np.sin(angles)], axis=1)
    context = model.text_encoder(
        {
            "tokens": tf.constant(batch["token_ids"]),
            "positions": tf.constant(np.tile(np.arange(77), (4, 1))),
        }
    )
    variables = model.diffusion_model.trainable_variables
    with tf.GradientTape() as tape:
        prediction = model.diffusion_model(
            {
                "latent": tf.constant(noised, "float32"),
                "timestep_embedding": tf.constant(embedding, "float32"),
                "context": context,
            }
        )
        loss = tf.reduce_mean((prediction - noise) ** 2)
    gradients = [np.asarray(g) for g in tape.gradient(loss, variables)]

    norm = np.sqrt(sum((g.astype("float64") ** 2).sum() for g in gradients))
    updated = []
    for variable, gradient in zip(variables, gradients, strict=True):
        gradient = gradient * min(1.0, 1.0 / norm)
        # After one step both bias-corrected moments are the gradient's.
        step = gradient / (np.abs(gradient) + 1e-8)
        weight = np.asarray(variable)
        updated.append(weight - 1e-3 * (step + 1e-2 * weight))
    return float(loss), gradients, updated, norm


def test_a_step_equals_the_formulas(make_trainer, make_micro, make_batch):
    trainer, batch = make_trainer(graph=True), make_batch()
    loss, gradients, updated, norm = step_by_hand(make_micro(), batch)
    assert norm > 1  # so that clipping takes part

    found, found_gradients, _ = step_of(trainer, tensors_of(trainer, batch))
    assert float(found) == pytest.approx(loss, rel=1e-5)
    assert_close(gradients, [np.asarray(g) for g in found_gradients], 1e-4)

    history = fit(trainer, tf.data.Dataset.from_tensors(batch))
    assert history["loss"][0] == pytest.approx(loss, rel=1e-5)
    for gradient, expected, weight in zip(
        gradients, updated, weights_of(trainer), strict=True
    ):
        # A first step moves each weight by the sign of its gradient: where
        # that is all rounding, so is the sign.
        solid = abs(gradient) > 1e-4 * abs(gradient).max()
        assert solid.mean() > 0.5
        np.testing.assert_allclose(weight[solid], expected[solid], atol=1e-6)


# === Equalities ===


@pytest.mark.parametrize("graph", [False, True])
def test_reruns_are_equal_bit_for_bit(make_trainer, make_dataset, graph):
    runs = []
    for _ in range(2):
        trainer = make_trainer(graph=graph, offset_noise=0.1)
        losses = fit(trainer, make_dataset(3), epochs=2)["loss"]
        runs.append((losses, weights_of(trainer)))
    assert runs[0][0] == runs[1][0]
    assert_equal(runs[0][1], runs[1][1])


def test_another_seed_is_another_run(make_trainer, make_dataset):
    losses = [
        fit(make_trainer(seed=seed), make_dataset())["loss"] for seed in (0, 1)
    ]
    assert losses[0] != losses[1]


@pytest.mark.parametrize("parts, graph", [(2, False), (4, False), (2, True)])
def test_micro_batches_equal_one_batch(
    make_trainer, make_dataset, parts, graph
):
    whole = make_trainer(keras.optimizers.SGD(0.1), offset_noise=0.1)
    split = make_trainer(
        keras.optimizers.SGD(0.1),
        graph=graph,
        offset_noise=0.1,
        gradient_accumulation_steps=parts,
    )
    before = weights_of(whole)
    losses = [fit(t, make_dataset(2))["loss"][0] for t in (whole, split)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert any(
        (a != b).any() for a, b in zip(before, weights_of(whole), strict=True)
    )
    assert_close(weights_of(whole), weights_of(split), 1e-5)


def test_frozen_weights_stay_bit_equal(make_trainer, make_dataset):
    trainer = make_trainer()
    model = trainer.stable_diffusion
    frozen = {
        name: getattr(model, name).get_weights()
        for name in ("text_encoder", "image_encoder", "decoder")
    }
    before = weights_of(trainer)
    fit(trainer, make_dataset(2))
    for name, weights in frozen.items():
        assert_equal(weights, getattr(model, name).get_weights())
    moved = [
        (a != b).any() for a, b in zip(before, weights_of(trainer), strict=True)
    ]
    assert all(moved)


def test_encoders_are_loaded_before_the_graph(
    make_trainer, make_micro, make_dataset
):
    """Weights drawn or loaded while tracing would stay what Keras drew."""
    trainer = make_trainer(graph=True)
    fit(trainer, make_dataset())
    used, fresh = trainer.stable_diffusion, make_micro()
    for name in ("text_encoder", "image_encoder"):
        assert_equal(
            getattr(fresh, name).get_weights(),
            getattr(used, name).get_weights(),
        )


def test_only_the_diffusion_model_is_trainable(make_trainer):
    trainer = make_trainer()
    expected = trainer.diffusion_model.trainable_variables
    assert [id(v) for v in trainer.trainable_variables] == [
        id(v) for v in expected
    ]


def test_weights_of_examples_scale_their_gradients(make_trainer, make_batch):
    """A zero weight takes an example out; the rest count as before."""
    batch = make_batch()
    batch["example_weight"] = np.array([1, 0, 1, 0], "float32")
    changed = {name: value.copy() for name, value in batch.items()}
    changed["images"][[1, 3]] *= -1
    runs = []
    for data in (batch, changed):
        trainer = make_trainer()
        fit(trainer, tf.data.Dataset.from_tensors(data))
        runs.append(weights_of(trainer))
    assert_close(*runs, 1e-6)


# === KerasCV's own network ===


def test_trains_keras_cvs_network_in_place_of_ours(make_micro, make_dataset):
    ours = make_micro(numerics="keras_cv")
    theirs = make_micro()
    network = narrow_keras_cv_unet(theirs.spec.diffusion_model, 8)
    network.set_weights(ours.diffusion_model.get_weights())
    theirs.diffusion_model = network
    losses = []
    for model in (ours, theirs):
        trainer = Trainer(model)
        trainer.compile(keras.optimizers.SGD(0.1), run_eagerly=True)
        losses += fit(trainer, make_dataset())["loss"]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert_close(
        ours.diffusion_model.get_weights(), network.get_weights(), 1e-5
    )


@pytest.mark.slow
def test_trains_keras_cvs_network_at_full_size(make_batch):
    model = StableDiffusion(64, 64, base="sd1.4", random_weights=True)
    network = keras_cv.models.stable_diffusion.DiffusionModel(
        64, 64, 77, download_weights=False
    )
    model.diffusion_model = network
    trainer = Trainer(model)
    # Without moments, so that it fits into 16 GB.
    trainer.compile(keras.optimizers.SGD(0.01), run_eagerly=True)
    before = network.get_weights()
    data = tf.data.Dataset.from_tensors(make_batch(batch_size=1))
    assert np.isfinite(fit(trainer, data)["loss"]).all()
    moved = [
        (a != b).any()
        for a, b in zip(before, network.get_weights(), strict=True)
    ]
    assert len(moved) == 686 and np.mean(moved) > 0.99


# === The moving average ===


def test_average_follows_the_formula(make_trainer, make_dataset):
    trainer = make_trainer(ema_decay=0.15)
    expected = [w.astype("float64") for w in weights_of(trainer)]

    class Follow(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            decay = min(0.15, (1 + batch) / (10 + batch))
            weights = weights_of(trainer)
            for i, weight in enumerate(weights):
                expected[i] = decay * expected[i] + (1 - decay) * weight

    fit(trainer, make_dataset(3), callbacks=[Follow()])
    live = weights_of(trainer)
    with trainer.averaged_weights():
        assert_close(expected, weights_of(trainer), 1e-6)
    assert_equal(live, weights_of(trainer))


def test_validation_uses_the_average(make_trainer, make_dataset):
    trainer = make_trainer(ema_decay=0.9999)
    fit(trainer, make_dataset(2))
    averaged = trainer.evaluate(make_dataset(), verbose=0)
    with trainer.averaged_weights():
        weights = weights_of(trainer)
    plain = make_trainer()
    plain.diffusion_model.set_weights(weights)
    assert plain.evaluate(make_dataset(), verbose=0) == averaged


# === Validation ===


def test_validation_loss_is_comparable(make_trainer, make_dataset):
    """The same weights give the same loss, whatever was trained between."""
    trainer = make_trainer()
    data = make_dataset(2, seed=9)
    first = trainer.evaluate(data, verbose=0)
    weights = weights_of(trainer)
    fit(trainer, make_dataset(2), validation_data=data)
    assert trainer.evaluate(data, verbose=0) != first
    trainer.diffusion_model.set_weights(weights)
    assert trainer.evaluate(data, verbose=0) == first


def test_validation_does_not_depend_on_the_batch_size(make_trainer, make_batch):
    """An example's noise and timesteps belong to its position."""
    trainer = make_trainer()
    examples = tf.data.Dataset.from_tensor_slices(make_batch(4))
    losses = [
        trainer.evaluate(examples.batch(size), verbose=0) for size in (1, 3, 4)
    ]
    assert losses[1:] == pytest.approx([losses[0]] * 2, rel=1e-5)


def test_early_stopping_and_checkpoints_see_val_loss(
    make_trainer, make_dataset, tmp_path
):
    trainer = make_trainer()
    file = tmp_path / "best.weights.h5"
    callbacks = [
        keras.callbacks.EarlyStopping("val_loss", min_delta=1e9, patience=0),
        keras.callbacks.ModelCheckpoint(
            file, "val_loss", save_best_only=True, save_weights_only=True
        ),
        keras.callbacks.CSVLogger(tmp_path / "history.csv"),
    ]
    history = fit(
        trainer,
        make_dataset(),
        epochs=5,
        validation_data=make_dataset(seed=9),
        callbacks=callbacks,
    )
    assert len(history["val_loss"]) == 2
    assert (tmp_path / "history.csv").read_text().startswith("epoch,loss")
    best = int(np.argmin(history["val_loss"]))
    again = make_trainer()
    fit(again, make_dataset())
    again.load_weights(file)
    found = again.evaluate(make_dataset(seed=9), verbose=0)
    assert found == pytest.approx(history["val_loss"][best], rel=1e-6)


# === Learning, dtypes, compilation ===


def test_the_loss_falls_on_a_batch_seen_often(make_trainer, make_batch):
    trainer = make_trainer(graph=True)
    data = tf.data.Dataset.from_tensors(make_batch())
    before = trainer.evaluate(data, verbose=0)
    fit(trainer, data.repeat(40))
    assert trainer.evaluate(data, verbose=0) < 0.9 * before


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("weighting", ["constant", "min_snr"])
def test_objectives_train(
    make_trainer, make_dataset, prediction_type, weighting
):
    trainer = make_trainer(prediction_type=prediction_type, weighting=weighting)
    history = fit(trainer, make_dataset())
    assert np.isfinite(history["loss"]).all()
    spec = trainer.stable_diffusion.spec
    assert spec.prediction_type == prediction_type


@pytest.mark.parametrize("dtype", ["mixed_bfloat16", "mixed_float16"])
def test_mixed_precision_trains(make_micro, make_dataset, dtype):
    trainer = Trainer(make_micro(dtype=dtype), ema_decay=0.99)
    trainer.compile(AdamW(learning_rate=1e-3), run_eagerly=True)
    scaled = isinstance(trainer.optimizer, keras.optimizers.LossScaleOptimizer)
    assert scaled == (dtype == "mixed_float16")
    before = weights_of(trainer)
    full = Trainer(make_micro())
    full.compile(AdamW(learning_rate=1e-3), run_eagerly=True)
    history = fit(trainer, make_dataset())
    expected = fit(full, make_dataset())
    np.testing.assert_allclose(history["loss"], expected["loss"], rtol=0.05)
    assert any(
        (a != b).any() for a, b in zip(before, weights_of(trainer), strict=True)
    )


def test_xla_compiles_loss_and_gradients_alone(
    make_micro, make_batch, monkeypatch
):
    """So that random numbers are those of a step without it."""
    made, function = [], tf.function

    def noting(*args, **kwargs):
        # Keras has functions of its own.
        wrapped = getattr(args[0], "func", None) if args else None
        if kwargs.get("jit_compile") and wrapped is loss_and_gradients:
            made.append(args[0])
        return function(*args, **kwargs)

    data = tf.data.Dataset.from_tensors(make_batch(4))
    weights = []
    for options in ({"run_eagerly": True}, {"jit_compile": True}):
        trainer = Trainer(make_micro(), gradient_accumulation_steps=2)
        trainer.compile(keras.optimizers.SGD(0.1), **options)
        with monkeypatch.context() as patch:
            patch.setattr(tf, "function", noting)
            fit(trainer, data)
        weights.append(weights_of(trainer))
        assert len(made) == trainer.uses_xla
    before = make_micro().diffusion_model.get_weights()
    moved = [b - a for a, b in zip(before, weights[0], strict=True)]
    compiled = [b - a for a, b in zip(before, weights[1], strict=True)]
    assert_close(moved, compiled, 1e-3)


def test_xla_is_the_default_on_gpus(make_micro, monkeypatch):
    trainer = Trainer(make_micro())
    trainer.compile()
    assert trainer.uses_xla is False
    monkeypatch.setattr(devices, "platform", lambda: "gpu")
    for options, expected in (
        ({}, True),
        ({"jit_compile": False}, False),
        ({"run_eagerly": True}, False),
    ):
        trainer.compile(**options)
        assert trainer.uses_xla is expected
    with pytest.raises(ValueError, match="Leave one of them out"):
        trainer.compile(run_eagerly=True, jit_compile=True)
    with pytest.raises(ValueError, match="`jit_compile` must be"):
        trainer.compile(jit_compile="always")


def test_gradients_that_are_not_finite_stop_training(make_trainer, make_batch):
    batch = make_batch()
    batch["images"][0] = np.nan
    for optimizer in (AdamW(1e-3), keras.optimizers.SGD(1e-3)):
        trainer = make_trainer(optimizer)
        before = weights_of(trainer)
        with pytest.raises(ValueError, match="NaN or infinite, so training"):
            fit(trainer, tf.data.Dataset.from_tensors(batch))
        assert_equal(before, weights_of(trainer))


def test_a_step_that_loss_scaling_skips_is_none(make_trainer, make_dataset):
    optimizer = keras.optimizers.LossScaleOptimizer(
        AdamW(1e-3), initial_scale=float("inf")
    )
    trainer = make_trainer(optimizer, ema_decay=0.5)
    before = weights_of(trainer)
    average = [np.asarray(w).copy() for w in trainer.weight_average.weights]
    fit(trainer, make_dataset())
    assert int(trainer.step) == 0
    assert_equal(before, weights_of(trainer))
    assert_equal(average, trainer.weight_average.weights)
    optimizer.dynamic_scale.assign(1.0)
    fit(trainer, make_dataset())
    assert int(trainer.step) == 1
    assert not np.array_equal(before[0], weights_of(trainer)[0])


def test_batches_whose_size_is_not_known_train(make_trainer, make_batch):
    """The last one is short, and its examples count for all of it."""
    data = tf.data.Dataset.from_tensor_slices(make_batch(3)).batch(2)
    assert data.element_spec["images"].shape[0] is None
    trainer = make_trainer()
    fit(trainer, data)
    assert int(trainer.step) == 2
    assert np.isfinite(trainer.evaluate(data, verbose=0))


def test_compile_defaults_are_the_fields(make_micro):
    trainer = Trainer(make_micro())
    trainer.compile()
    optimizer = trainer.optimizer
    assert float(optimizer.learning_rate) == pytest.approx(1e-5)
    assert optimizer.weight_decay == 1e-2
    assert optimizer.global_clipnorm == 1.0


# === Bad input ===


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"train": "unet"}, "`train`"),
        ({"seed": [1, 2]}, "seed"),
        ({"gradient_accumulation_steps": 1.5}, "gradient_accumulation_steps"),
        ({"ema_decay": float("nan")}, "ema_decay"),
        ({"gradient_accumulation_steps": 0}, "gradient_accumulation_steps"),
        ({"validation_timesteps": 0}, "validation_timesteps"),
        ({"ema_decay": 1.0}, "ema_decay"),
        ({"seed": -1}, "seed"),
    ],
)
def test_bad_arguments_are_refused(make_micro, arguments, message):
    with pytest.raises(ValueError, match=message):
        Trainer(make_micro(), **arguments)


def test_a_loss_cannot_be_given(make_micro):
    with pytest.raises(ValueError, match="weighting="):
        Trainer(make_micro()).compile(loss="mse")


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda b: b.pop("images"), "`images` or `moments`"),
        (lambda b: b.pop("example_weight"), "`example_weight`"),
        (
            lambda b: b.update(token_ids=b["token_ids"][:, :5]),
            "`token_ids` must end in",
        ),
        (
            lambda b: b.update(images=b["images"][:, :60]),
            "multiples of 64",
        ),
    ],
)
def test_datasets_of_another_form_are_refused(
    make_trainer, make_batch, change, message
):
    batch = make_batch()
    change(batch)
    with pytest.raises(ValueError, match=message):
        make_trainer().fit(tf.data.Dataset.from_tensors(batch))


def test_batches_must_divide_into_micro_batches(make_trainer, make_dataset):
    trainer = make_trainer(gradient_accumulation_steps=3)
    with pytest.raises(ValueError, match="multiple of"):
        trainer.fit(make_dataset())


def test_arrays_are_no_dataset(make_trainer):
    with pytest.raises(ValueError, match="keras_sdft.data.load"):
        make_trainer().fit(np.zeros((4, 64, 64, 3)))
