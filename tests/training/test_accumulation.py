import pytest
import tensorflow as tf

from keras_sdft.training.tensorflow.accumulation import accumulate


@pytest.mark.parametrize("parts", [1, 2, 3, 6])
@pytest.mark.parametrize("traced", [False, True])
def test_sums_over_parts(parts, traced):
    batch = {"x": tf.range(6.0), "y": tf.reshape(tf.range(12.0), (6, 2))}

    def micro_step(part):
        assert part["x"].shape[0] == 6 // parts
        weights = part["x"][:, None] * part["y"]
        return [tf.reduce_sum(part["x"]), tf.reduce_sum(weights, axis=0)]

    def run():
        return accumulate(micro_step, batch, parts)

    total, columns = (tf.function(run) if traced else run)()
    assert float(total) == 15.0
    # Columns of y are 0, 2, .., 10 and 1, 3, .., 11.
    assert columns.numpy().tolist() == [110.0, 125.0]
