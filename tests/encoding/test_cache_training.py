"""Training from the cache against training without it, with real encoders."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from keras_sdft import Trainer
from keras_sdft import encoding
from keras_sdft.data import load
from keras_sdft.encoding import Cache
from keras_sdft.encoding.encoders import Encoders
from keras_sdft.training import AdamW


@pytest.fixture
def pictures(tmp_path):
    """Six pictures of noise with two captions each."""
    draws = np.random.default_rng(0)
    root = tmp_path / "pictures"
    root.mkdir()
    for number in range(6):
        pixels = draws.integers(0, 256, (70, 80, 3), np.uint8)
        Image.fromarray(pixels).save(root / f"{number}.png")
        words = f"a red heart {number}\na blue star"
        (root / f"{number}.txt").write_text(words)
    return root


OPTIONS = {
    "resolution": 64,
    "batch_size": 3,
    "seed": 5,
    "horizontal_flip": True,
    "caption_dropout": 0.3,
    "caption_template": ["{caption}", "a photo of {caption}"],
}


EPOCHS = 2
TEXTS = [
    template.format(caption=caption)
    for template in OPTIONS["caption_template"]
    for caption in [f"a red heart {n}" for n in range(6)] + ["a blue star"]
]


def losses(model, dataset, epochs, **options):
    """The loss of each step, and the trainer."""
    found = []

    class Steps(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            # What is shown is a mean over the epoch so far.
            trainer.reset_metrics()

        def on_train_batch_end(self, batch, logs=None):
            found.append(float(logs["loss"]))

    trainer = Trainer(model, seed=1, **options)
    trainer.compile(AdamW(learning_rate=1e-3), run_eagerly=True)
    trainer.fit(dataset, epochs=epochs, verbose=0, callbacks=[Steps()])
    return found, trainer


def cached_dataset(model, pictures, tmp_path, **options):
    options.setdefault("dtype", "float32")
    cache = Cache(tmp_path / "cache", model, progress=False, **options)
    dataset = load(pictures, model.tokenizer, cache=cache, **OPTIONS)
    return cache, dataset


def encoded_alike(model, dataset, keeps_tokens):
    """Uncached batches through the encoders in groups of the cache's size.

    An encoder's last bits depend on how many images it is given at once.
    """
    encoders = Encoders(model)
    length = model.tokenizer.max_length
    texts = {}
    for text in ["", *TEXTS]:
        ids = model.tokenizer.pad(model.tokenizer.encode(text))
        texts[ids.tobytes()] = text
    epochs = []
    for _ in range(EPOCHS):
        for batch in dataset.as_numpy_iterator():
            pixels = np.rint((batch.pop("images") + 1) * 127.5)
            batch["moments"] = encoders.moments(pixels.astype(np.uint8))
            if not keeps_tokens:
                tokens = batch.pop("token_ids")
                assert tokens.shape[1] == length
                shown = [texts[row.tobytes()] for row in tokens]
                batch["context"] = encoders.contexts(shown)
            epochs.append(batch)
    stacked = {key: np.stack([b[key] for b in epochs]) for key in epochs[0]}
    return tf.data.Dataset.from_tensor_slices(stacked)


@pytest.mark.parametrize("learns", [False, True], ids=["frozen", "text"])
def test_losses_are_bit_equal(make_micro, pictures, tmp_path, learns):
    train = ["diffusion_model"] + ["text_encoder"] * learns
    plain = make_micro()
    dataset = load(pictures, plain.tokenizer, **OPTIONS)
    dataset = encoded_alike(plain, dataset, learns)
    expected, first = losses(plain, dataset, 1, train=train)

    model = make_micro()
    _, dataset = cached_dataset(model, pictures, tmp_path, contexts=not learns)
    text = "token_ids" if learns else "context"
    assert set(dataset.element_spec) == {"moments", text, "example_weight"}
    found, second = losses(model, dataset, EPOCHS, train=train)
    assert found == expected
    assert len(found) == 2 * EPOCHS
    for own, other in zip(
        first.trainable_variables, second.trainable_variables, strict=True
    ):
        np.testing.assert_array_equal(np.asarray(own), np.asarray(other))


def test_batches_are_what_the_step_would_encode(make_micro, pictures, tmp_path):
    model = make_micro()
    plain = load(pictures, model.tokenizer, **OPTIONS)
    _, cached = cached_dataset(model, pictures, tmp_path)
    for own, other in zip(plain, cached, strict=True):
        moments = np.asarray(encoding.encode_images(model, own))
        context = np.asarray(encoding.encode_captions(model, own))
        for expected, found in (
            (moments, other["moments"]),
            (context, other["context"]),
        ):
            scale = np.abs(expected).max()
            np.testing.assert_allclose(found, expected, 0, 1e-5 * scale)


def test_half_precision_changes_the_losses_little(
    make_micro, pictures, tmp_path
):
    model = make_micro()
    dataset = load(pictures, model.tokenizer, **OPTIONS)
    expected, _ = losses(model, dataset, EPOCHS)
    model = make_micro()
    _, dataset = cached_dataset(model, pictures, tmp_path, dtype=None)
    found, _ = losses(model, dataset, EPOCHS)
    np.testing.assert_allclose(found, expected, rtol=2e-3)
