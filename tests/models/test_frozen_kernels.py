"""Kernels in bfloat16 and int8: what is computed, kept and refused."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_sdft import keras_internals
from keras_sdft.models import frozen_kernels
from keras_sdft.models.kernels import widening
from tests.adapters.test_lora import difference
from tests.adapters.test_lora import inputs_of
from tests.adapters.test_lora import outputs
from tests.keras_cv_unet import narrow_keras_cv_unet


@pytest.mark.parametrize("shape", [(64, 32), (3, 3, 16, 32)])
def test_int8_is_within_half_a_scale(shape):
    values = np.random.default_rng(0).normal(size=shape).astype("float32")
    values[..., 3] = 0
    held, scale = widening.quantize(values)
    assert held.dtype == "int8" and held.min() >= -127
    error = np.abs(held * scale - values)
    assert (error <= scale / 2 * (1 + 1e-6)).all()
    largest = np.abs(values).max(axis=tuple(range(len(shape) - 1)))
    assert (scale * 127 <= largest * (1 + 2**-7)).sum() == shape[-1] - 1
    # The same number in bfloat16, so that mixed precision rounds no more.
    np.testing.assert_array_equal(tf.cast(scale, "bfloat16"), scale)


def rounded(network, dtype):
    """The values that a network's kernels have once they are held."""
    for layer in keras_internals.flatten_layers(network):
        kernel = getattr(layer, "_kernel", None)
        if kernel is None:
            continue
        value = np.asarray(kernel)
        if dtype == "int8":
            held, scale = widening.quantize(value)
            kernel.assign(held * scale)
        else:
            kernel.assign(tf.cast(tf.cast(value, dtype), "float32"))


@pytest.mark.parametrize("dtype", ["bfloat16", "int8"])
def test_networks_compute_with_rounded_kernels(make_micro, dtype):
    sd, same = make_micro(), make_micro()
    before = [w.shape for w in sd.diffusion_model.weights]
    full = outputs(sd)
    for part in ("diffusion_model", "text_encoder"):
        sd.hold_kernels(part, dtype)
        rounded(getattr(same, part), dtype)
    # Files find weights by their order.
    assert [w.shape for w in sd.diffusion_model.weights] == before
    found = outputs(sd)
    assert difference(found, outputs(same)) < 2e-6
    assert difference(outputs(sd, graph=True), found) < 2e-6
    assert 1e-4 < difference(found, full) < 0.05


@pytest.mark.parametrize("dtype", ["bfloat16", "int8"])
def test_what_is_held_from_the_start_is_what_is_held_later(make_micro, dtype):
    sd, later = (make_micro() for _ in range(2))
    sd._diffusion_model = None
    sd.hold_kernels("diffusion_model", dtype)
    later._diffusion_model = None
    later.diffusion_model  # noqa: B018
    later.hold_kernels("diffusion_model", dtype)
    assert not any(
        w.dtype == "float32" and len(w.shape) > 1
        for w in sd.diffusion_model.weights
    )
    pairs = zip(
        sd.diffusion_model.weights, later.diffusion_model.weights, strict=True
    )
    for one, other in pairs:
        np.testing.assert_array_equal(one, other)
    assert difference(outputs(sd), outputs(later)) == 0


def test_kerascvs_networks_too(make_micro):
    sd = make_micro(numerics="keras_cv")
    theirs = narrow_keras_cv_unet(sd.spec.diffusion_model, 8)
    theirs.set_weights(sd.diffusion_model.get_weights())
    found = []
    for network in (sd.diffusion_model, theirs):
        frozen_kernels.hold(network, "int8")
        network.trainable = False
        inputs = {k: tf.constant(v) for k, v in inputs_of(sd).items()}
        with tf.GradientTape() as tape:
            tape.watch(inputs["context"])
            output = network(inputs)
            loss = tf.reduce_sum(output**2)
        found.append([output, tape.gradient(loss, inputs["context"])])
    assert difference(*found) < 1e-5


