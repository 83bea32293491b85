import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_sdft.training import AdamW
from keras_sdft.training import Group
from keras_sdft.training import Part
from keras_sdft.training import Trainer
from keras_sdft.training import parts
from keras_sdft.training import schedules
from keras_sdft.training.optimizer_groups import OptimizerGroups
from keras_sdft.training.optimizer_groups import learning
from keras_sdft.training.optimizer_groups import make_optimizer


def variables_of(*values):
    return [keras.Variable([float(value)]) for value in values]


def sgd(rate, **kwargs):
    return keras.optimizers.SGD(rate, **kwargs)


def groups_of(variables, *optimizers, **last):
    """One group for each variable, the last one with more arguments."""
    *first, end = zip(variables, optimizers, strict=True)
    groups = [Group([v], optimizer=one) for v, one in first]
    return [*groups, Group([end[0]], optimizer=end[1], **last)]


def apply(optimizer, variables, gradients, graph=False):
    optimizer.build(variables)

    def step(gradients):
        optimizer.apply(gradients, variables)

    step = tf.function(step) if graph else step
    for given in gradients:
        step([tf.constant([float(g)]) for g in given])
    return [float(variable[0]) for variable in variables]


@pytest.mark.parametrize("graph", [False, True])
def test_each_group_learns_at_its_own_rate(graph):
    variables = variables_of(1, 2, 3)
    optimizer = OptimizerGroups(
        groups_of(variables, sgd(0.1), sgd(0.01), sgd(1.0))
    )
    found = apply(optimizer, variables, [(1, 1, 1)] * 2, graph)
    np.testing.assert_allclose(found, [0.8, 1.98, 1.0], rtol=1e-6)
    assert int(optimizer.iterations) == 2
    assert float(optimizer.learning_rate) == pytest.approx(0.1)


def test_gradients_are_clipped_together():
    variables = variables_of(0, 0)
    clipping = [sgd(1.0, global_clipnorm=1.0) for _ in "12"]
    optimizer = make_optimizer(None, groups_of(variables, *clipping))
    # Apart, each would be clipped to 1.
    found = apply(optimizer, variables, [(3, 4)])
    np.testing.assert_allclose(found, [-0.6, -0.8], rtol=1e-6)


