"""Keras' own files, damaged or of another network."""

import keras
import numpy as np
import pytest
from keras.src.legacy.saving.legacy_h5_format import save_model_to_hdf5

from keras_sdft.models.weight_files import load_weights
from keras_sdft.models.weight_files import weight_shapes


def network(*sizes):
    layers = [keras.layers.Dense(size) for size in sizes]
    return keras.Sequential([keras.Input((3,)), *layers], name="net")


@pytest.fixture(params=["w.weights.h5", "w.h5"])
def file(request, tmp_path):
    path = tmp_path / request.param
    model = network(4, 5)
    if request.param == "w.weights.h5":
        model.save_weights(path)
    else:
        save_model_to_hdf5(model, path, include_optimizer=False)
    return path


def test_weights_are_read(file):
    shapes = [shape for shape, _ in weight_shapes(file).values()]
    assert sorted(shapes) == [(3, 4), (4,), (4, 5), (5,)]
    model = network(4, 5)
    for weight in model.weights:
        weight.assign(np.full(weight.shape, 7.0))
    load_weights(model, file)
    assert not any(
        (np.asarray(weight) == 7.0).all() for weight in model.weights
    )


def test_truncated_files_are_named(file):
    file.write_bytes(file.read_bytes()[:2000])
    with pytest.raises(ValueError, match="w.*h5' is damaged, or no Keras"):
        load_weights(network(4, 5), file)


def test_another_networks_weights_are_counted(file):
    expected = r"has 6; the file has 4.*few: 3 .*\(6,\).*many: 1 \(\(4, 5\)\)"
    with pytest.raises(ValueError, match=expected):
        load_weights(network(4, 6, 5), file)


def test_nothing_changes_where_weights_are_missing(file):
    model = network(4, 5, 6)
    before = [np.asarray(weight) for weight in model.weights]
    with pytest.raises(ValueError, match=r"too many: none"):
        load_weights(model, file)
    for weight, value in zip(model.weights, before, strict=True):
        np.testing.assert_array_equal(np.asarray(weight), value)
