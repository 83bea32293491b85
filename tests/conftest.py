"""Sets the environment of every test, and the model that most of them use."""

import os

# Keras reads its backend once, at import; TensorFlow its switches too.
# `make test-jax` sets another, for tests/jax alone.
os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")

import numpy as np  # noqa: E402
import pytest  # noqa: E402


def make_micro_spec():
    """Makes the smallest spec that has every kind of layer."""
    from keras_sdft import models

    return models.StableDiffusionSpec(
        name="micro",
        diffusion_model=models.DiffusionModelSpec(
            widths=(16, 24),
            blocks=1,
            num_heads=(2, 2),
            context_width=16,
            groups=4,
        ),
        text_encoder=models.TextEncoderSpec(
            vocabulary_size=2048, width=16, depth=1, num_heads=2
        ),
        autoencoder=models.AutoencoderSpec(
            encoder_widths=(8, 8, 8, 8),
            encoder_blocks=1,
            decoder_widths=(8, 8, 8, 8),
            decoder_blocks=1,
            groups=4,
        ),
        resolution=64,
    )


@pytest.fixture(scope="session")
def micro_spec():
    return make_micro_spec()


@pytest.fixture(scope="session")
def make_micro(micro_spec):
    """Makes micro models, the same for the same arguments.

    Every weight is drawn, biases and scales too, so that no error hides
    behind a zero or a one.
    """
    from keras_sdft import models

    def make(seed=0, **kwargs):
        model = models.StableDiffusion(
            64,
            64,
            spec=micro_spec,
            base="tiny",
            random_weights=True,
            **kwargs,
        )
        perturb(model.diffusion_model, seed)
        return model

    return make


def perturb(network, seed=0):
    for index, weight in enumerate(network.weights):
        generator = np.random.default_rng([seed, index])
        shift = generator.normal(0.0, 0.05, weight.shape)
        weight.assign(np.asarray(weight) + shift)


@pytest.fixture(name="perturb", scope="session")
def perturb_fixture():
    return perturb


@pytest.fixture
def make_batch():
    """Makes batches of random images and captions for micro models."""

    def make(batch_size=4, seed=0):
        generator = np.random.default_rng(seed)
        images = generator.uniform(-1, 1, (batch_size, 64, 64, 3))
        token_ids = generator.integers(0, 2048, (batch_size, 77))
        return {
            "images": images.astype("float32"),
            "token_ids": token_ids.astype("int32"),
            "example_weight": np.ones((batch_size,), "float32"),
        }

    return make


@pytest.fixture
def make_dataset(make_batch):
    """Makes datasets of `num_batches` such batches."""
    import tensorflow as tf

    def make(num_batches=1, batch_size=4, seed=0):
        batches = [
            make_batch(batch_size, seed + index) for index in range(num_batches)
        ]
        stacked = {
            name: np.stack([batch[name] for batch in batches])
            for name in batches[0]
        }
        return tf.data.Dataset.from_tensor_slices(stacked)

    return make


@pytest.fixture
def hub_server(tmp_path, monkeypatch):
    """The Hub of this test alone, with an empty cache."""
    constants = pytest.importorskip("huggingface_hub.constants")
    from keras_sdft import hub
    from tests.hub_server import HubServer

    server = HubServer()
    template = server.address + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "ENDPOINT", server.address)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub_cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    hub.forget()
    yield server
    server.stop()
    hub.forget()
