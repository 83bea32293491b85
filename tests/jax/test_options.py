"""Options that change what a step is, in JAX."""

import keras
import numpy as np
import pytest

import keras_sdft
from keras_sdft.adapters import LoRA
from keras_sdft.training import TextEncoder
from tests.jax import both


def values(network):
    return [np.asarray(weight) for weight in network.weights]


def test_a_text_encoder_stops_at_its_step():
    model = both.model()
    trainer = keras_sdft.Trainer(
        model,
        train=["diffusion_model", TextEncoder(learning_rate=1e-3, stop_step=1)],
    )
    trainer.compile("adamw")
    seen = [values(model.text_encoder)]

    class Follow(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            # The attribute `model` puts the results into the variables.
            seen.append(values(self.model.stable_diffusion.text_encoder))

    trainer.fit(both.captioned(2), verbose=0, callbacks=[Follow()])
    moved = [
        [(a != b).any() for a, b in zip(one, other, strict=True)]
        for one, other in zip(seen[:-1], seen[1:], strict=True)
    ]
    assert all(moved[0]) and not any(moved[1])


def test_previews_see_what_a_lora_has_learned():
    model = both.model()
    trainer = keras_sdft.Trainer(model, train=LoRA(2, dropout=0.2))
    trainer.compile(keras_sdft.training.AdamW(1e-2))
    frozen = values(model.diffusion_model)

    def image():
        return model.text_to_image("a cat", num_steps=2, seed=1)

    before = image()
    trainer.fit(both.dataset(0, 2), verbose=0)
    assert (image() != before).any()
    for one, other in zip(frozen, values(model.diffusion_model), strict=True):
        np.testing.assert_array_equal(one, other)


def test_float16_skips_steps_whose_gradients_overflow():
    trainer = keras_sdft.Trainer(
        both.model(dtype="mixed_float16"), ema_decay=0.5
    )
    trainer.compile("adamw")
    overflowing = both.dataset(0, 1).map(
        lambda batch: {**batch, "example_weight": batch["example_weight"] * 1e9}
    )
    before = values(trainer.diffusion_model)
    trainer.fit(overflowing, verbose=0)
    scale = float(trainer.optimizer.dynamic_scale)
    assert scale == trainer.optimizer.initial_scale / 2
    assert int(trainer.step) == 0
    for name, kept in zip(before, values(trainer.diffusion_model), strict=True):
        np.testing.assert_array_equal(name, kept)
    trainer.fit(both.dataset(1, 2), verbose=0)
    assert int(trainer.step) == 1
    losses = trainer.evaluate(both.dataset(0, 1), verbose=0)
    assert np.isfinite(losses).all()


def test_a_backend_without_a_step_is_refused(monkeypatch):
    from keras_sdft.training import backend

    monkeypatch.setattr(keras.backend, "backend", lambda: "torch")
    with pytest.raises(ValueError, match="Received: 'torch'"):
        backend.module("train_step")
