import json

import keras
import numpy as np
import pytest

from keras_sdft.models import packaged


def make_network(width=3):
    network = keras.Sequential(
        [keras.Input((2,)), keras.layers.Dense(width), keras.layers.Dense(1)]
    )
    for index, weight in enumerate(network.weights):
        # Exact in half precision.
        weight.assign(np.full(weight.shape, 0.5 + index, "float32"))
    return network


@pytest.fixture
def directory(tmp_path):
    packaged.write(tmp_path, {"decoder": make_network()}, notes={"steps": 7})
    return tmp_path


def test_weights_come_back_in_their_places(directory):
    network = make_network()
    for weight in network.weights:
        weight.assign(np.zeros(weight.shape))
    packaged.read(directory, "decoder", network)
    values = [float(np.asarray(w).ravel()[0]) for w in network.weights]
    assert values == [0.5, 1.5, 2.5, 3.5]
    assert network.weights[0].dtype == "float32"


def test_files_are_half_precision_and_noted(directory):
    # 2*3 + 3 + 3*1 + 1 = 13 numbers of 2 bytes, and a header.
    size = packaged.file_of(directory, "decoder").stat().st_size
    assert 26 < size < 26 + 1000
    content = json.loads((directory / packaged.CHECKSUMS).read_text())
    assert content["steps"] == 7
    assert content["dtype"] == "float16"
    assert len(content["sha256"]["decoder"]) == 64


def test_a_changed_byte_is_noticed(directory):
    path = packaged.file_of(directory, "decoder")
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(ValueError, match="is damaged: its SHA-256 is"):
        packaged.read(directory, "decoder", make_network())


def test_a_missing_file_is_named(directory):
    packaged.file_of(directory, "decoder").unlink()
    with pytest.raises(FileNotFoundError, match="decoder.safetensors"):
        packaged.read(directory, "decoder", make_network())


@pytest.mark.parametrize("text", ["", "[]", '{"sha256": {}}'])
def test_damaged_checksums_are_named(directory, text):
    (directory / packaged.CHECKSUMS).write_text(text)
    with pytest.raises(ValueError, match="weights.json.* is damaged"):
        packaged.read(directory, "decoder", make_network())


def test_another_spec_is_refused(directory):
    with pytest.raises(ValueError, match="another spec"):
        packaged.read(directory, "decoder", make_network(4))


def test_what_half_precision_cannot_hold_is_refused(tmp_path):
    network = make_network()
    network.weights[1].assign(np.full((3,), 1e5))
    with pytest.raises(ValueError, match="0001.bias.*not finite in float16"):
        packaged.write(tmp_path, {"decoder": network})
    assert not (tmp_path / packaged.CHECKSUMS).exists()


def test_describing_reads_no_weight(directory):
    assert packaged.parts(directory) == ["decoder"]
    assert packaged.describe(directory, "decoder") == {
        "file": "decoder.safetensors",
        "parameters": 13,
        "dtype": "float16",
    }


def test_what_is_not_there_cannot_be_described(directory):
    with pytest.raises(FileNotFoundError, match="image_encoder.safetensors"):
        packaged.describe(directory, "image_encoder")
    packaged.file_of(directory, "decoder").write_bytes(b"short")
    with pytest.raises(ValueError, match="is damaged"):
        packaged.describe(directory, "decoder")
    (directory / packaged.CHECKSUMS).write_text("{")
    with pytest.raises(ValueError, match="is damaged"):
        packaged.parts(directory)
