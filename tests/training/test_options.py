"""Each option of the objective, held against its formula in NumPy.

The network alone is the library's: what it is shown, what it should answer
and how its error counts are written out here, and so is the derivative of
the loss, from which the network's own gradients are pulled back.
"""

import dataclasses

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_sdft import models
from keras_sdft.diffusion import gaussian
from keras_sdft.diffusion import stateless_seed
from keras_sdft.training import Trainer
from tests.training.steps import step_of
from tests.training.steps import tensors_of
from tests.training.steps import trainer_of

SHAPE = (4, 8, 8, 4)


@pytest.fixture(scope="module")
def shared(micro_spec, perturb):
    """One model for all: nothing here updates its weights."""
    model = models.StableDiffusion(
        64, 64, spec=micro_spec, base="tiny", random_weights=True
    )
    perturb(model.diffusion_model)
    return model


@pytest.fixture
def model(shared, micro_spec):
    shared.spec, shared.trained_parts = micro_spec, {"diffusion_model"}
    return shared


@pytest.fixture
def make_options_batch(make_batch):
    def make(*keys):
        batch = make_batch()
        generator = np.random.default_rng(5)
        extra = {
            "loss_mask": generator.integers(0, 2, (4, 8, 8, 1)),
            "prior": np.array([0, 1, 0, 1]),
            "example_weight": np.array([1.0, 0.5, 1.0, 0.5]),
        }
        extra["loss_mask"][3] = 0
        for key in keys:
            batch[key] = extra[key].astype("float32")
        return batch

    return make


def table(zero=False):
    betas = np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
    roots = np.sqrt(np.cumprod(1 - betas))
    if zero:
        roots = (roots - roots[-1]) * roots[0] / (roots[0] - roots[-1])
    return roots**2


def draw(stream, shape=SHAPE, step=3):
    return np.asarray(gaussian(shape, stateless_seed(0, stream, step)), "f8")


WEIGHTS = {
    "constant": lambda s: 1.0 + 0 * s,
    "min_snr": lambda s: np.minimum(s, 5) / s,
    "p2": lambda s: 1 / (1 + s),
    "debiased": lambda s: 1 / np.sqrt(np.minimum(s, 1000)),
}


def by_hand(trainer, batch, options):
    """Loss and gradients of the step 3, from the formulas."""
    sd = trainer.stable_diffusion
    t = np.asarray(trainer.noise_sampler(SHAPE, 3)["timesteps"])
    alpha = table(options.get("zero_terminal_snr"))[t].reshape(4, 1, 1, 1)
    noise = draw("noise")
    if options.get("offset_noise"):
        noise = noise + 0.1 * draw("offset_noise", (4, 1, 1, 4))
    shown = noise
    if options.get("input_perturbation"):
        shown = noise + 0.2 * draw("input_perturbation")
    moments = np.asarray(sd.moments_model(batch["images"]), "f8")
    deviation = np.exp(moments[..., 4:] / 2)
    latents = (moments[..., :4] + deviation * draw("latents")) * 0.18215
    noised = alpha**0.5 * latents + (1 - alpha) ** 0.5 * shown
    velocity = options.get("prediction_type") == "v_prediction"
    target = noise
    if velocity:
        target = alpha**0.5 * noise - (1 - alpha) ** 0.5 * latents

    angles = t[:, None] * 10000.0 ** (-np.arange(8) / 8)
    embedding = np.concatenate([np.cos(angles), np.sin(angles)], 1)
    inputs = {
        "latent": tf.constant(noised, "float32"),
        "timestep_embedding": tf.constant(embedding, "float32"),
    }
    tokens = {
        "tokens": tf.constant(batch["token_ids"]),
        "positions": tf.constant(np.tile(np.arange(77), (4, 1))),
    }
    with tf.GradientTape() as tape:
        context = sd.text_encoder(tokens)
        prediction = sd.diffusion_model({**inputs, "context": context})
        error = prediction.numpy().astype("f8") - target
        loss, slope = loss_and_slope(error, alpha, batch, options, velocity)
        pulled = tf.reduce_sum(prediction * tf.constant(slope, "float32"))
    gradients = tape.gradient(pulled, trainer.trainable_variables)
    return loss, [np.asarray(tf.convert_to_tensor(g)) for g in gradients]


def loss_and_slope(error, alpha, batch, options, velocity):
    """The loss, and its derivative by the prediction."""
    each, slope = error**2, 2 * error
    if options.get("loss") == "huber":
        root = np.sqrt(error**2 + 0.3**2)
        each, slope = 0.6 * (root - 0.3), 0.6 * error / root
    mask = batch.get("loss_mask", np.ones((4, 8, 8, 1)))
    area = np.maximum(mask.sum((1, 2, 3), keepdims=True) * 4, 1)
    snr = alpha / (1 - alpha)
    weight = WEIGHTS[options.get("weighting", "constant")](snr)
    if velocity and options.get("weighting"):
        weight = weight * snr / (snr + 1)
    share = weight * mask / area
    share = share * batch["example_weight"].reshape(4, 1, 1, 1) / 4
    return (each * share).sum(), slope * share


