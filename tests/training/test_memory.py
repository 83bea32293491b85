import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_sdft.adapters import LoRA
from keras_sdft.training import TextEncoder
from keras_sdft.training import Trainer
from keras_sdft.training import optimizers
from keras_sdft.training.memory import optimizer_state
from keras_sdft.training.memory_of_activations import weight_bytes


def estimate_of(sd, batch, optimizer="adamw", **options):
    trainer = Trainer(sd, **options)
    trainer.compile(optimizer)
    return trainer.memory_estimate(batch)


@pytest.fixture
def encoded():
    """Makes specs of encoded batches for micro models."""

    def make(batch_size=4, height=8, width=8):
        shapes = {
            "moments": (batch_size, height, width, 8),
            "context": (batch_size, 77, 16),
            "example_weight": (batch_size,),
        }
        return {name: tf.TensorSpec(shape) for name, shape in shapes.items()}

    return make


# === The optimizer ===

OTHERS = {
    "sgd with momentum": lambda: keras.optimizers.SGD(momentum=0.9),
    "adam with more": lambda: keras.optimizers.Adam(amsgrad=True, use_ema=True),
    "loss scale": lambda: keras.optimizers.LossScaleOptimizer(
        keras.optimizers.Lion()
    ),
}


@pytest.mark.parametrize(
    "optimizer",
    [*optimizers.OPTIMIZERS, "sgd", *OTHERS],
)
def test_any_optimizers_state_is_known_before_it_is_built(
    optimizer, make_micro
):
    weights = make_micro().diffusion_model.trainable_variables
    optimizer = optimizers.get(OTHERS.get(optimizer, lambda: optimizer)())
    before = optimizer_state(optimizer, weights)
    assert not optimizer.built
    optimizer.build(weights)
    after = optimizer_state(optimizer, weights)
    assert after == weight_bytes(optimizer.variables)
    # Counters are not counted before.
    assert before == pytest.approx(after, rel=0.01, abs=100)


def test_a_state_of_other_shapes_and_dtypes():
    class Halved(keras.optimizers.SGD):
        """Keeps half-precision rows, and one flat copy."""

        def build(self, variables):
            super().build(variables)
            for weight in variables:
                flat = (int(np.prod(weight.shape)),)
                self.add_variable((*weight.shape[:-1], 1), dtype="bfloat16")
                self.add_variable(flat, dtype="int8")

    weights = [
        keras.Variable(np.zeros((3, 3, 4, 6), "float32")),
        keras.Variable(np.zeros((6,), "float32")),
    ]
    expected = (3 * 3 * 4 * 2 + 3 * 3 * 4 * 6) + (1 * 2 + 6)
    assert optimizer_state(Halved(0.1), weights) == expected


@pytest.mark.parametrize("dtype", [None, "mixed_float16"])
def test_groups_each_have_their_own(make_micro, make_batch, dtype):
    sd = make_micro(dtype=dtype)
    text_encoder = TextEncoder(optimizer="lion")
    trainer = Trainer(sd, train=["diffusion_model", text_encoder])
    trainer.compile("adamw")
    found = trainer.memory_estimate(make_batch()).optimizer_state
    of_unet, of_text = (
        weight_bytes(network.trainable_variables)
        for network in (sd.diffusion_model, sd.text_encoder)
    )
    assert found == 2 * of_unet + of_text


# === The rest ===


def test_weights_are_those_in_memory(make_micro, make_batch, encoded):
    sd = make_micro()
    found = estimate_of(sd, encoded())
    unet = weight_bytes(sd.diffusion_model.weights)
    assert found.weights == {"diffusion_model": unet}
    assert found.gradients == unet
    assert (found.gradient_sum, found.weight_average) == (0, 0)
    assert found.encoders == 0
    found = estimate_of(sd, make_batch())
    assert found.weights["image_encoder"] == weight_bytes(
        sd.image_encoder.weights
    )
    assert set(found.weights) == {
        "text_encoder",
        "image_encoder",
        "diffusion_model",
    }
    assert found.encoders > 0
    # On CPUs, where these tests run.
    assert found.measured


