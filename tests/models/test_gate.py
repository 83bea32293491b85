import types

import keras
import pytest
import tensorflow as tf

from keras_sdft import devices
from keras_sdft.models.kernels import gate


def taken():
    """Which of the paths that were made for CPUs a network would take."""
    images = types.SimpleNamespace(dtype="float32", shape=(1, 16, 16, 640))
    kernel = types.SimpleNamespace(shape=(3, 3, 640, 640))
    return {
        "attention": gate.scores_at_once(8, 64 * 64, 64 * 64) is not None,
        "convolution": gate.convolves_by_products(images, kernel) is not None,
        "graph": gate.skips_graph_passes(2**20),
    }


def see(monkeypatch, *kinds):
    found = [tf.config.LogicalDevice(f"/{kind}:0", kind) for kind in kinds]
    monkeypatch.setattr(tf.config, "list_logical_devices", lambda: found)


def test_only_cpus_take_the_paths_made_for_them(monkeypatch):
    see(monkeypatch, "CPU", "CPU")
    assert all(taken().values())
    for kind in ("GPU", "TPU"):
        see(monkeypatch, "CPU", kind)
        assert not any(taken().values())
        assert gate.compiles_by_xla() == (kind == "GPU")


@pytest.mark.parametrize(
    "kinds, platform",
    [
        (["CPU", "CPU"], "cpu"),
        (["CPU", "GPU", "GPU"], "gpu"),
        (["CPU", "TPU", "TPU_SYSTEM"], "tpu"),
    ],
)
def test_the_platform(monkeypatch, kinds, platform):
    see(monkeypatch, *kinds)
    assert devices.platform() == platform
    # No other backend has a path of its own.
    monkeypatch.setattr(keras.backend, "backend", lambda: "torch")
    assert devices.platform() == "cpu"
