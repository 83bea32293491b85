"""What is counted is what the traced gradients read."""

import types

import keras
import pytest
import tensorflow as tf

from keras_sdft.models import DiffusionModel
from keras_sdft.models.dtypes import dtype_policy_scope
from keras_sdft.models.unet import blocks
from keras_sdft.models.unet import layers
from keras_sdft.training.memory_of_activations import Place
from keras_sdft.training.memory_of_activations import Stage
from keras_sdft.training.memory_of_activations import peak
from keras_sdft.training.memory_of_activations import stages
from keras_sdft.training.memory_of_activations import weight_bytes
from tests.keras_cv_unet import narrow_keras_cv_unet

BATCH, SIDE, WIDTH, LENGTH = 2, 16, 64, 7
PLACE = Place(BATCH, SIDE, SIDE, LENGTH)
IMAGE = (BATCH, SIDE, SIDE, WIDTH)
# Operations whose output is their input's memory.
VIEWS = {"Reshape", "Identity", "IdentityN", "ExpandDims", "Squeeze"}
NOT_ACTIVATIONS = {"Const", "ReadVariableOp", "Shape", "ShapeN"}
LAYERS = {
    "residual": (
        lambda: blocks.ResBlock(2 * WIDTH, groups=4),
        [IMAGE, (BATCH, 16)],
    ),
    "residual, same width": (
        lambda: blocks.ResBlock(WIDTH, groups=4),
        [IMAGE, (BATCH, 16)],
    ),
    "transformer": (
        lambda: blocks.SpatialTransformer(4, WIDTH // 4, groups=4),
        [IMAGE, (BATCH, LENGTH, 16)],
    ),
    "upsample": (lambda: layers.Upsample(WIDTH), [IMAGE]),
    "downsample": (
        lambda: layers.PaddedConv2D(WIDTH, 3, strides=2),
        [IMAGE],
    ),
}


def source(tensor):
    """The tensor that a view is a view of."""
    while tensor.op.type in VIEWS:
        inputs = tensor.op.inputs
        view = tensor.op.type == "IdentityN"
        tensor = inputs[tensor.value_index if view else 0]
    return tensor


def ancestors(tensors):
    """Names of all operations that `tensors` are computed from."""
    found, left = set(), [tensor.op for tensor in tensors]
    while left:
        op = left.pop()
        if op.name not in found:
            found.add(op.name)
            left += [i.op for i in op.inputs] + list(op.control_inputs)
    return found


def bytes_read_again(layer, shapes):
    """What the gradients of a traced layer read of its forward pass."""
    forward = {}

    def run(gradient, *inputs):
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            output = layer(inputs if len(inputs) > 1 else inputs[0])
        graph = tf.compat.v1.get_default_graph()
        forward.update((op.name, op) for op in graph.get_operations())
        sources = [*inputs, *(w.value for w in layer.trainable_weights)]
        gradients = tape.gradient(output, sources, output_gradients=gradient)
        return [g for g in gradients if g is not None]

    zeros = [tf.zeros(shape, layer.compute_dtype) for shape in shapes]
    output = layer(zeros if len(zeros) > 1 else zeros[0])
    specs = [tf.TensorSpec(t.shape, t.dtype) for t in (output, *zeros)]
    traced = tf.function(run).get_concrete_function(*specs)
    used = ancestors(traced.outputs)
    captured = {tensor.name for tensor in traced.graph.inputs[len(specs) :]}
    skipped = captured | {traced.graph.inputs[0].name}
    held = {}
    for op in traced.graph.get_operations():
        if op.name in forward or op.name not in used:
            continue
        if op.type in NOT_ACTIVATIONS:
            continue
        for tensor in map(source, op.inputs):
            known = tensor.op.name in forward and tensor.name not in skipped
            if known and tensor.op.type not in NOT_ACTIVATIONS:
                held[tensor.name] = (
                    tensor.dtype.size * tensor.shape.num_elements()
                )
    return sum(held.values())


@pytest.mark.parametrize("dtype", ["float32", "mixed_bfloat16"])
@pytest.mark.parametrize("name", LAYERS)
def test_what_a_layer_holds(name, dtype):
    make, shapes = LAYERS[name]
    with dtype_policy_scope(dtype):
        layer = make()
        layer.build(shapes if len(shapes) > 1 else shapes[0])
    network = types.SimpleNamespace(layers=[layer])
    (stage,) = stages(network, PLACE)
    # Means and other small things are not counted.
    assert stage.held == pytest.approx(
        bytes_read_again(layer, shapes), rel=0.03
    )
    assert stage.gradients == weight_bytes(layer.trainable_weights)


@pytest.fixture(scope="module")
def networks(micro_spec):
    spec = micro_spec.diffusion_model
    return [DiffusionModel(spec, remat=remat) for remat in (False, True)]


def test_the_walk_sees_every_layer_with_weights(networks):
    found = stages(networks[0], Place(4, 8, 8, 77))
    assert sum(stage.gradients for stage in found) == weight_bytes(
        weight
        for layer in networks[0].layers
        if not isinstance(layer, keras.layers.Dense)
        for weight in layer.trainable_weights
    )


def test_activations_grow_with_the_batch_and_faster_with_the_side(networks):
    def held(batch, side):
        found = stages(networks[0], Place(batch, side, side, 77))
        return sum(stage.held for stage in found)

    assert held(8, 16) == pytest.approx(2 * held(4, 16), rel=1e-6)
    # The scores of attention grow with the fourth power.
    assert 4 * held(4, 16) < held(4, 32) < 16 * held(4, 16)


def test_rematerialisation_keeps_inputs_only(networks):
    plain, remat = (stages(n, Place(4, 16, 16, 77)) for n in networks)
    assert [s.held for s in plain] == [s.held for s in remat]
    assert sum(s.kept for s in remat) < sum(s.kept for s in plain) / 4
    assert peak(remat)[0] < peak(plain)[0]


def test_keras_cvs_own_network_is_known(micro_spec):
    network = narrow_keras_cv_unet(micro_spec.diffusion_model, 8)
    ours = stages(DiffusionModel(micro_spec.diffusion_model), PLACE)
    theirs = stages(network, PLACE)
    assert [s.gradients for s in theirs] == [s.gradients for s in ours]


def test_other_networks_are_refused():
    network = types.SimpleNamespace(layers=[keras.layers.Dense(1)])
    with pytest.raises(ValueError, match="Received a network without any"):
        stages(network, PLACE)


def test_the_peak():
    def stage(held, gradients, remat=False, working=0):
        return Stage(1, held, working, gradients, remat)

    # Many activations, then few gradients: the start of the way back.
    assert peak([stage(100, 5), stage(100, 7)]) == (200, 207)
    # Few activations: its end.
    assert peak([stage(2, 500), stage(2, 700)]) == (4, 1202)
    assert peak([stage(90, 5, True), stage(100, 7, True)]) == (102, 109)
    assert peak([stage(100, 0), stage(0, 0, working=50)], 2.0) == (300, 300)
