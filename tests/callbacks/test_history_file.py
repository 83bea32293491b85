import csv

import pytest

from keras_sdft.callbacks import HistoryFile
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


def test_validation_has_its_column(trainer, batches, tmp_path):
    path = tmp_path / "history.csv"
    trainer.fit(
        batches,
        epochs=2,
        verbose=0,
        validation_data=batches,
        validation_freq=1,
        callbacks=[HistoryFile(path)],
    )
    assert list(read(path)[0]) == ["epoch", "step", "loss", "val_loss"]