def wide_kernels(network, inputs, dtype):
    """Kernels in the compute dtype: made early in a step, or kept in it."""
    shapes = {
        tuple(w.shape)
        for w in network.weights
        if type(w) is frozen_kernels.Kernel and np.prod(w.shape) > 200
    }

    @tf.function
    def step(inputs):
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            output = network(inputs, training=True)
            loss = tf.reduce_sum(tf.cast(output, "float32") ** 2)
        return tape.gradient(loss, inputs)

    graph = step.get_concrete_function(inputs).graph
    found = {"early": [], "kept": []}
    for op in graph.get_operations():
        if op.type == "Cast" and tuple(op.outputs[0].shape) in shapes:
            waits = [*op.control_inputs, *op.inputs[0].op.control_inputs]
            found["early"] += [] if waits else [op.name]
        if "PartitionedCall" in op.type:
            found["kept"] += [
                tensor.name
                for tensor in [*op.inputs, *op.outputs]
                if tensor.dtype == dtype and tuple(tensor.shape) in shapes
            ]
    return found


@pytest.mark.parametrize(
    ("remat", "policy"), [(False, "float32"), (True, "mixed_bfloat16")]
)
def test_no_wide_copy_is_kept_for_the_gradient(make_micro, remat, policy):
    sd = make_micro(remat=remat, dtype=policy)
    sd.hold_kernels("diffusion_model", "int8")
    network = sd.diffusion_model
    network.trainable = False
    inputs = {k: tf.constant(v) for k, v in inputs_of(sd).items()}
    compute = "float32" if policy == "float32" else "bfloat16"
    found = wide_kernels(network, inputs, compute)
    assert found == {"early": [], "kept": []}


def test_gradients_in_a_graph_are_those_of_rounded_kernels(make_micro):
    found = []
    for held in (False, True):
        sd = make_micro(remat=held)
        if held:
            sd.hold_kernels("diffusion_model", "int8")
        else:
            rounded(sd.diffusion_model, "int8")
        sd.diffusion_model.trainable = False
        inputs = {k: tf.constant(v) for k, v in inputs_of(sd).items()}

        def gradients(network, inputs):
            with tf.GradientTape() as tape:
                tape.watch(inputs)
                output = network(inputs, training=True)
                loss = tf.reduce_sum(output**2)
            return tf.nest.flatten(tape.gradient(loss, inputs))

        run = tf.function(gradients) if held else gradients
        found.append(run(sd.diffusion_model, inputs))
    assert difference(*found) < 1e-5


def test_sides_that_are_not_known(make_micro):
    layer = keras.layers.Conv2D(8, 3, strides=2)
    layer.build((None, None, None, 4))
    frozen_kernels.hold(keras.Sequential([layer]), "bfloat16")

    @tf.function(input_signature=[tf.TensorSpec((None, None, None, 4))])
    def gradient(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            loss = tf.reduce_sum(layer(x) ** 2)
        return tape.gradient(loss, x)

    assert gradient(tf.ones((1, 8, 10, 4))).shape == (1, 8, 10, 4)


def test_what_was_rounded_is_neither_merged_nor_written(make_micro, tmp_path):
    from keras_sdft import adapters
    from keras_sdft import formats
    from keras_sdft.training import Trainer

    sd = make_micro()
    lora = adapters.LoRA(2, frozen_dtype="int8")
    lora.attach(sd)
    with pytest.raises(ValueError, match="Load the model again"):
        lora.attached.merge()
    lora.attached.remove()
    with pytest.raises(ValueError, match="Load the model again"):
        formats.save(sd, tmp_path / "model")
    with pytest.raises(ValueError, match="Load the model again"):
        Trainer(sd)
    with pytest.raises(ValueError, match="held in int8 already"):
        adapters.LoRA(2, frozen_dtype="bfloat16").attach(sd)
    sd = make_micro()
    sd.trained_parts.add("diffusion_model")
    with pytest.raises(ValueError, match="must hold them as they are"):
        adapters.LoRA(2, frozen_dtype="bfloat16").attach(sd)
