import keras
import numpy as np
import pytest

from keras_sdft.callbacks import StopOnNaN


@pytest.mark.parametrize("rate", [1e-3, 1e30])
def test_a_loss_that_is_no_number_stops_training(rate):
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile(keras.optimizers.SGD(rate), loss="mse", run_eagerly=True)
    inputs = np.ones((8, 2), "float32")
    ended = []
    ends = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda *_: ended.append(1)
    )

    def fit():
        model.fit(
            inputs,
            inputs[:, :1] + 1,
            batch_size=2,
            callbacks=[StopOnNaN(), ends],
            verbose=0,
        )

    if rate < 1:
        fit()
        assert ended == [1]
        return
    with pytest.raises(ValueError, match=r"NaN or infinite.*it was 1e\+30"):
        fit()
    assert ended == []
