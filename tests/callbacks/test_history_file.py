import csv

import pytest

from keras_sdft.callbacks import Export
from keras_sdft.callbacks import HistoryFile
from keras_sdft.callbacks import Previews
from keras_sdft.callbacks import Throughput


def read(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_one_row_per_epoch_and_only_columns_with_values(
    trainer, batches, tmp_path
):
    path = tmp_path / "history.csv"
    callbacks = [Throughput(2), HistoryFile(path)]
    result = trainer.fit(batches, epochs=2, verbose=0, callbacks=callbacks)
    rows = read(path)
    assert list(rows[0]) == [
        "epoch",
        "step",
        "loss",
        "images_per_second",
        "learning_rate",
    ]
    assert [row["epoch"] for row in rows] == ["1", "2"]
    assert [row["step"] for row in rows] == ["4", "8"]
    assert [row["learning_rate"] for row in rows] == ["0.125", "0.125"]
    losses = [float(row["loss"]) for row in rows]
    assert losses == pytest.approx(result.history["loss"])


def test_validation_in_the_second_epoch_has_its_column(
    trainer, batches, tmp_path
):
    path = tmp_path / "history.csv"
    history = HistoryFile(path)
    result = trainer.fit(
        batches,
        epochs=4,
        verbose=0,
        validation_data=batches,
        validation_freq=2,
        callbacks=[history],
    )
    rows = read(path)
    assert list(rows[0]) == ["epoch", "step", "loss", "val_loss"]
    assert [row["val_loss"] != "" for row in rows] == [False, True] * 2
    first, last = result.history["val_loss"]
    assert history.summary(["val_loss", "none"]) == (
        f"val_loss {first:.4f} in epoch 2, {last:.4f} in epoch 4"
    )


def test_rows_beyond_a_checkpoint_are_cut(trainer, batches, tmp_path):
    path = tmp_path / "history.csv"
    history = HistoryFile(path)
    trainer.fit(batches, verbose=0, callbacks=[history])
    state = history.get_state()
    trainer.fit(batches, epochs=3, verbose=0, callbacks=[history])
    history.set_state(state)
    assert [row["epoch"] for row in read(path)] == ["1"]
    trainer.fit(
        batches, initial_epoch=1, epochs=2, verbose=0, callbacks=[history]
    )
    assert [row["epoch"] for row in read(path)] == ["1", "2"]


def test_a_full_disk_does_not_end_training(
    trainer, batches, tmp_path, monkeypatch
):
    def full(*arguments, **more):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("keras_sdft.callbacks.history_file.atomic_file", full)
    monkeypatch.setattr("keras_sdft.callbacks.previews.save_png", full)
    monkeypatch.setattr(trainer, "export", full)
    callbacks = [
        HistoryFile(tmp_path / "history.csv"),
        Export(tmp_path / "weights", every_steps=3),
        Previews("a", tmp_path / "previews", every_epochs=1),
    ]
    with pytest.warns(UserWarning, match="training goes on") as warned:
        trainer.fit(batches, verbose=0, shuffle=False, callbacks=callbacks)
    told = {str(w.message).split(" was not")[0] for w in warned}
    assert told == {
        "The history",
        "The export of step 3",
        "The preview of step 0",
        "The preview of step 4",
        "The comparison of before and after",
    }
