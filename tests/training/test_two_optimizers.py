import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_sdft.training import AdamW
from keras_sdft.training.two_optimizers import TwoOptimizers
from keras_sdft.training.two_optimizers import choose_optimizer


def variables_of(*values):
    return [keras.Variable([float(value)]) for value in values]


def apply(optimizer, variables, gradients, graph=False):
    optimizer.build(variables)

    def step(gradients):
        optimizer.apply(gradients, variables)

    step = tf.function(step) if graph else step
    for given in gradients:
        step([tf.constant([float(g)]) for g in given])
    return [float(variable[0]) for variable in variables]


@pytest.mark.parametrize("graph", [False, True])
def test_each_learns_at_its_own_rate(graph):
    variables = variables_of(1, 2, 3)
    optimizer = TwoOptimizers(
        keras.optimizers.SGD(0.1), keras.optimizers.SGD(0.01), [variables[1]]
    )
    found = apply(optimizer, variables, [(1, 1, 1)] * 2, graph)
    np.testing.assert_allclose(found, [0.8, 1.98, 2.8], rtol=1e-6)
    assert int(optimizer.iterations) == 2
    assert float(optimizer.learning_rate) == pytest.approx(0.1)


def test_gradients_are_clipped_together():
    variables = variables_of(0, 0)
    optimizer = TwoOptimizers(
        keras.optimizers.SGD(1.0, global_clipnorm=1.0),
        keras.optimizers.SGD(1.0, global_clipnorm=1.0),
        variables[1:],
    )
    # Apart, each would be clipped to 1.
    found = apply(optimizer, variables, [(3, 4)])
    np.testing.assert_allclose(found, [-0.6, -0.8], rtol=1e-6)


@pytest.mark.parametrize("graph", [False, True])
def test_stops_with_its_state(graph):
    variables = variables_of(0, 0)
    second = AdamW(0.1)
    optimizer = TwoOptimizers(
        keras.optimizers.SGD(1.0, global_clipnorm=1.0),
        second,
        variables[1:],
        stop_step=2,
    )
    apply(optimizer, variables, [(3, 4)] * 2, graph)
    state = [np.array(v) for v in [*second.variables, variables[1]]]
    before = float(variables[0][0])
    apply(optimizer, variables, [(3, 4)], graph)
    for a, b in zip([*second.variables, variables[1]], state, strict=True):
        np.testing.assert_array_equal(a, b)
    # Nor has it a part in the global norm: 3 is clipped to 1, not to 0.6.
    assert before - float(variables[0][0]) == pytest.approx(1.0)
    assert int(second.iterations) == 2 and int(optimizer.iterations) == 3


def test_the_loss_is_scaled_around_both():
    variables = variables_of(1, 1)
    optimizer = keras.optimizers.LossScaleOptimizer(
        TwoOptimizers(
            keras.optimizers.SGD(0.1),
            keras.optimizers.SGD(0.01),
            variables[1:],
        ),
        initial_scale=8.0,
    )
    found = apply(optimizer, variables, [(8, 8)])
    np.testing.assert_allclose(found, [0.9, 0.99], rtol=1e-6)


def test_its_state_is_that_of_both():
    variables = variables_of(1, 1)
    optimizer = TwoOptimizers(AdamW(0.1), AdamW(0.1), variables[1:])
    optimizer.build(variables)
    for part in optimizer.optimizers:
        assert {id(v) for v in part.variables} <= {
            id(v) for v in optimizer.variables
        }


class Encoder:
    trainable_variables = variables_of(1)


def test_the_default_is_another_like_the_first():
    rate = keras.optimizers.schedules.PolynomialDecay(1e-3, 10)
    first = AdamW(rate, weight_decay=0.5)
    chosen = choose_optimizer(first, None, Encoder(), None)
    assert chosen.first is first and chosen.second is not first
    assert chosen.second.get_config() == first.get_config()


def test_its_own_may_be_given_by_name():
    chosen = choose_optimizer("adamw", "lion", Encoder(), 5)
    assert isinstance(chosen.second, keras.optimizers.Lion)
    assert chosen.stop_step == 5


def test_contradictions_are_refused():
    with pytest.raises(ValueError, match="train_text_encoder=True"):
        choose_optimizer(None, "adamw", None, None)
    with pytest.raises(ValueError, match="average"):
        choose_optimizer("schedule_free_adamw", None, None, None, True)
    same = AdamW()
    with pytest.raises(ValueError, match="another object"):
        choose_optimizer(same, same, Encoder(), None)
    scaling = keras.optimizers.LossScaleOptimizer(AdamW())
    with pytest.raises(ValueError, match="scale the loss"):
        choose_optimizer(scaling, AdamW(), Encoder(), None)
