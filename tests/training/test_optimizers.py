import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_sdft import models
from keras_sdft.training import AdamW
from keras_sdft.training import ScheduleFreeAdamW
from keras_sdft.training import Trainer
from keras_sdft.training import optimizers
from tests.training.steps import step_of
from tests.training.steps import tensors_of


def run(optimizer, gradients, start):
    variables = [keras.Variable(value) for value in start]
    step = tf.function(lambda g: optimizer.apply(g, variables))
    for step_gradients in gradients:
        step([tf.constant(g) for g in step_gradients])
    return [np.asarray(variable) for variable in variables]


def adamw_by_hand(gradients, start, lr, decay, b1, b2, eps, clip):
    weights = [w.astype("float64") for w in start]
    m = [np.zeros_like(w) for w in weights]
    v = [np.zeros_like(w) for w in weights]
    for n, step in enumerate(gradients, 1):
        norm = np.sqrt(sum((g.astype("float64") ** 2).sum() for g in step))
        scale = min(1.0, clip / norm) if clip else 1.0
        for i, gradient in enumerate(step):
            g = gradient.astype("float64") * scale
            m[i] = b1 * m[i] + (1 - b1) * g
            v[i] = b2 * v[i] + (1 - b2) * g**2
            root = np.sqrt(v[i] / (1 - b2**n)) + eps
            weights[i] = weights[i] * (1 - lr * decay)
            weights[i] = weights[i] - lr * m[i] / (1 - b1**n) / root
    return weights


@pytest.fixture
def problem():
    generator = np.random.default_rng(0)
    shapes = [(3, 4), (5,)]
    start = [generator.normal(size=s).astype("float32") for s in shapes]
    gradients = [
        [generator.normal(size=s).astype("float32") for s in shapes]
        for _ in range(5)
    ]
    return gradients, start


@pytest.mark.parametrize("clip", [None, 0.5, 1e6])
@pytest.mark.parametrize("epsilon", [1e-8, 1e-1])
def test_equals_the_algorithm(problem, clip, epsilon):
    gradients, start = problem
    optimizer = AdamW(0.1, 0.2, 0.8, 0.9, epsilon, global_clipnorm=clip)
    found = run(optimizer, gradients, start)
    expected = adamw_by_hand(
        gradients, start, 0.1, 0.2, 0.8, 0.9, epsilon, clip
    )
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


def test_equals_keras_where_epsilon_is_small(problem):
    gradients, start = problem
    arguments = dict(learning_rate=0.01, weight_decay=0.1, epsilon=1e-12)
    ours = run(AdamW(global_clipnorm=1.0, **arguments), gradients, start)
    theirs = run(
        keras.optimizers.AdamW(global_clipnorm=1.0, **arguments),
        gradients,
        start,
    )
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


def test_follows_a_schedule(problem):
    gradients, start = problem
    schedule = keras.optimizers.schedules.PiecewiseConstantDecay(
        [1], [0.1, 0.0]
    )
    after_two = run(AdamW(schedule, 0.0), gradients[:2], start)
    after_five = run(AdamW(schedule, 0.0), gradients, start)
    for a, b in zip(after_two, after_five, strict=True):
        np.testing.assert_array_equal(a, b)


def test_excluded_variables_do_not_decay():
    optimizer = AdamW(0.1, 0.5)
    variables = [keras.Variable([1.0], name=n) for n in ("kernel", "bias")]
    optimizer.exclude_from_weight_decay(var_names=["bias"])
    optimizer.apply([tf.zeros((1,)), tf.zeros((1,))], variables)
    assert [float(v[0]) for v in variables] == pytest.approx([0.95, 1.0])


def test_goes_through_a_configuration():
    config = AdamW(1e-3, 0.2, epsilon=1e-6, global_clipnorm=2.0).get_config()
    again = AdamW.from_config(config)
    assert again.get_config() == config


def test_another_clipping_replaces_the_default():
    assert AdamW(clipnorm=1.0).global_clipnorm is None


def test_amsgrad_is_refused():
    with pytest.raises(ValueError, match="keras.optimizers.AdamW"):
        AdamW(amsgrad=True)


# === By name ===


@pytest.fixture(scope="module")
def model(micro_spec, perturb):
    model = models.StableDiffusion(
        64, 64, spec=micro_spec, base="tiny", random_weights=True
    )
    perturb(model.diffusion_model)
    return model


# Enough for a few steps; a fine-tune takes far less.
RATES = {
    "adafactor": 2e-2,
    "adamw": 1e-3,
    "lion": 5e-4,
    "muon": 1e-3,
    "schedule_free_adamw": 2e-3,
}


@pytest.mark.parametrize("name", optimizers.OPTIMIZERS)
def test_the_loss_of_a_fixed_batch_falls(model, make_batch, name):
    before = model.diffusion_model.get_weights()
    trainer = Trainer(model)
    trainer.compile(optimizers.get(name, RATES[name]), run_eagerly=True)
    batch = tensors_of(trainer, make_batch(2))
    losses = []
    for _ in range(4):
        loss, gradients, _ = step_of(trainer, batch)
        losses.append(float(loss))
        trainer.optimizer.apply(gradients, trainer.trainable_variables)
    with trainer.averaged_weights():
        losses.append(float(step_of(trainer, batch)[0]))
    model.diffusion_model.set_weights(before)
    assert losses[-1] < 0.98 * losses[0]
    if name != "schedule_free_adamw":
        assert (np.diff(losses) < 0).all()


@pytest.mark.parametrize(
    "name, kind, rate, decay",
    [
        (None, AdamW, 1e-5, 1e-2),
        ("adamw", AdamW, 1e-5, 1e-2),
        ("adafactor", keras.optimizers.Adafactor, 5e-4, 0.0),
        ("lion", keras.optimizers.Lion, 1e-6, 1e-1),
        ("muon", keras.optimizers.Muon, 1e-5, 1e-2),
        ("schedule_free_adamw", ScheduleFreeAdamW, 1e-5, 1e-2),
    ],
)
def test_names_have_defaults_for_fine_tuning(name, kind, rate, decay):
    optimizer = optimizers.get(name)
    assert type(optimizer) is kind
    assert float(optimizer.learning_rate) == pytest.approx(rate)
    assert optimizer.weight_decay == decay
    assert optimizer.global_clipnorm == 1.0


def test_names_take_arguments():
    optimizer = optimizers.get("muon", 1e-4, 0.5, None, momentum=0.8)
    assert float(optimizer.learning_rate) == pytest.approx(1e-4)
    assert optimizer.weight_decay == optimizer.adam_weight_decay == 0.5
    assert optimizer.global_clipnorm is None and optimizer.momentum == 0.8


def test_any_keras_optimizer_is_taken_as_it_is():
    own = keras.optimizers.Nadam(1e-3)
    assert optimizers.get(own) is own
    assert isinstance(optimizers.get("rmsprop"), keras.optimizers.RMSprop)
    with pytest.raises(ValueError, match="Arguments can be given"):
        optimizers.get(own, learning_rate=1e-3)
    with pytest.raises(ValueError, match="Did you mean 'adafactor'"):
        optimizers.get("adafactr")


def test_the_scheduler_of_others_is_answered():
    with pytest.raises(ValueError, match="'constant' here.*lr_warmup_steps"):
        optimizers.OptimizerOptions(lr_scheduler="constant_with_warmup")


def test_two_averages_are_refused(model):
    trainer = Trainer(model, ema_decay=0.9)
    with pytest.raises(ValueError, match="schedule-free"):
        trainer.compile("schedule_free_adamw")
