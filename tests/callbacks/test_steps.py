import keras
import pytest

from keras_sdft.callbacks import Export
from keras_sdft.callbacks import StopAtStep
from keras_sdft.callbacks.steps import StepCallback


class Recorder(StepCallback):
    def __init__(self, every=None):
        super().__init__()
        self.seen, self.passes, self.every = [], [], every

    def on_step_end(self, before, logs):
        self.seen.append((before, self.step))
        if self.passed(before, self.every):
            self.passes.append(self.step)


def test_steps_are_counted_over_epochs(trainer, batches):
    recorder = Recorder(every=3)
    trainer.fit(batches, epochs=2, verbose=0, callbacks=[recorder])
    assert recorder.seen == [(n, n + 1) for n in range(8)]
    assert recorder.passes == [3, 6]


def test_steps_go_on_in_a_second_fit(trainer, batches):
    recorder = Recorder()
    trainer.fit(batches, verbose=0, callbacks=[recorder])
    trainer.fit(batches, verbose=0, callbacks=[recorder])
    assert recorder.step == 8


def test_steps_per_execution_counts_every_step(trainer, batches):
    trainer.compile(
        optimizer=keras.optimizers.SGD(), loss="mse", steps_per_execution=2
    )
    recorder = Recorder(every=3)
    trainer.fit(batches, epochs=2, verbose=0, callbacks=[recorder])
    assert recorder.seen == [(0, 2), (2, 4), (4, 6), (6, 8)]
    assert recorder.passes == [4, 6]


@pytest.mark.parametrize("step", [1, 4, 6])
def test_stop_at_step_is_exact(trainer, batches, step):
    history = trainer.fit(
        batches, epochs=5, verbose=0, callbacks=[StopAtStep(step)]
    )
    assert int(trainer.optimizer.iterations) == step
    assert len(history.epoch) == -(-step // 4)


@pytest.mark.parametrize("value", [0, -1, 2.0, True, None, "3"])
@pytest.mark.parametrize(
    "make", [StopAtStep, lambda n: Export("out", every_steps=n)]
)
def test_counts_are_checked(make, value):
    with pytest.raises(ValueError, match="step"):
        make(value)


def test_export_replaces_every_so_many_steps(trainer, batches, tmp_path):
    callback = Export(tmp_path / "weights", every_steps=3)
    trainer.fit(batches, epochs=2, verbose=0, callbacks=[callback])
    directory = str(tmp_path / "weights")
    assert trainer.exports == [(directory, True, 3), (directory, True, 6)]
