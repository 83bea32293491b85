"""Trains as one of several workers, or alone, and writes the weights.

Run by `test_workers.py`: `python -m tests.training.worker_cases FOLDER CASE`,
with `TF_CONFIG` in the environment for one of several.
"""

import os
import signal
import sys
import time
from pathlib import Path

import keras_sdft

keras_sdft.distribution.use("auto")

import numpy as np  # noqa: E402

from keras_sdft import callbacks  # noqa: E402
from keras_sdft import distribution  # noqa: E402
from keras_sdft import training  # noqa: E402
from tests import lost_worker  # noqa: E402
from tests.training import replica_cases  # noqa: E402


def trainer(**options):
    model = replica_cases.small_model()
    made = keras_sdft.Trainer(
        model, train=replica_cases.lora(), ema_decay=0.9, **options
    )
    made.compile(replica_cases.sgd())
    made.train_step = noting_rows(made.train_step)
    return made


def noting_rows(train_step):
    """Returns a step that prints how many rows it is traced for."""

    def step(batch):
        print("traced for", *{value.shape[0] for value in batch.values()})
        return train_step(batch)

    return step


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
        except (distribution.WorkerError, ValueError) as error:
            print(error)
    # Where the second one cannot write: beneath a file.
    output = folder / "output-0.txt" / "none" if index else folder
    history = callbacks.HistoryFile(output / "history.csv")
    previews = callbacks.Previews(
        ["a cat"], output / "previews", every_steps=100, num_steps=1
    )
    extra = [history, previews]
    if case == "lost":
        extra.append(lost_worker.Dies(index, 2, folder / "checkpoints"))
    epochs = (whole, part_of(whole, index, count))
    start = (0, 0)
    if case == "resumed":
        step, *start = one.restore_checkpoint(folder / "checkpoints")
        print(f"goes on after step {step}")
    while start is not None:
        with callbacks.Interruption("after this step") as interruption:
            if case == "signals":
                extra = [history, previews, Signals(index, interruption)]
            keeper = callbacks.Checkpoint(
                output / "checkpoints", every_steps=1, interruption=interruption
            )
            start = train(one, epochs, start, [*extra, keeper])
            if start is not None:
                place = one.restore_checkpoint(folder / "checkpoints")
                assert place[1:] == start
    one.export(output / "weights")
    values = [v.numpy() for v in one.trainable_variables]
    with one.averaged_weights():
        values += [v.numpy() for v in one.trainable_variables]
    values = np.concatenate([value.ravel() for value in values])
    np.save(folder / f"worker-{index}-of-{count}.npy", values)
    distribution.barrier()


def train(one, epochs, start, extra):
    """Trains; returns where to go on after a signal, else `None`."""
    try:
        for epoch, data in list(enumerate(epochs))[start[0] :]:
            one.fit(
                data.skip(start[1] if epoch == start[0] else 0),
                validation_data=replica_cases.dataset([(3, 8, 8)], seed=1),
                initial_epoch=epoch,
                epochs=epoch + 1,
                callbacks=extra,
                verbose=0,
            )
    except training.Interrupted as error:
        step, *start = one.progress.position
        print(f"{error} after step {step}, batch {start}")
        distribution.barrier()
        return tuple(start)
    return None


class Signals(callbacks.StopAtStep):
    """Sends TERM to the second worker, and later INT to the first."""

    def __init__(self, index, interruption):
        super().__init__(1000)
        self.index, self.interruption = index, interruption

    def on_step_end(self, before, logs):
        sent = {(1, 1): signal.SIGTERM, (3, 0): signal.SIGINT}
        number = sent.get((self.step, self.index))
        if number is not None:
            os.kill(os.getpid(), number)
            while self.interruption.signal is None:
                time.sleep(0.01)


if __name__ == "__main__":
    lost_worker.as_command(lambda: main(*sys.argv[1:]))
