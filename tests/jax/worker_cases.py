"""Trains as one of several processes, or alone, and writes the weights.

Run by `test_workers.py`: `python -m tests.jax.worker_cases FOLDER STRATEGY`,
with the variables of Keras in the environment. With `fully_sharded` a signal
ends all, with `data_parallel` the second process is killed.
"""

import os
import signal
import sys
import time
from pathlib import Path

import numpy as np

import keras_sdft
from keras_sdft import callbacks
from keras_sdft import distribution
from keras_sdft import training
from tests import lost_worker

STEPS = 6


def trainer(seed=0):
    import keras

    from tests.jax import both

    noise = training.Noise(offset_noise=0.1, input_perturbation=0.1)
    made = keras_sdft.Trainer(
        both.model(),
        ema_decay=0.5,
        noise=noise,
        seed=seed,
    )
    made.compile(keras.optimizers.SGD(0.1, global_clipnorm=1.0))
    return made


def part_of(batches, index, count):
    """Returns a worker's rows of whole batches, as `data.load` makes them."""
    import tensorflow as tf

    def part(batch):
        whole = batch["example_weight"].shape[0]
        places = tf.range(whole)[index * whole // count :][: whole // count]
        rows = {name: tf.gather(value, places) for name, value in batch.items()}
        sizes = tf.fill([whole // count], whole)
        return {**rows, "place": places, "whole": sizes}

    return batches.map(part)


def train(one, losses, start=(0, 0), extra=()):
    """Trains an epoch on this worker's rows, and one on whole batches."""
    from tests.jax import both

    index, count = distribution.worker()
    half = both.dataset(0, STEPS // 2)
    epochs = (part_of(half, index, count) if count > 1 else half, half)
    for epoch, data in list(enumerate(epochs))[start[0] :]:
        one.fit(
            data.skip(start[1] if epoch == start[0] else 0),
            validation_data=both.dataset(STEPS, STEPS + 1),
            initial_epoch=epoch,
            epochs=epoch + 1,
            callbacks=[Losses(losses), *extra],
            verbose=0,
        )


def values_of(one):
    values = [v.numpy() for v in one.trainable_variables]
    with one.averaged_weights():
        values += [v.numpy() for v in one.trainable_variables]
    return np.concatenate([value.ravel() for value in values])


class Losses(callbacks.StopAtStep):
    """Keeps the loss of each step, and of each validation."""

    def __init__(self, losses):
        super().__init__(1000)
        self.losses = losses

    def on_step_end(self, before, logs):
        if self.step > before:
            self.losses.append(float(logs["loss"]))

    def on_epoch_end(self, epoch, logs=None):
        self.losses.append(float(logs["val_loss"]))


class Signals(callbacks.StopAtStep):
    """Sends TERM to the second worker in a step."""

    def __init__(self, index, interruption):
        super().__init__(1000)
        self.index, self.interruption = index, interruption

    def on_step_end(self, before, logs):
        if (self.step, self.index) == (STEPS // 2 + 1, 1):
            os.kill(os.getpid(), signal.SIGTERM)
            while self.interruption.signal is None:
                time.sleep(0.01)


def main(folder, strategy):
    distribution.use(strategy)
    folder, (index, count) = Path(folder), distribution.worker()
    from tests.jax import both

    one = trainer()
    # Where the second one cannot write: beneath a file.
    output = folder / "output-0.txt" / "none" if index else folder
    if strategy == "data_parallel":
        dies = lost_worker.Dies(index, 2, folder / "checkpoints")
        keeper = callbacks.Checkpoint(output / "checkpoints", every_steps=1)
        train(one, [], (0, 0), [dies, keeper])
    begin = values_of(one)
    for wrong in (
        lambda: trainer(seed=index).fit(both.dataset(0, 1)),
        # Each is told that it is the first worker.
        lambda: one.evaluate(part_of(both.dataset(0, 1), 0, count)),
    ):
        try:
            wrong()
        except (distribution.WorkerError, ValueError) as error:
            print(f"{type(error).__name__}: {error}")
    losses = []
    with callbacks.Interruption("after this step") as interruption:
        keeper = callbacks.Checkpoint(
            output / "checkpoints", interruption=interruption
        )
        try:
            train(one, losses, (0, 0), [Signals(index, interruption), keeper])
        except training.Interrupted as error:
            print(f"{error} after {tuple(one.progress.position)}")
    preview = one.stable_diffusion.text_to_image if index == 0 else None
    if preview is not None:
        preview("a cat", num_steps=1, seed=1)
    one.export(output / "weights")
    np.savez(
        folder / f"worker-{index}.npz",
        losses=losses,
        begin=begin,
        end=values_of(one),
    )
    distribution.barrier()


if __name__ == "__main__":
    lost_worker.as_command(lambda: main(*sys.argv[1:]))
