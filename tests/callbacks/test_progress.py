import glob
import io

import keras
import pytest
import tensorflow as tf

from keras_sdft.callbacks import Progress
from keras_sdft.callbacks import Throughput
from keras_sdft.callbacks import progress


def test_bar_shows_steps_loss_rate_and_time(trainer, batches):
    file = io.StringIO()
    bar = Progress(total_steps=8, images_per_step=2, file=file)
    trainer.fit(batches, epochs=2, verbose=0, callbacks=[bar])
    last = file.getvalue().split("\r")[-1]
    assert "steps 8/8" in last
    assert "00:00 left, loss " in last
    assert "images/s" in last
    assert last.endswith("\n")


def test_the_first_step_does_not_count(trainer, batches, monkeypatch):
    # The first step ends at 100 s; three more take 20 s each.
    times = iter([100, 120, 140, 160])
    monkeypatch.setattr(progress.time, "perf_counter", lambda: next(times))
    bar = Progress(total_steps=10, images_per_step=5, file=io.StringIO())
    texts = []
    record = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda b, logs: texts.append(bar._bar.postfix)
    )
    trainer.fit(batches, verbose=0, callbacks=[bar, record])
    assert texts[0].startswith("? left, loss ")
    assert [t.split(",")[0] for t in texts[1:]] == [
        "02:40 left",
        "02:20 left",
        "02:00 left",
    ]
    assert all(text.endswith("0.2 images/s") for text in texts[1:])


def test_bar_can_be_closed_when_training_breaks_off(trainer, batches):
    file = io.StringIO()
    bar = Progress(total_steps=8, images_per_step=2, file=file)

    def fail(batch, logs):
        raise RuntimeError("broken off")

    broken = keras.callbacks.LambdaCallback(on_train_batch_end=fail)
    with pytest.raises(RuntimeError, match="broken off"):
        trainer.fit(batches, verbose=0, callbacks=[bar, broken])
    bar.close()
    bar.close()
    assert "steps 1/8" in file.getvalue().split("\r")[-1]


@pytest.mark.parametrize("value", [0, -3, 1.5, True])
def test_counts_are_checked(value):
    with pytest.raises(ValueError, match="total_steps"):
        Progress(value, 1)
    with pytest.raises(ValueError, match="images_per_step"):
        Throughput(value)


def test_throughput_leaves_the_first_step_out(trainer, batches, monkeypatch):
    # Four steps of 10, 1, 1 and 2 seconds, on a clock told by hand.
    times = iter([0, 10, 20, 21, 30, 31, 40, 42])
    monkeypatch.setattr(progress.time, "perf_counter", lambda: next(times))
    steps = []
    record = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda b, logs: steps.append(dict(logs))
    )
    history = trainer.fit(batches, verbose=0, callbacks=[Throughput(8), record])
    assert [s["images_per_second"] for s in steps] == [0.8, 8.0, 8.0, 4.0]
    # 3 steps of 8 images in 1 + 1 + 2 seconds.
    assert history.history["images_per_second"] == [6.0]
    assert history.history["learning_rate"] == [0.125]


def test_throughput_of_an_epoch_of_one_step(trainer, batches, monkeypatch):
    times = iter([0, 4, 10, 12])
    monkeypatch.setattr(progress.time, "perf_counter", lambda: next(times))
    history = trainer.fit(
        batches.take(1), epochs=2, verbose=0, callbacks=[Throughput(8)]
    )
    assert history.history["images_per_second"] == [2.0, 4.0]


def test_learning_rate_is_found_inside_a_loss_scale_optimizer(trainer, batches):
    optimizer = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.25))
    trainer.compile(optimizer=optimizer, loss="mse")
    history = trainer.fit(batches, verbose=0, callbacks=[Throughput(2)])
    assert history.history["learning_rate"] == [0.25]


def test_tensorboard_receives_the_rate_per_step(trainer, batches, tmp_path):
    board = keras.callbacks.TensorBoard(
        str(tmp_path), write_graph=False, update_freq=1
    )
    trainer.fit(batches, verbose=0, callbacks=[Throughput(2), board])
    (path,) = glob.glob(str(tmp_path / "train" / "*"))
    steps = {}
    for event in tf.compat.v1.train.summary_iterator(path):
        for value in event.summary.value:
            steps.setdefault(value.tag, []).append(event.step)
    for name in ("loss", "images_per_second", "learning_rate"):
        assert steps[f"batch_{name}"] == [1, 2, 3, 4]
        assert steps[f"epoch_{name}"] == [0]