V = {"prediction_type": "v_prediction"}
OPTIONS = {
    "plain": ({}, ()),
    "v": (V, ()),
    "zero_snr": ({**V, "zero_terminal_snr": True}, ()),
    "p2": ({"weighting": "p2"}, ()),
    "p2_v": ({**V, "weighting": "p2"}, ()),
    "debiased": ({"weighting": "debiased"}, ()),
    "debiased_v": ({**V, "weighting": "debiased"}, ()),
    "min_snr_v": ({**V, "weighting": "min_snr"}, ()),
    "offset_noise": ({"offset_noise": 0.1}, ()),
    "input_perturbation": ({"input_perturbation": 0.2}, ()),
    "huber": ({"loss": "huber", "huber_delta": 0.3}, ()),
    "mask": ({}, ("loss_mask",)),
    "huber_mask": ({"loss": "huber", "huber_delta": 0.3}, ("loss_mask",)),
    "prior": ({}, ("prior", "example_weight")),
    "timesteps": (
        {
            "timestep_range": (200, 900),
            "timestep_bias_strategy": "later",
            "timestep_bias_multiplier": 4.0,
        },
        (),
    ),
    "text_encoder": ({"text_encoder": {}}, ()),
    "several": (
        {
            **V,
            "weighting": "min_snr",
            "loss": "huber",
            "huber_delta": 0.3,
            "offset_noise": 0.1,
            "input_perturbation": 0.2,
            "timestep_range": (100, 1000),
            "text_encoder": {},
        },
        ("loss_mask", "prior", "example_weight"),
    ),
}


def assert_close(found, expected, relative=1e-4):
    norm = np.sqrt(sum(np.sum(np.square(x, dtype="f8")) for x in expected))
    for x, y in zip(found, expected, strict=True):
        error = np.linalg.norm(np.asarray(x) - np.asarray(y))
        assert error <= relative * (np.linalg.norm(y) + 1e-3 * norm)


@pytest.mark.parametrize("name", OPTIONS)
def test_options_equal_their_formulas(model, make_options_batch, name):
    """Whole, and in micro-batches."""
    options, keys = OPTIONS[name]
    batch = make_options_batch(*keys)
    trainer = trainer_of(model, **options)
    tensors = tensors_of(trainer, batch, 3)
    loss, gradients = by_hand(trainer, batch, options)
    whole_loss, whole, whole_sums = step_of(trainer, tensors)
    assert float(whole_loss) == pytest.approx(loss, rel=1e-5)
    assert_close(whole, gradients)
    part_loss, parts, part_sums = step_of(trainer, tensors, 2)
    assert float(part_loss) == pytest.approx(loss, rel=1e-5)
    assert_close(parts, whole)
    np.testing.assert_allclose(whole_sums, part_sums, rtol=1e-5)
    assert len(whole_sums) == (4 if "prior" in keys else 0)


def test_multires_noise_in_micro_batches(model, make_options_batch):
    """Its formula is held in the tests of `diffusion`."""
    trainer = trainer_of(model, multires_noise_iterations=4)
    tensors = tensors_of(trainer, make_options_batch(), 3)
    plain = Trainer(model).noise_sampler(SHAPE, 3)["noise"]
    assert np.abs(tensors["noise"] - plain).max() > 0.1
    _, whole, _ = step_of(trainer, tensors)
    _, parts, _ = step_of(trainer, tensors, 4)
    assert_close(parts, whole)


def test_remat_and_bfloat16_in_micro_batches(make_micro, make_options_batch):
    """Rematerialised, in bfloat16, accumulated: still the same step."""
    found = []
    for arguments, parts in (({}, 1), ({"remat": True}, 2)):
        sd = make_micro(dtype="mixed_bfloat16", **arguments)
        trainer = trainer_of(sd, loss="huber")
        tensors = tensors_of(trainer, make_options_batch(), 3)
        found.append(step_of(trainer, tensors, parts)[1])
    whole, parts = (np.concatenate([np.ravel(x) for x in f]) for f in found)
    # Batches of other sizes are rounded otherwise; bfloat16 has 8 bits.
    assert np.linalg.norm(whole - parts) < 0.02 * np.linalg.norm(whole)


