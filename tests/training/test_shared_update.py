import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_sdft.training import AdamW

SHAPES = [(3, 4), (5,), (3, 4), (5,), (3, 4)]


def draw(seed, dtype="float32"):
    generator = np.random.default_rng(seed)
    return [
        tf.constant(generator.normal(size=shape), dtype) for shape in SHAPES
    ]


def run(graph, dtype="float32", **arguments):
    variables = [keras.Variable(value, dtype=dtype) for value in draw(0)]
    optimizer = AdamW(0.1, **arguments)
    optimizer.build(variables)

    def apply(gradients):
        optimizer.apply(gradients, variables)

    step = tf.function(apply) if graph else apply
    for seed in (1, 2, 3):
        step(draw(seed, dtype))
    return [
        np.asarray(keras.ops.cast(variable, "float32"))
        for variable in [*variables, *optimizer.variables]
    ]


@pytest.mark.parametrize(
    "arguments",
    [
        {"weight_decay": 0.2},
        {"weight_decay": 0.0, "global_clipnorm": None},
        {"global_clipnorm": 0.5, "epsilon": 0.1},
        {"dtype": "bfloat16"},
    ],
    ids=["decay", "bare", "clipped", "bfloat16"],
)
def test_equals_the_update_variable_by_variable(arguments):
    alone, shared = run(False, **arguments), run(True, **arguments)
    tolerance = 1e-2 if "dtype" in arguments else 1e-6
    for a, b in zip(alone, shared, strict=True):
        np.testing.assert_allclose(a, b, atol=tolerance)


def test_variables_of_all_shapes_share_a_function():
    variables = [keras.Variable(value) for value in draw(0)]
    optimizer = AdamW()
    optimizer.build(variables)
    step = tf.function(lambda g: optimizer.apply(g, variables))
    graph = step.get_concrete_function(draw(1)).graph.as_graph_def()
    calls = [
        node.attr["f"].func.name
        for node in graph.node
        if node.op == "StatefulPartitionedCall"
    ]
    assert len(calls) == len(SHAPES)
    assert len(set(calls)) == 1


def test_what_does_not_decay_keeps_its_weight():
    variables = [keras.Variable([1.0], name=n) for n in ("kernel", "bias")]
    optimizer = AdamW(0.1, 0.5)
    optimizer.exclude_from_weight_decay(var_names=["bias"])
    optimizer.build(variables)
    step = tf.function(
        lambda: optimizer.apply([tf.zeros((1,)), tf.zeros((1,))], variables)
    )
    step()
    assert [float(v[0]) for v in variables] == pytest.approx([0.95, 1.0])


def test_names_in_keras_stay():
    variables = [keras.Variable([1.0, 2.0], name=name) for name in "ab"]
    ours, keras_own = AdamW(name="x"), keras.optimizers.AdamW(name="x")
    for optimizer in (ours, keras_own):
        optimizer.build(variables)
    assert [v.path for v in ours.variables] == [
        v.path for v in keras_own.variables
    ]
