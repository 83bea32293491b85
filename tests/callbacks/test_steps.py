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


class Positions(keras.callbacks.Callback):
    def __init__(self):
        super().__init__()
        self.seen = []

    def on_train_batch_end(self, batch, logs=None):
        self.seen.append(tuple(self.model.progress.position))


# Of unknown length, the data ends within a call, or before one.
@pytest.mark.filterwarnings("ignore:.*ran out of data")
@pytest.mark.parametrize("eager", [False, True])
@pytest.mark.parametrize("known", [False, True])
@pytest.mark.parametrize(
    ("several", "seen"),
    [
        (2, [(2, 0, 2), (4, 0, 4), (6, 1, 2), (7, 1, 3)]),
        (3, [(3, 0, 3), (4, 0, 4), (7, 1, 3)]),
        (8, [(4, 0, 4), (7, 1, 3)]),
    ],
)
def test_a_call_counts_the_batches_it_had(
    trainer, batches, several, seen, known, eager
):
    trainer.compile(
        keras.optimizers.SGD(),
        loss="mse",
        steps_per_execution=several,
        run_eagerly=eager,
    )
    if not known:
        batches = batches.filter(lambda x, y: True)
    recorder, positions = Recorder(), Positions()
    trainer.fit(
        batches,
        epochs=5,
        verbose=0,
        # Within a call, had it as many batches as there are.
        callbacks=[recorder, positions, StopAtStep(7)],
    )
    assert positions.seen == seen
    steps = [step for step, _, _ in seen]
    assert recorder.seen == list(zip([0, *steps], steps, strict=False))
    assert int(trainer.optimizer.iterations) == 7
    # The next training does not stop there.
    trainer.fit(batches, verbose=0, callbacks=[recorder])
    assert int(trainer.optimizer.iterations) == recorder.step == 11


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
