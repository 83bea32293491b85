"""Trains as one of several workers, or alone, and writes the weights.

Run by `test_workers.py`: `python -m tests.training.worker_cases FOLDER CASE`,
with `TF_CONFIG` in the environment for one of several.
"""

import os
import sys
from pathlib import Path

import keras_sdft

keras_sdft.distribution.use("auto")

import numpy as np  # noqa: E402

from keras_sdft import callbacks  # noqa: E402
from keras_sdft import distribution  # noqa: E402
from tests.training import replica_cases  # noqa: E402


def trainer(**options):
    model = replica_cases.small_model()
    made = keras_sdft.Trainer(
        model, train=replica_cases.lora(), ema_decay=0.9, **options
    )
    made.compile(replica_cases.sgd())
    return made


def part_of(batches, index, count):
    """Returns a worker's rows of whole batches, as `data.load` makes them."""
    import tensorflow as tf

    def part(batch):
        whole = tf.shape(batch["example_weight"])[0]
        places = tf.range(whole)[index * whole // count :][: whole // count]
        rows = {name: tf.gather(value, places) for name, value in batch.items()}
        sizes = tf.fill(tf.shape(places), whole)
        return {**rows, "place": places, "whole": sizes}

    return batches.map(part)


def main(folder, case):
    folder, (index, count) = Path(folder), distribution.worker()
    seed = index if case == "alike" else 0
    one = trainer(seed=seed)
    whole = replica_cases.dataset([(8, 8, 8)] * 3)
    if case == "alike":
        # Each is told that it is the first worker.
        try:
            one.evaluate(part_of(whole, 0, count), verbose=0)
        except (RuntimeError, ValueError) as error:
            print(error)
    checkpoints = callbacks.Checkpoint(folder / "checkpoints", every_steps=1)
    previews = callbacks.Previews(
        ["a cat"], folder / "previews", every_steps=100, num_steps=1
    )
    history = callbacks.HistoryFile(folder / "history.csv")
    extra = [checkpoints, history, previews]
    if case == "lost":
        extra.append(Dies(index))
    start = (0, 0)
    if case == "resumed":
        start = one.restore_checkpoint(folder / "checkpoints")[1:]
    for epoch, data in enumerate((whole, part_of(whole, index, count))):
        if epoch < start[0]:
            continue
        data = data.skip(start[1] if epoch == start[0] else 0)
        validation = replica_cases.dataset([(3, 8, 8)], seed=1)
        one.fit(
            data,
            validation_data=validation,
            initial_epoch=epoch,
            epochs=epoch + 1,
            callbacks=extra,
            verbose=0,
        )
    one.export(folder / "weights")
    values = [v.numpy() for v in one.trainable_variables]
    with one.averaged_weights():
        values += [v.numpy() for v in one.trainable_variables]
    values = np.concatenate([value.ravel() for value in values])
    np.save(folder / f"worker-{index}-of-{count}.npy", values)
    distribution.barrier()


class Dies(callbacks.StopAtStep):
    """Ends the second worker without a word, as a machine that is lost."""

    def __init__(self, index):
        super().__init__(1000)
        self.index = index

    def on_step_end(self, before, logs):
        if self.index == 1 and self.step == 2:
            os._exit(9)


if __name__ == "__main__":
    main(*sys.argv[1:])
