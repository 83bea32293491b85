import numpy as np
import pytest
import tensorflow as tf

from keras_sdft.models import attention


@pytest.fixture
def given():
    generator = np.random.default_rng(0)
    shapes = [(3, 12, 4), (3, 4, 10), (3, 10, 4), (3, 12, 4)]
    return [
        tf.constant(generator.normal(size=shape).astype("float32"))
        for shape in shapes
    ]


def value_and_gradients(query, key, value, weights):
    with tf.GradientTape() as tape:
        tape.watch([query, key, value])
        y = attention.attend(query, key, value)
        loss = tf.reduce_sum(y * weights)
    return [y, *tape.gradient(loss, [query, key, value])]


@pytest.mark.parametrize("bytes_of_a_part, parts", [(480, 1), (120, 4)])
@pytest.mark.parametrize("graph", [False, True])
def test_parts_equal_the_whole(
    given, monkeypatch, bytes_of_a_part, parts, graph
):
    expected = value_and_gradients(*given)
    monkeypatch.setattr(attention, "MANY", 0)
    monkeypatch.setattr(attention, "PART", bytes_of_a_part)
    assert attention.number_of_parts(3, 12, 10) == parts
    function = value_and_gradients
    found = (tf.function(function) if graph else function)(*given)
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_only_many_scores_are_made_in_parts():
    # SD 1.x at 256, 512 and 768 pixels, one image.
    assert attention.number_of_parts(8, 32 * 32, 32 * 32) is None
    assert attention.number_of_parts(8, 64 * 64, 64 * 64) == 8
    assert attention.number_of_parts(8, 96 * 96, 96 * 96) == 48
    # The text is short.
    assert attention.number_of_parts(8, 32 * 32, 77) is None
    assert attention.number_of_parts(None, 64 * 64, 64 * 64) is None