def test_every_option_at_once_in_a_graph(make_micro, make_options_batch):
    """Three steps in micro-batches whose sides the graph does not know."""
    batch = make_options_batch("loss_mask", "prior", "example_weight")
    shapes = {k: tf.TensorSpec(v.shape, v.dtype) for k, v in batch.items()}
    shapes["images"] = tf.TensorSpec((4, None, None, 3), "float32")
    shapes["loss_mask"] = tf.TensorSpec((4, None, None, 1), "float32")
    known = tf.data.Dataset.from_tensors(batch).repeat(3)
    unknown = tf.data.Dataset.from_generator(
        lambda: [batch] * 3, output_signature=shapes
    )
    found = []
    for data, graph, parts in ((known, False, 1), (unknown, True, 2)):
        trainer = trainer_of(
            make_micro(),
            text_encoder={
                "optimizer": keras.optimizers.SGD(0.5),
                "stop_step": 2,
            },
            prediction_type="v_prediction",
            weighting="p2",
            loss="huber",
            offset_noise=0.1,
            multires_noise_iterations=5,
            input_perturbation=0.1,
            timestep_range=(100, 1000),
            timestep_bias_strategy="later",
            timestep_bias_multiplier=2.0,
            ema_decay=0.9,
            gradient_accumulation_steps=parts,
        )
        trainer.compile(
            keras.optimizers.SGD(0.1, global_clipnorm=1.0),
            run_eagerly=not graph,
        )
        history = trainer.fit(data, verbose=0).history
        with trainer.averaged_weights():
            weights = [np.array(v) for v in trainer.trainable_variables]
        found.append((history, weights))
    assert set(found[0][0]) == {"loss", "instance_loss", "prior_loss"}
    # The end of data of unknown length is no step.
    assert int(trainer.step) == int(trainer.optimizer.iterations) == 3
    for name, losses in found[0][0].items():
        assert found[1][0][name] == pytest.approx(losses, rel=1e-4)
    assert_close(found[1][1], found[0][1], 1e-4)


def test_masked_positions_do_not_count(model, make_options_batch):
    batch = make_options_batch("loss_mask")
    trainer = Trainer(model)
    losses = []
    for shift in (0.0, 5.0):
        prediction = gaussian(SHAPE, stateless_seed(0, "noise", 1))
        moved = prediction + shift * (1.0 - batch["loss_mask"])
        losses.append(
            trainer.denoising.loss.losses(
                moved,
                np.zeros(SHAPE, "float32"),
                np.zeros((4,), "int32"),
                batch["loss_mask"],
            )
        )
    np.testing.assert_array_equal(*losses)
    assert float(losses[0][3]) == 0.0  # nothing let through, and no NaN


def test_prior_losses_are_shown_apart(model, make_options_batch):
    trainer = Trainer(model)
    batch = make_options_batch("prior", "example_weight")
    losses = tf.constant([1.0, 10.0, 3.0, 30.0])
    sums = trainer.loss_metrics.sums(losses, batch)
    shown = trainer.loss_metrics.update(tf.constant(2.0), None, sums)
    assert {name: float(value) for name, value in shown.items()} == {
        "loss": 2.0,
        "instance_loss": 2.0,
        "prior_loss": 20.0,
    }
    assert set(trainer.loss_metrics.update(losses, None, [])) == {"loss"}


# === Bad input ===


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"zero_terminal_snr": True}, "prediction_type='epsilon'"),
        (
            {**V, "zero_terminal_snr": True, "weighting": "min_snr"},
            "'min_snr'.*zero terminal SNR",
        ),
        ({"timestep_range": (0, 1001)}, "range of timesteps"),
        (
            {"timestep_bias_strategy": np.ones(10)},
            "one relative probability",
        ),
        (
            {
                "timestep_range": (0, 500),
                "timestep_bias_strategy": lambda t: np.arange(t) >= 500,
            },
            "timestep_range",
        ),
    ],
)
def test_bad_options_are_refused(model, micro_spec, arguments, message):
    with pytest.raises(ValueError, match=message):
        trainer_of(model, **arguments)
    assert model.spec == micro_spec


def test_weights_keep_their_prediction_type(model, monkeypatch):
    kind = type(model)
    monkeypatch.setattr(kind, "is_pretrained", True)
    with pytest.raises(ValueError, match="change_prediction_type"):
        trainer_of(model, **V)
    trainer_of(model, prediction_type="epsilon")
    trainer_of(model, **V, change_prediction_type=True)
    assert model.spec.prediction_type == "v_prediction"


def test_the_model_remembers_its_schedule(model, micro_spec):
    trainer_of(model, **V, zero_terminal_snr=True)
    assert model.spec == dataclasses.replace(
        micro_spec, prediction_type="v_prediction", zero_terminal_snr=True
    )
    assert model.schedule.snr[-1] == 0
    # The next trainer takes the model as it is.
    assert Trainer(model).denoising.loss.schedule.zero_terminal_snr


@pytest.mark.parametrize("shape", [(4, 64, 64, 1), (4, 8, 8), (4, 4, 8, 1)])
def test_masks_of_another_size_are_refused(model, make_batch, shape):
    trainer = Trainer(model)
    trainer.compile("sgd")
    batch = {**make_batch(), "loss_mask": np.ones(shape, "float32")}
    with pytest.raises(ValueError, match="`loss_mask` must have the size"):
        trainer.fit(tf.data.Dataset.from_tensors(batch))


def test_cached_context_cannot_train_the_text_encoder(model, make_batch):
    trainer = Trainer(model, train=["diffusion_model", "text_encoder"])
    trainer.compile("sgd")
    batch = make_batch()
    del batch["token_ids"]
    batch["context"] = np.zeros((4, 77, 16), "float32")
    with pytest.raises(ValueError, match="cached `context`"):
        trainer.fit(tf.data.Dataset.from_tensors(batch))
