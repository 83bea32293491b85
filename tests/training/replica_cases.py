"""Trains on one device and on two, and writes how far apart the results are.

A program of its own: TensorFlow can have two CPUs only if it is told before
anything else, and a process should make one strategy. Run by
`test_replicas.py`, or by hand: `python -m tests.training.replica_cases`.
"""

import contextlib
import json
import sys
import tempfile
import time

import keras
import numpy as np
import tensorflow as tf

import keras_sdft
from keras_sdft import adapters
from keras_sdft import models
from keras_sdft import training
from tests import conftest

SPEC = models.StableDiffusionSpec(
    name="nano",
    diffusion_model=models.DiffusionModelSpec(
        widths=(8,), blocks=1, num_heads=(2,), context_width=8, groups=4
    ),
    text_encoder=models.TextEncoderSpec(
        vocabulary_size=2048, width=8, depth=1, num_heads=2
    ),
    autoencoder=models.AutoencoderSpec(
        encoder_widths=(8, 8, 8, 8),
        encoder_blocks=1,
        decoder_widths=(8, 8, 8, 8),
        decoder_blocks=1,
        groups=4,
    ),
    resolution=64,
)


def dataset(shapes, seed=0, images=False, prior=False, masks=False):
    """Makes batches of `(rows, h, w)`, in latents."""
    draws = np.random.default_rng(seed)
    batches = []
    for count, height, width in shapes:
        size = (count, height, width)
        pixels = (count, 8 * height, 8 * width, 3)
        batch = {"example_weight": draws.uniform(0.5, 1.5, count)}
        if images:
            batch["images"] = draws.uniform(-1, 1, pixels)
            batch["token_ids"] = draws.integers(0, 2048, (count, 77))
        else:
            batch["moments"] = draws.normal(size=(*size, 8))
            batch["context"] = draws.normal(size=(count, 77, 8))
        if prior:
            batch["prior"] = np.arange(count) % 2
        if masks:
            batch["loss_mask"] = draws.uniform(0, 1, (*size, 1))
        batches.append(
            {
                name: value.astype(
                    "int32" if name == "token_ids" else "float32"
                )
                for name, value in batch.items()
            }
        )
    spec = {
        name: tf.TensorSpec(
            [
                sides[0] if len(set(sides)) == 1 else None
                for sides in zip(*(b[name].shape for b in batches), strict=True)
            ],
            first.dtype,
        )
        for name, first in batches[0].items()
    }
    made = tf.data.Dataset.from_generator(
        lambda: iter(batches), output_signature=spec
    )
    return made.apply(tf.data.experimental.assert_cardinality(len(batches)))


def small_model(**options):
    model = models.StableDiffusion(
        64, 64, spec=SPEC, base="tiny", random_weights=True, **options
    )
    conftest.perturb(model.diffusion_model)
    return model


class Devices:
    """Two logical CPUs, or one."""

    def __init__(self):
        cpu = tf.config.list_physical_devices("CPU")[0]
        two = [tf.config.LogicalDeviceConfiguration()] * 2
        tf.config.set_logical_device_configuration(cpu, two)
        self.strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])

    def trainer(self, several, optimizer, train, dtype="float32", **options):
        scope = self.strategy.scope() if several else contextlib.nullcontext()
        with scope:
            model = small_model(dtype=dtype)
            trainer = keras_sdft.Trainer(model, train=train(), **options)
            trainer.compile(optimizer and optimizer())
        return trainer

    def are_alike(self, variable):
        """Whether both devices have the same values, bit for bit."""
        found = self.strategy.experimental_local_results(variable.value)
        first, second = (value.numpy() for value in found)
        return first.tobytes() == second.tobytes()


def values(trainer):
    """Returns the weights, and what is evaluated, as one array."""
    arrays = [v.numpy() for v in trainer.trainable_variables]
    with trainer.averaged_weights():
        arrays += [v.numpy() for v in trainer.trainable_variables]
    return np.concatenate([array.ravel() for array in arrays])


def compare(one, two, before):
    apart = np.abs(values(one) - values(two))
    return {
        "max": float(apart.max()),
        "mean": float(apart.mean()),
        "moved": float(np.abs(values(one) - before).max()),
    }


def sgd():
    return keras.optimizers.SGD(0.1, global_clipnorm=1.0)


def lora():
    return [adapters.LoRA(rank=1)]


def with_text(first, second, **options):
    """Makes both networks learn, each by an optimizer of its own."""
    get = training.optimizers.get
    return lambda: [
        training.DiffusionModel(optimizer=get(first)),
        training.TextEncoder(optimizer=get(second), **options),
    ]


