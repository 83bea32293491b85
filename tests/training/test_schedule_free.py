import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_sdft.training import ScheduleFreeAdamW
from keras_sdft.training.schedule_free import averaged_point
from keras_sdft.training.schedule_free import schedule_free_optimizers


def by_hand(gradients, start, rates, decay, b1, b2, eps, clip):
    """Algorithm 1: the weights that training holds, and the average."""
    z = [w.astype("float64") for w in start]
    x = [w.copy() for w in z]
    v = [np.zeros_like(w) for w in z]
    total, y = 0.0, x
    for t, step in enumerate(gradients, 1):
        norm = np.sqrt(sum((g.astype("f8") ** 2).sum() for g in step))
        scale = min(1.0, clip / norm) if clip else 1.0
        rate = rates[t - 1] * np.sqrt(1 - b2**t)
        total += rate**2
        c = rate**2 / total if total else 0.0
        for i, gradient in enumerate(step):
            g = gradient.astype("f8") * scale
            v[i] = b2 * v[i] + (1 - b2) * g**2
            point = (1 - b1) * z[i] + b1 * x[i]
            z[i] = z[i] - rate * (g / (np.sqrt(v[i]) + eps) + decay * point)
            x[i] = (1 - c) * x[i] + c * z[i]
        y = [(1 - b1) * a + b1 * b for a, b in zip(z, x, strict=True)]
    return y, x


@pytest.fixture
def problem():
    generator = np.random.default_rng(0)
    shapes = [(3, 4), (5,)]
    start = [generator.normal(size=s).astype("f4") for s in shapes]
    gradients = [
        [generator.normal(size=s).astype("f4") for s in shapes]
        for _ in range(6)
    ]
    return gradients, start


@pytest.mark.parametrize("graph", [False, True])
@pytest.mark.parametrize("clip", [None, 0.5])
def test_equals_the_algorithm(problem, clip, graph):
    gradients, start = problem
    optimizer = ScheduleFreeAdamW(
        0.1, 0.2, 0.8, 0.9, warmup_steps=3, global_clipnorm=clip
    )
    variables = [keras.Variable(value) for value in start]
    optimizer.build(variables)

    def apply(gradients):
        optimizer.apply(gradients, variables)

    step = tf.function(apply) if graph else apply
    for given in gradients:
        step([tf.constant(g) for g in given])
    rates = [0.1 * min(1, t / 3) for t in range(1, 7)]
    y, x = by_hand(gradients, start, rates, 0.2, 0.8, 0.9, 1e-8, clip)
    held = [np.array(v) for v in variables]
    for a, b in zip(held, y, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
    with averaged_point(optimizer):
        for a, b in zip(variables, x, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
    for a, b in zip(variables, held, strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_schedule_may_begin_at_zero(problem):
    gradients, start = problem
    rate = keras.optimizers.schedules.PiecewiseConstantDecay([0], [0.0, 0.1])
    optimizer = ScheduleFreeAdamW(rate, global_clipnorm=None)
    variables = [keras.Variable(value) for value in start]
    for given in gradients[:3]:
        optimizer.apply([tf.constant(g) for g in given], variables)
    y, _ = by_hand(
        gradients[:3], start, [0, 0.1, 0.1], 1e-2, 0.9, 0.999, 1e-8, None
    )
    for a, b in zip(variables, y, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_keras_own_is_averaged_too(problem):
    """Its weights lie between its iterate and the average."""
    gradients, start = problem
    optimizer = keras.optimizers.ScheduleFreeAdamW(0.1, beta_1=0.8)
    variables = [keras.Variable(value) for value in start]
    for given in gradients:
        optimizer.apply([tf.constant(g) for g in given], variables)
    held = [np.array(variable) for variable in variables]
    with averaged_point(optimizer):
        for y, x, z in zip(held, variables, optimizer._momentums, strict=True):
            between = 0.2 * np.array(z) + 0.8 * np.array(x)
            np.testing.assert_allclose(between, y, rtol=1e-4, atol=1e-6)


def test_is_found_inside_others():
    inner = ScheduleFreeAdamW()
    wrapped = keras.optimizers.LossScaleOptimizer(inner)
    assert schedule_free_optimizers(wrapped) == [inner]
    assert schedule_free_optimizers(keras.optimizers.SGD()) == []
    assert schedule_free_optimizers(None) == []


def test_another_clipping_replaces_the_default():
    assert ScheduleFreeAdamW(clipvalue=1.0).global_clipnorm is None


def test_goes_through_a_configuration():
    config = ScheduleFreeAdamW(1e-3, 0.2, warmup_steps=5).get_config()
    assert ScheduleFreeAdamW.from_config(config).get_config() == config
