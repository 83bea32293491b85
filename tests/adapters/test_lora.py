"""Low-rank additions: what they compute, beside which layers, and merged."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_sdft import adapters
from keras_sdft.formats.lora_files import LowRankWeights
from keras_sdft.models import adapted


def inputs_of(sd, seed=0):
    generator = np.random.default_rng(seed)
    spec = sd.spec.diffusion_model
    shapes = {
        "latent": (2, 8, 8, 4),
        "timestep_embedding": (2, spec.timestep_width),
        "context": (2, 77, spec.context_width),
    }
    return {
        name: generator.normal(size=shape).astype("float32")
        for name, shape in shapes.items()
    }


def tokens_of(sd):
    ids = np.arange(77, dtype="int32")[None] % 100
    return {"tokens": ids, "positions": np.arange(77, dtype="int32")[None]}


def outputs(sd, graph=False):
    """The U-Net's output in a graph or eagerly, and the text encoder's."""
    call = tf.function(sd.diffusion_model) if graph else sd.diffusion_model
    return [
        np.asarray(call(inputs_of(sd))),
        np.asarray(sd.text_encoder(tokens_of(sd))),
    ]


def difference(found, expected):
    return max(
        np.linalg.norm(a - b) / np.linalg.norm(b)
        for a, b in zip(found, expected, strict=True)
    )


def randomize(lora, scale=0.3):
    generator = np.random.default_rng(5)
    for variable in lora.attached.learned:
        noise = generator.normal(size=variable.shape).astype("float32")
        variable.assign(np.asarray(variable) + scale * noise)


VARIANTS = {
    "attention": {"targets": "attention"},
    "linear": {"targets": "linear", "rank": 3, "alpha": 1.5},
    "all": {"targets": "all", "rank": 2, "rank_stabilized": True},
    "dora": {"targets": "all", "rank": 2, "use_dora": True},
    "pattern": {"targets": ["*.attn2.to_[kv]"], "rank": 4},
    "ranks": {"targets": "linear", "ranks": {"*.attn1.*": 1}, "rank": 2},
}


@pytest.mark.parametrize("name", VARIANTS)
def test_fresh_changes_nothing_and_merged_equals_unmerged(make_micro, name):
    sd = make_micro()
    base = outputs(sd)
    lora = adapters.LoRA(text_encoder=True, **VARIANTS[name])
    lora.attach(sd)
    assert difference(outputs(sd), base) < 1e-6
    randomize(lora)
    changed = outputs(sd)
    assert difference(changed, base) > 1e-3
    # The shared functions of a graph compute what eager calls do.
    if name == "dora":
        assert difference(outputs(sd, graph=True), changed) < 1e-5
    with adapted.adapters_disabled():
        assert difference(outputs(sd), base) == 0
    lora.attached.strength.assign(0.0)
    assert difference(outputs(sd), base) < 1e-6
    lora.attached.strength.assign(1.0)
    lora.attached.merge()
    assert difference(outputs(sd), changed) < 1e-5


def test_removed_is_the_base_bit_for_bit(make_micro):
    sd = make_micro()
    base = outputs(sd)
    lora = adapters.LoRA(4, text_encoder=True)
    lora.attach(sd)
    randomize(lora)
    lora.attached.remove()
    assert difference(outputs(sd), base) == 0
    assert not any(
        hasattr(layer, "adapter_slot") for layer in sd.diffusion_model.layers
    )


def test_two_at_once_add_up(make_micro):
    sd = make_micro()
    first, second = (adapters.LoRA(2, seed=seed) for seed in (1, 2))
    for lora in (first, second):
        lora.attach(sd)
        randomize(lora)
    together = outputs(sd)
    first.attached.strength.assign(0.5)
    second.attached.strength.assign(0.0)
    assert difference(outputs(sd), together) > 1e-4
    second.attached.strength.assign(1.0)
    first.attached.strength.assign(1.0)
    second.attached.merge()
    first.attached.merge()
    assert difference(outputs(sd), together) < 1e-5


def test_the_base_is_no_part_of_what_learns(make_micro):
    sd = make_micro()
    before = [np.array(w) for w in sd.diffusion_model.weights]
    lora = adapters.LoRA(2, targets="all", use_dora=True)
    lora.attach(sd)
    randomize(lora)
    assert [len(sd.diffusion_model.weights)] == [len(before)]
    sd.diffusion_model.trainable = False
    inputs = inputs_of(sd)

    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(sd.diffusion_model(inputs, training=True) ** 2)
    learned = [variable.value for variable in lora.attached.learned]
    found = tape.gradient(loss, learned)
    assert all(g is not None and np.any(np.asarray(g)) for g in found)
    for old, new in zip(before, sd.diffusion_model.weights, strict=True):
        assert np.array_equal(old, np.asarray(new))


def test_gradients_are_those_of_the_merged_kernel(make_micro):
    """`down`'s and `up`'s gradients by the chain rule through the kernel."""
    sd = make_micro()
    lora = adapters.LoRA(3, alpha=1.5, targets="*.attn2.to_k")
    lora.attach(sd)
    randomize(lora)
    adapter = next(iter(lora.attached.layers["unet"].values()))
    inputs = inputs_of(sd)
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(sd.diffusion_model(inputs) ** 2)
    down, up = tape.gradient(loss, [adapter.down.value, adapter.up.value])
    d, u = np.asarray(adapter.down), np.asarray(adapter.up)
    kernel = adapter.layer.kernel
    lora.attached.merge()
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(sd.diffusion_model(inputs) ** 2)
    merged = np.asarray(tape.gradient(loss, kernel.value))
    scale = 1.5 / 3
    np.testing.assert_allclose(down, scale * merged @ u.T, rtol=2e-3, atol=1e-4)
    np.testing.assert_allclose(up, scale * d.T @ merged, rtol=2e-3, atol=1e-4)


def test_blocks_of_one_kind_still_share_a_function(make_micro):
    def number_of_functions(sd):
        tf.function(sd.diffusion_model).get_concrete_function(inputs_of(sd))
        layers = sd.diffusion_model.layers
        (traced,) = {
            layer.traced for layer in layers if hasattr(layer, "traced")
        }
        return len(traced._functions)

    adapted_sd = make_micro()
    adapters.LoRA(2).attach(adapted_sd)
    assert number_of_functions(adapted_sd) == number_of_functions(make_micro())


def test_kerascv_networks_take_the_same_adapters(make_micro, perturb):
    from tests.keras_cv_unet import narrow_keras_cv_unet

    sd = make_micro(numerics="keras_cv")
    ours = sd.diffusion_model
    theirs = narrow_keras_cv_unet(sd.spec.diffusion_model, 8)
    theirs.set_weights(ours.get_weights())
    found = []
    for network in (ours, theirs):
        sd.diffusion_model = network
        lora = adapters.LoRA(2, targets="all", use_dora=True)
        lora.attach(sd)
        randomize(lora)
        inputs = inputs_of(sd)
        found.append([np.asarray(network(inputs))])
    assert difference(*found) < 1e-5


def test_dropout_drops_only_while_active_and_by_its_seed(make_micro):
    sd = make_micro()
    lora = adapters.LoRA(2, dropout=0.5)
    lora.attach(sd)
    randomize(lora)
    still = outputs(sd)
    assert difference(outputs(sd), still) == 0
    lora.dropout_active.assign(1.0)
    dropped = outputs(sd)
    assert difference(dropped, still) > 1e-3
    assert difference(outputs(sd), dropped) == 0
    lora.dropout_seed.assign([3, 7])
    assert difference(outputs(sd), dropped) > 1e-3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rank": 0}, "`rank` must be an integer >= 1"),
        ({"alpha": 0}, "`alpha` must be a finite number > 0"),
        ({"dropout": 1.0}, "`dropout` must be a finite number in"),
        ({"targets": "atention"}, "Did you mean 'attention'"),
        ({"targets": "*.attn9.*"}, "match no layer"),
        ({"ranks": {"*.attn1.*": 0}}, "must be an integer >= 1"),
    ],
)
def test_bad_arguments_are_named(make_micro, arguments, message):
    with pytest.raises(ValueError, match=message):
        adapters.LoRA(**arguments).attach(make_micro())


def test_weights_of_another_model_are_refused(make_micro):
    sd = make_micro()
    lora = adapters.LoRA(2)
    lora.attach(sd)
    weights = lora.attached.weights
    name, one = next(iter(weights["unet"].items()))
    lora.attached.remove()
    with pytest.raises(ValueError, match="Was it trained for another model"):
        adapters.attach_weights(sd, {"unet": {name + "x": one}})
    wrong = LowRankWeights(one.down[:-1], one.up, one.alpha)
    with pytest.raises(ValueError, match="has shape"):
        adapters.attach_weights(sd, {"unet": {name: wrong}})
    attached = adapters.attach_weights(sd, weights, scale=0.5)
    assert float(keras.ops.convert_to_numpy(attached.strength)) == 0.5
