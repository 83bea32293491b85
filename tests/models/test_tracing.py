"""The twin of a traced block is the block itself, called eagerly."""

import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_sdft.models import DiffusionModel
from keras_sdft.models import DiffusionModelSpec
from keras_sdft.models.kernels.tracing import TracedBlocks
from keras_sdft.models.unet.blocks import Block
from keras_sdft.models.unet.blocks import SpatialTransformer

SPEC = DiffusionModelSpec(
    widths=(16, 24),
    blocks=1,
    num_heads=(2, 4),
    context_width=20,
    groups=4,
)


def relative_error(found, expected):
    found, expected = (
        tf.cast(x, tf.float64).numpy() for x in (found, expected)
    )
    return np.linalg.norm(found - expected) / np.linalg.norm(expected)


def inputs_of(size=4, batch_size=2):
    generator = np.random.default_rng(0)
    shapes = [
        (batch_size, size, size, 4),
        (batch_size, 16),
        (batch_size, 77, 20),
    ]
    return [generator.normal(size=s).astype("float32") for s in shapes]


def loss_and_gradients(network, inputs, training=True):
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(network(inputs, training=training) ** 2)
    return [loss, *tape.gradient(loss, network.trainable_variables)]


def flat(tensors):
    return tf.concat(
        [tf.reshape(tf.cast(x, "float64"), [-1]) for x in tensors], 0
    )


def make(perturb, **kwargs):
    network = DiffusionModel(SPEC, **kwargs)
    perturb(network)
    return network


@pytest.mark.parametrize("remat", [False, True])
def test_equals_the_plain_blocks(perturb, remat):
    network = make(perturb, remat=remat)
    inputs = inputs_of()
    expected = loss_and_gradients(network, inputs)
    found = tf.function(lambda: loss_and_gradients(network, inputs))()
    for a, b in zip(found, expected, strict=True):
        assert relative_error(a, b) < 1e-4


def test_blocks_of_a_kind_share_a_function(perturb):
    network = make(perturb)
    step = tf.function(lambda: loss_and_gradients(network, inputs_of()))
    graph = step.get_concrete_function().graph.as_graph_def()
    calls = [n.attr["f"].func.name for n in graph.node if "f" in n.attr]
    transformers = [c for c in calls if "SpatialTransformer" in c]
    blocks = [
        layer
        for layer in network.layers
        if isinstance(layer, SpatialTransformer)
    ]
    # Forwards and backwards; those at the top are alike, and the one below.
    assert len(transformers) == 2 * len(blocks) == 8
    assert len(set(transformers)) == 4


def test_sizes_may_follow_each_other(perturb):
    network = make(perturb)
    predict = tf.function(network)
    for size, batch_size in [(4, 2), (8, 1), (4, 2)]:
        inputs = [tf.constant(x) for x in inputs_of(size, batch_size)]
        assert relative_error(predict(inputs), network(inputs)) < 1e-5


def test_in_mixed_precision(perturb):
    """Traced, bfloat16 loses no more digits than called eagerly."""
    network = make(perturb, dtype="mixed_bfloat16")
    inputs = inputs_of()
    eager = loss_and_gradients(network, inputs)
    traced = tf.function(lambda: loss_and_gradients(network, inputs))()
    for variable, a in zip(
        network.trainable_variables, traced[1:], strict=True
    ):
        assert a.dtype == variable.dtype == "float32"
    full = make(perturb)
    full.set_weights(network.get_weights())
    exact = flat(loss_and_gradients(full, inputs))
    error = relative_error(flat(traced), exact)
    assert error < 3 * relative_error(flat(eager), exact) < 0.3


# In a program of its own: threads are made before the first operation, and
# a kernel that mixes calls up may end it.
AT_ONCE = """
import numpy as np
import tensorflow as tf

from keras_sdft.models import DiffusionModel
from keras_sdft.models import DiffusionModelSpec

tf.config.threading.set_inter_op_parallelism_threads(8)
tf.config.threading.set_intra_op_parallelism_threads(1)
network = DiffusionModel(
    DiffusionModelSpec(
        widths=(32,),
        blocks=1,
        num_heads=(4,),
        context_width=8,
        groups=4,
    )
)
generator = np.random.default_rng(0)
for variable in network.weights:
    variable.assign(generator.normal(0.0, 0.1, variable.shape))
latents = tf.constant(generator.normal(size=(8, 1, 16, 16, 4)), "float32")
others = [tf.ones((1, 32)), tf.ones((1, 77, 8))]


@tf.function
def at_once(latents):
    return [network([one, *others]) for one in tf.unstack(latents)]


expected = [network([one, *others]) for one in latents]
for _ in range(100):
    found = at_once(latents)
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)
"""


def test_calls_at_the_same_time_are_not_mixed_up():
    done = subprocess.run(
        [sys.executable, "-c", AT_ONCE], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]


def test_a_block_that_was_changed_is_on_its_own(perturb):
    network = make(perturb)
    _, second = [
        layer
        for layer in network.layers
        if isinstance(layer, SpatialTransformer)
    ][:2]
    dense = second.transformer_block.dense
    unchanged = dense.activation
    dense.activation = lambda x: 2.0 * x
    inputs = inputs_of()
    found = tf.function(lambda: network(inputs))()
    assert relative_error(found, network(inputs)) < 1e-5
    dense.activation = unchanged
    assert relative_error(found, network(inputs)) > 1e-3


class Reaching(Block):
    """A block with a factor that is not its own."""

    def __init__(self, factor, traced):
        super().__init__(traced=traced)
        self.dense = keras.layers.Dense(3)
        self.borrowed = lambda: factor

    def build(self, input_shape):
        self.dense.build(input_shape[0])

    def compute(self, x):
        return self.dense(x) * self.borrowed(), x


def test_what_is_not_a_blocks_own_still_learns():
    factor, traced = tf.Variable(2.0), TracedBlocks()
    block = Reaching(factor, traced)
    x = np.ones((2, 3), "float32")
    block([x])

    @tf.function
    def gradient():
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(block([x]))
        return tape.gradient(loss, factor)

    expected = np.sum(np.asarray(block.dense(x)))
    assert float(gradient()) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("remat", [False, True])
def test_frozen_weights_have_no_gradient(perturb, remat):
    network = make(perturb, remat=remat)
    for layer in network.layers:
        if isinstance(layer, SpatialTransformer):
            layer.proj2.trainable = False
    inputs = inputs_of()
    expected = loss_and_gradients(network, inputs)

    @tf.function
    def step():
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(network(inputs, training=True) ** 2)
        gradients = tape.gradient(loss, network.weights)
        return loss, [g for g in gradients if g is not None]

    loss, gradients = step()
    assert len(gradients) == len(network.trainable_variables)
    for a, b in zip([loss, *gradients], expected, strict=True):
        assert relative_error(a, b) < 1e-4


def test_compiled_by_xla(perturb):
    network = make(perturb, remat=True)
    inputs = inputs_of()
    expected = loss_and_gradients(network, inputs)
    found = tf.function(
        lambda: loss_and_gradients(network, inputs), jit_compile=True
    )()
    for a, b in zip(found, expected, strict=True):
        assert relative_error(a, b) < 1e-4
