import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_sdft.training import AdamW


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
