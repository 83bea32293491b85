import glob
import json

import pytest
import tensorflow as tf

from keras_sdft.callbacks import TensorBoard
from keras_sdft.callbacks.tensorboard import _RecentMeans
from keras_sdft.callbacks.tensorboard import read_events


def events(directory):
    found = []
    for path in sorted(glob.glob(f"{directory}/*.tfevents.*")):
        for event in tf.compat.v1.train.summary_iterator(path):
            found += [(value.tag, event.step) for value in event.summary.value]
    return found


def fit(trainer, batches, board, **arguments):
    trainer.fit(
        batches,
        verbose=0,
        validation_data=batches,
        callbacks=[board],
        **arguments,
    )


def test_losses_are_means_of_the_steps_between_two_points(
    trainer, batches, tmp_path
):
    # Batches of other losses: the targets are 0, 1, 2 and 3.
    x = tf.ones((4, 3))
    batches = tf.data.Dataset.from_tensor_slices((x, [[0.0], [1], [2], [3]]))
    trainer.compile("sgd", loss="mse")
    trainer.optimizer.learning_rate = 0.0
    board = TensorBoard(tmp_path, every_steps=3)
    fit(trainer, batches.batch(1), board, epochs=2)
    found = {
        (value.tag, event.step): float(tf.make_ndarray(value.tensor))
        for path in glob.glob(f"{tmp_path}/*.tfevents.*")
        for event in read_events(path)
        for value in event.summary.value
    }
    # Three minus the target, squared; the second point is of two epochs.
    assert found == pytest.approx(
        {
            ("loss/train", 3): (9 + 4 + 1) / 3,
            ("loss/validation", 4): (9 + 4 + 1) / 4,
            ("loss/train", 6): (0 + 9 + 4) / 3,
            ("loss/validation", 8): (9 + 4 + 1) / 4,
            # The rest of the second epoch.
            ("loss/train", 8): (1 + 0) / 2,
        }
    )


def test_what_was_logged_after_a_checkpoint_is_cut(trainer, batches, tmp_path):
    board = TensorBoard(tmp_path)
    fit(trainer, batches, board)
    state = json.loads(json.dumps(board.get_state()))
    fit(trainer, batches, board, initial_epoch=1, epochs=3)
    # A killed process leaves half a record.
    for path in glob.glob(f"{tmp_path}/*"):
        with open(path, "ab") as file:
            file.write(b"half")
    again = TensorBoard(tmp_path)
    again.set_state(state)
    steps = [("loss/train", step) for step in range(1, 5)]
    assert events(tmp_path) == [*steps, ("loss/validation", 4)]
    # Of a checkpoint that was written before the validation of its step.
    again.set_state({**state, "validated": -1})
    assert events(tmp_path) == steps


def test_a_run_that_goes_on_within_an_epoch_logs_the_same_means():
    losses = [4.0, 2.0, 6.0, 8.0]
    means = [sum(losses[: n + 1]) / (n + 1) for n in range(4)]
    whole = _RecentMeans()
    whole.begin(0)
    for mean in means:
        whole.add(1, {"loss": mean})
    first = _RecentMeans()
    first.begin(0)
    first.add(1, {"loss": means[0]})
    second = _RecentMeans()
    vars(second).update(json.loads(json.dumps(vars(first))))
    second.begin(1)
    for mean in means[1:]:
        second.add(1, {"loss": mean})
    assert whole.take() == second.take() == {"loss": 5.0}


def test_a_full_disk_ends_no_training(trainer, batches, tmp_path, monkeypatch):
    full, create = [True], tf.summary.create_file_writer

    def create_file_writer(directory):
        if full[0]:
            raise tf.errors.ResourceExhaustedError(None, None, "No space left")
        return create(directory)

    monkeypatch.setattr(tf.summary, "create_file_writer", create_file_writer)
    board = TensorBoard(tmp_path)
    with pytest.warns(UserWarning, match="goes on: No space left"):
        fit(trainer, batches, board)
    full[0] = False
    fit(trainer, batches, board, initial_epoch=1, epochs=2)
    assert ("loss/validation", 8) in events(tmp_path)