def cases():
    return {
        "gradients": {
            "optimizer": sgd,
            "train": lambda: "diffusion_model",
            "data": dataset(
                [(8, 8, 8), (2, 8, 8)], images=True, prior=True, masks=True
            ),
            "validation": dataset([(8, 8, 8), (3, 8, 8)], seed=1, images=True),
            "gradient_accumulation_steps": 2,
            "ema_decay": 0.9,
            "noise": training.Noise(
                offset_noise=0.1,
                input_perturbation=0.1,
            ),
            "objective": training.Objective(loss="huber", weighting="min_snr"),
        },
        "buckets and one row": {
            "optimizer": sgd,
            "train": lora,
            "data": dataset([(8, 8, 8), (1, 8, 16), (4, 16, 8)]),
        },
        "adamw, schedule-free": {
            "optimizer": None,
            "train": with_text("adamw", "schedule_free_adamw", stop_step=2),
            "data": dataset([(8, 8, 8)] * 4, images=True),
        },
        "muon, adafactor": {
            "optimizer": None,
            "train": with_text("muon", "adafactor"),
            "data": dataset([(8, 8, 8)] * 3, images=True),
        },
        "lion in float16": {
            "optimizer": lambda: training.optimizers.get("lion"),
            "train": lora,
            "dtype": "mixed_float16",
            "data": dataset([(8, 8, 8)] * 4),
            "ema_decay": 0.9,
        },
    }


def run_case(devices, data, validation=None, **options):
    trainers, histories = [], []
    for several in (False, True):
        trainer = devices.trainer(several, **options)
        before = values(trainer)
        history = trainer.fit(data, validation_data=validation, verbose=0)
        trainers.append(trainer)
        histories.append(history.history)
    found = compare(*trainers, before)
    learned = trainers[1].trainable_variables
    if trainers[1].weight_average is not None:
        learned = [*learned, *trainers[1].weight_average.weights]
    found["alike"] = all(map(devices.are_alike, learned))
    found["logs"] = max(
        abs(histories[0][name][0] - value[0])
        for name, value in histories[1].items()
    )
    return found


def resumed(devices):
    """Goes from one device to two and back, each for one epoch."""
    data = dataset([(8, 8, 8)] * 2)
    one = devices.trainer(False, sgd, lora, ema_decay=0.9)
    before = values(one)
    one.fit(data, epochs=3, verbose=0)
    with tempfile.TemporaryDirectory() as folder:
        for epoch, on_two in enumerate((False, True, False)):
            trainer = devices.trainer(on_two, sgd, lora, ema_decay=0.9)
            if epoch:
                trainer.restore_checkpoint(f"{folder}/{epoch - 1}")
            trainer.fit(data, epochs=epoch + 1, verbose=0)
            trainer.save_checkpoint(f"{folder}/{epoch}")
    return compare(one, trainer, before)


def images(*trainers):
    """Generates with the same weights on one device and beside another."""
    found = [
        trainer.stable_diffusion.text_to_image(
            "a cat", batch_size=3, num_steps=2, seed=0
        )
        for trainer in trainers
    ]
    assert found[0].shape == found[1].shape
    return int(np.abs(found[0].astype(int) - found[1]).max())


def refused(devices, one, two):
    """Returns the messages of what cannot be done, by what it is."""
    data = dataset([(8, 8, 8)])
    part = data.map(
        lambda batch: {
            **batch,
            "place": tf.range(8),
            "whole": tf.fill([8], 16),
        }
    )
    other = tf.distribute.experimental.CentralStorageStrategy(["CPU:0"])

    def in_scope(scope, function):
        with scope:
            function()

    attempts = {
        "eager": lambda: two.compile(run_eagerly=True),
        "steps": lambda: two.compile(steps_per_execution=2),
        "optimizer": lambda: two.compile(sgd()),
        "model": lambda: in_scope(
            devices.strategy.scope(),
            lambda: keras_sdft.Trainer(one.stable_diffusion),
        ),
        "trainer": lambda: keras_sdft.Trainer(two.stable_diffusion),
        "strategy": lambda: in_scope(
            other.scope(),
            lambda: keras_sdft.Trainer(small_model()),
        ),
        "part on one": lambda: one.fit(part, verbose=0),
        "part on two": lambda: two.evaluate(part, verbose=0),
        "batch": lambda: two.train_on_batch(next(iter(data))),
    }
    messages = {}
    for name, attempt in attempts.items():
        try:
            attempt()
        except ValueError as error:
            messages[name] = str(error)
    return messages


def main(path=None):
    devices = Devices()
    found = {}
    for name, case in cases().items():
        begin = time.process_time()
        found[name] = run_case(devices, **case)
        print(name, found[name], f"{time.process_time() - begin:.1f} s")
    found["resumed"] = resumed(devices)
    trainers = [devices.trainer(n, sgd, lora) for n in (False, True)]
    found["images"] = images(*trainers)
    found["refused"] = refused(devices, *trainers)
    print(json.dumps(found, indent=1), f"{time.process_time():.1f} s")
    if path is not None:
        with open(path, "w", encoding="utf-8") as file:
            json.dump(found, file)


if __name__ == "__main__":
    main(*sys.argv[1:])