@pytest.mark.parametrize("graph", [False, True])
def test_a_group_stops_with_its_state(graph):
    variables = variables_of(0, 0)
    second = AdamW(0.1)
    optimizer = OptimizerGroups(
        groups_of(
            variables, sgd(1.0, global_clipnorm=1.0), second, stop_step=2
        ),
        1.0,
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


def test_what_has_stopped_needs_no_gradients():
    variables = variables_of(1, 1)
    optimizer = OptimizerGroups(
        groups_of(variables, sgd(0.1), sgd(0.1), stop_step=1)
    )
    assert learning(optimizer, variables) == variables
    apply(optimizer, variables, [(1, 1)])
    needed = learning(optimizer, variables)
    assert needed == variables[:1]
    optimizer.apply([tf.constant([1.0])], needed)
    found = [float(variable[0]) for variable in variables]
    np.testing.assert_allclose(found, [0.8, 0.9], rtol=1e-6)
    assert learning(sgd(0.1), variables) == variables


def test_the_loss_is_scaled_around_all():
    variables = variables_of(1, 1)
    optimizer = keras.optimizers.LossScaleOptimizer(
        OptimizerGroups(groups_of(variables, sgd(0.1), sgd(0.01))),
        initial_scale=8.0,
    )
    found = apply(optimizer, variables, [(8, 8)])
    np.testing.assert_allclose(found, [0.9, 0.99], rtol=1e-6)


def test_its_state_is_that_of_all():
    variables = variables_of(1, 1)
    optimizer = OptimizerGroups(groups_of(variables, AdamW(0.1), AdamW(0.1)))
    optimizer.build(variables)
    for part in optimizer.optimizers:
        assert {id(v) for v in part.variables} <= {
            id(v) for v in optimizer.variables
        }


# === Made from what learns ===


def test_groups_without_anything_of_their_own_share_the_optimizer():
    main = AdamW()
    groups = [Group(variables_of(1)), Group(variables_of(2))]
    assert make_optimizer(main, groups) is main
    own = [*groups, Group(variables_of(3), stop_step=4)]
    found = make_optimizer(main, own)
    assert [len(g.variables) for g in found.groups] == [2, 1]
    assert found.optimizers[0] is main and found.groups[1].stop_step == 4
    # The same configuration, without the state.
    assert found.optimizers[1] is not main
    assert found.optimizers[1].get_config() == main.get_config()


def test_a_rate_of_its_own_keeps_the_rest_of_the_main_optimizer():
    """As a part with two rates has it: LoRA+, for example."""
    rate = schedules.WarmUpSchedule("linear", 1e-3, num_steps=10)
    main = AdamW(rate, weight_decay=0.5)
    first, *_ = groups = [
        Group(variables_of(1)),
        Group(variables_of(2), learning_rate=4e-3),
    ]
    found = make_optimizer(main, groups).optimizers[1]
    assert found.weight_decay == 0.5
    config = found.get_config()["learning_rate"]["config"]
    assert config["learning_rate"] == 4e-3 and config["num_steps"] == 10
    found = make_optimizer(AdamW(1e-3), groups).optimizers[1]
    assert float(found.learning_rate) == pytest.approx(4e-3)
    other = keras.optimizers.schedules.PolynomialDecay(1e-3, 10)
    with pytest.raises(ValueError, match="PolynomialDecay"):
        make_optimizer(AdamW(other), groups)


def test_a_group_may_have_an_optimizer_by_name():
    groups = [Group(variables_of(1)), Group(variables_of(2), optimizer="lion")]
    found = make_optimizer("adamw", groups)
    assert isinstance(found.optimizers[1], keras.optimizers.Lion)
    alone = make_optimizer(None, groups[1:])
    assert isinstance(alone, keras.optimizers.Lion)


def test_contradictions_are_refused():
    variables = variables_of(1, 2)
    same = AdamW()
    with pytest.raises(ValueError, match="nothing to train"):
        make_optimizer("adamw", groups_of(variables, sgd(1.0), sgd(1.0)))
    with pytest.raises(ValueError, match="of its own"):
        make_optimizer(None, groups_of(variables, same, same))
    scaling = keras.optimizers.LossScaleOptimizer(AdamW())
    with pytest.raises(ValueError, match="scale the loss"):
        make_optimizer(None, groups_of(variables, scaling, same))


# === A part that is none of ours ===


class OneKernel(Part):
    """An adapter of sorts: one weight learns, its network is frozen."""

    name = "kernel"
    networks = ("diffusion_model",)

    def attach(self, stable_diffusion):
        network = stable_diffusion.diffusion_model
        network.trainable = False
        # Found in the network here; an adapter makes its own.
        self.kernels = [w for w in network.weights if len(w.shape) == 4][:2]
        stable_diffusion.trained_parts.discard("diffusion_model")

    @property
    def variables(self):
        return self.kernels

    def groups(self):
        """Two rates in one part."""
        first, second = self.kernels
        return [Group([first]), Group([second], learning_rate=1e-3)]

    def files(self):
        values = [np.asarray(kernel) for kernel in self.kernels]
        return {"kernels.npz": lambda path: np.savez(path, *values)}


def test_a_part_of_few_variables_trains_alone(
    make_micro, make_dataset, tmp_path
):
    sd, part = make_micro(), OneKernel()
    trainer = Trainer(sd, train=part, ema_decay=0.9)
    trainer.compile(AdamW(1e-2), run_eagerly=True)
    before = [np.array(w) for w in sd.diffusion_model.weights]
    estimate = trainer.memory_estimate(make_dataset().element_spec)
    trainer.fit(make_dataset(2), verbose=0)
    after = [np.array(w) for w in sd.diffusion_model.weights]
    moved = [
        a - b for a, b in zip(after, before, strict=True) if (a != b).any()
    ]
    assert len(moved) == 2
    # AdamW's steps are about the rate, and clipped together or not.
    assert abs(moved[0]).max() > 5 * abs(moved[1]).max() > 0
    size = sum(np.asarray(w).nbytes for w in part.variables)
    assert estimate.gradients == estimate.weight_average == size
    # No whole network is in the export, and what the part writes is.
    out = trainer.export(tmp_path / "out")
    with np.load(out / "kernels.npz") as file:
        assert len(file.files) == 2
    assert not (out / "diffusion_model.weights.h5").exists()
    trainer.export(out, overwrite=True)


def test_parts_must_be_apart(make_micro):
    for order in (1, -1):
        overlapping = [OneKernel(), parts.DiffusionModel()][::order]
        with pytest.raises(ValueError, match="have the same variables"):
            parts.attach(overlapping, make_micro())
