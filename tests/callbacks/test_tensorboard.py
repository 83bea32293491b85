import glob

import tensorflow as tf

from keras_sdft.callbacks import TensorBoard


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


def test_epochs_and_validation_are_always_written(trainer, batches, tmp_path):
    board = TensorBoard(tmp_path, every_steps=3)
    fit(trainer, batches, board, epochs=2)
    assert events(tmp_path / "train") == [
        ("batch_loss", 3),
        ("epoch_loss", 0),
        ("batch_loss", 6),
        ("epoch_loss", 1),
    ]
    assert events(tmp_path / "validation") == [
        ("evaluation_loss_vs_iterations", 4),
        ("epoch_loss", 0),
        ("evaluation_loss_vs_iterations", 8),
        ("epoch_loss", 1),
    ]


def test_what_was_logged_after_a_checkpoint_is_cut(trainer, batches, tmp_path):
    board = TensorBoard(tmp_path)
    fit(trainer, batches, board)
    state = board.get_state()
    fit(trainer, batches, board, initial_epoch=1, epochs=3)
    # A killed process leaves half a record.
    for path in glob.glob(f"{tmp_path}/train/*"):
        with open(path, "ab") as file:
            file.write(b"half")
    again = TensorBoard(tmp_path)
    again.set_state(state)
    steps = [("batch_loss", step) for step in range(1, 5)]
    assert events(tmp_path / "train") == [*steps, ("epoch_loss", 0)]
    assert events(tmp_path / "validation") == [
        ("evaluation_loss_vs_iterations", 4),
        ("epoch_loss", 0),
    ]