def test_what_options_add(make_micro, encoded):
    sd = make_micro()
    plain = estimate_of(sd, encoded(8))
    split = estimate_of(sd, encoded(8), gradient_accumulation_steps=4)
    assert split.gradient_sum == plain.gradients
    assert split.activations == pytest.approx(plain.activations / 4, rel=0.01)
    assert split.program > plain.program
    average = estimate_of(sd, encoded(8), ema_decay=0.9)
    assert average.weight_average == plain.gradients
    assert average.total - plain.total == plain.gradients
    lion = estimate_of(sd, encoded(8), "lion")
    assert lion.optimizer_state == plain.optimizer_state // 2
    remat = estimate_of(make_micro(remat=True), encoded(8))
    assert remat.activations < plain.activations


def test_half_precision_halves_activations_not_weights(make_micro, encoded):
    plain = estimate_of(make_micro(), encoded(16))
    half = estimate_of(make_micro(dtype="mixed_bfloat16"), encoded(16))
    assert half.weights == plain.weights
    assert half.gradients == plain.gradients
    assert 0.5 < half.activations / plain.activations < 0.75


def test_sides_that_vary_are_the_models_own(make_micro, encoded):
    sd = make_micro()
    varying = encoded(4, None, None)
    assert estimate_of(sd, varying) == estimate_of(sd, encoded(4, 8, 8))
    assert (
        estimate_of(sd, encoded(4, 16, 8)).activations
        > estimate_of(sd, varying).activations
    )


def test_the_total_is_no_sum_of_what_never_is_together(make_micro, encoded):
    for batch_size in (1, 64):
        found = estimate_of(make_micro(), encoded(batch_size))
        alone = max(found.gradients, found.activations)
        static = found.weights["diffusion_model"] + found.optimizer_state
        static += found.program
        assert alone <= found.total - static
        assert found.total - static <= found.gradients + found.activations
        assert found.on_device == found.total - found.program


def test_the_table_shows_what_there_is(make_micro, encoded):
    text = str(estimate_of(make_micro(), encoded()))
    lines = text.splitlines()
    assert "weights of the diffusion model" in text
    assert "weight average" not in text
    assert lines[-1].split()[:2] == ["in", "all"]
    assert len({len(line) for line in lines[1:]}) == 1


def test_what_adapters_and_their_frozen_base_take(make_micro, encoded):
    found = {
        dtype: estimate_of(
            make_micro(), encoded(), train=LoRA(2, frozen_dtype=dtype)
        )
        for dtype in ("float32", "bfloat16", "int8")
    }
    full, half, quarter = found.values()
    # Only adapters have gradients and a state.
    assert full.gradients < full.weights["diffusion_model"] / 20
    assert full.optimizer_state == 2 * full.gradients
    assert half.gradients == quarter.gradients == full.gradients
    weights = [e.weights["diffusion_model"] for e in found.values()]
    kernels = 2 * (weights[0] - weights[1])
    assert weights[0] - weights[2] == kernels * 3 // 4 > weights[0] / 2
    # A kernel at a time is converted.
    assert 0 < half.activations - full.activations < kernels / 5
    mixed = estimate_of(
        make_micro(dtype="mixed_bfloat16"),
        encoded(),
        train=LoRA(2, frozen_dtype="bfloat16"),
    )
    copied = estimate_of(
        make_micro(dtype="mixed_bfloat16"), encoded(), train=LoRA(2)
    )
    assert mixed.activations < copied.activations


def test_asking_the_base_takes_a_forward_pass(make_micro, encoded):
    batch = {**encoded(), "base_target": tf.TensorSpec((4,))}
    plain = estimate_of(make_micro(), encoded(), train=LoRA(2))
    asked = estimate_of(make_micro(), batch, train=LoRA(2))
    assert plain.encoders == 0 < asked.encoders
    # It is over before activations are kept, of which there are more.
    assert asked.total == plain.total
    assert asked.encoders < asked.activations


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        ({"moments": 1}, "must have `token_ids` or `context`"),
        ({"batch_size": None}, "batch size must be known"),
        ({"batch_size": 3}, "must be a multiple"),
    ],
)
def test_what_cannot_be_estimated(make_micro, encoded, batch, message):
    if "batch_size" in batch:
        batch = encoded(batch["batch_size"])
    with pytest.raises(ValueError, match=message):
        estimate_of(make_micro(), batch, gradient_accumulation_steps=2)


def test_the_optimizer_must_be_chosen(make_micro, encoded):
    with pytest.raises(ValueError, match="compile"):
        Trainer(make_micro()).memory_estimate(encoded())
