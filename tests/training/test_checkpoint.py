"""A resumed training equals one that was never interrupted, bit for bit."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_sdft.adapters import LoRA
from keras_sdft.adapters import TextualInversion
from keras_sdft.callbacks import Checkpoint
from keras_sdft.callbacks import HistoryFile
from keras_sdft.callbacks import StopAtStep
from keras_sdft.callbacks import Throughput
from keras_sdft.data import load
from keras_sdft.encoding import Cache
from keras_sdft.training import Noise
from keras_sdft.training import Objective
from keras_sdft.training import TextEncoder
from keras_sdft.training import Trainer
from keras_sdft.training import checkpoint_files as disk
from keras_sdft.training import schedules
from keras_sdft.training import state
from keras_sdft.training.checkpoint import Interrupted
from keras_sdft.training.checkpoint import Position

BATCHES = 2
CASES = {
    "plain": {},
    "averaged and accumulated": {
        "ema_decay": 0.9,
        "gradient_accumulation_steps": 2,
        "objective": Objective(weighting="min_snr"),
        "noise": Noise(offset_noise=0.1, input_perturbation=0.1),
    },
    "schedule": {"optimizer": "schedule"},
    "schedule-free": {"optimizer": "schedule_free_adamw"},
    "bfloat16": {"precision": "mixed_bfloat16"},
    "float16": {"precision": "mixed_float16"},
    "adapters": {"lora": {}, "ema_decay": 0.9},
    "adapters of int8 kernels": {"lora": {"frozen_dtype": "int8"}},
    "text encoder with a stop": {"text_encoder": True, "ema_decay": 0.9},
    "in a graph": {"eager": False, "ema_decay": 0.9},
}


@pytest.fixture
def make(make_micro):
    """Makes equal trainers, which share a model that is reset each time."""
    models = {}

    def model_of(precision):
        if precision not in models:
            previous = keras.config.dtype_policy()
            keras.config.set_dtype_policy(precision)
            try:
                model = make_micro()
            finally:
                keras.config.set_dtype_policy(previous)
            networks = (model.diffusion_model, model.text_encoder)
            weights = [w for network in networks for w in network.weights]
            models[precision] = model, weights, [np.array(w) for w in weights]
        model, weights, values = models[precision]
        for weight, value in zip(weights, values, strict=True):
            weight.assign(value)
        return model

    def make(
        optimizer=None,
        precision="float32",
        text_encoder=False,
        lora=None,
        eager=True,
        several=1,
        **arguments,
    ):
        if text_encoder:
            part = TextEncoder(learning_rate=1e-3, stop_step=2)
            arguments["train"] = ["diffusion_model", part]
        if lora is not None:
            # Adapters would stay in the model.
            models.clear()
            part = LoRA(rank=2, dropout=0.5, learning_rate=1e-3, **lora)
            arguments["train"] = [part]
        if optimizer == "schedule":
            rate = schedules.WarmUpSchedule(
                "cosine", 1e-2, num_steps=4, warmup_steps=1
            )
            optimizer = keras.optimizers.Adam(rate, global_clipnorm=1.0)
        model = model_of(precision)
        arguments = {"seed": 3, "validation_timesteps": 1, **arguments}
        trainer = Trainer(model, **arguments)
        trainer.compile(
            optimizer, run_eagerly=eager, steps_per_execution=several
        )
        return trainer

    return make


@pytest.fixture
def data(make_batch):
    """Makes batches from one of an epoch on, as `data.load(start=)` does."""

    def encoded(number, has_context):
        # What the encoders make of images and captions, in less time.
        found = make_batch(2, number)
        generator = np.random.default_rng(number)
        shapes = {"moments": (2, 8, 8, 8), "context": (2, 77, 16)}
        for name, shape in shapes.items():
            found[name] = generator.normal(size=shape).astype("float32")
        del found["images"], found["token_ids" if has_context else "context"]
        return found

    def data(batch=0, count=BATCHES, has_context=True):
        batches = [encoded(number, has_context) for number in range(count)]
        stacked = {
            name: np.stack([each[name] for each in batches])
            for name in batches[0]
        }
        dataset = tf.data.Dataset.from_tensor_slices(stacked)
        if not batch:
            return dataset
        passes = iter([batch])

        def rest(_):
            first = tf.numpy_function(
                lambda: np.int64(next(passes, 0)), [], "int64"
            )
            return dataset.skip(first)

        result = tf.data.Dataset.range(1).flat_map(rest)
        result.cardinality = dataset.cardinality
        return result

    return data


class SaveAfter(keras.callbacks.Callback):
    """Writes a checkpoint after a step, and may break training off."""

    def __init__(self, step, path, stops=False):
        super().__init__()
        self.step, self.path, self.stops = step, path, stops

    def on_train_batch_end(self, batch, logs=None):
        if self.model.progress.position.step == self.step:
            self.model.save_checkpoint(self.path)
            if self.stops:
                raise KeyboardInterrupt


def values(trainer):
    return {
        name: np.array(keras.ops.convert_to_numpy(v.value), dtype="float64")
        for name, v in state.named_variables(trainer).items()
    }


def assert_equal(found, expected):
    assert list(found) == list(expected)
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)


@pytest.mark.parametrize("case", CASES)
def test_a_resumed_training_is_bit_equal(make, data, tmp_path, case):
    # One step before, and one after; where a part stops, one more.
    count = 3 if "stop" in case else 2
    batches = {"count": count, "has_context": "text encoder" not in case}
    whole, history = make(**CASES[case]), HistoryFile(tmp_path / "a.csv")
    save = SaveAfter(1, tmp_path / "checkpoint")
    whole.fit(data(**batches), verbose=0, callbacks=[history, save])
    expected = values(whole)
    again, ended = make(**CASES[case]), HistoryFile(tmp_path / "b.csv")
    position = again.restore_checkpoint(tmp_path / "checkpoint")
    assert position == (1, 0, 1)
    rest = data(position.batch, **batches)
    again.fit(rest, verbose=0, callbacks=[ended])
    assert_equal(values(again), expected)
    assert ended.rows == history.rows
    assert [row["step"] for row in history.rows] == [count]


def test_calls_of_several_steps_are_resumed_between_two(make, data, tmp_path):
    # The text encoder stops after 2 steps, the data ends after 4, and the
    # training after 6: all of them within a call.
    options = {"text_encoder": True, "eager": False, "several": 3}

    def run(trainer, batch, *extra):
        history = HistoryFile(tmp_path / "history.csv")
        trainer.fit(
            data(batch, 4, has_context=False),
            epochs=3,
            verbose=0,
            callbacks=[StopAtStep(6), history, *extra],
        )
        return history.rows

    whole = make(**options)
    rows = run(whole, 0, SaveAfter(3, tmp_path / "checkpoint"))
    assert [row["step"] for row in rows] == [4, 6]
    assert whole.progress.position == (int(whole.step), 1, 2)
    steps = [int(one.iterations) for one in whole.optimizer.optimizers]
    assert steps == [6, 2]
    expected, again = values(whole), make(**options)
    assert again.restore_checkpoint(tmp_path / "checkpoint") == (3, 0, 3)
    assert run(again, 3) == rows
    assert_equal(values(again), expected)


@pytest.mark.parametrize(
    ("case", "step"), [("plain", 2), ("cache", 1), ("new word", 1)]
)
def test_a_resumed_training_reads_the_rest_of_its_data(
    make_micro, tmp_path, case, step
):
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (4, 64, 64, 3), np.uint8)
    pairs = [(image, f"<toy> {n}") for n, image in enumerate(images)]

    def run(path, position, *callbacks):
        model = make_micro()
        part = "diffusion_model"
        if case == "new word":
            part = TextualInversion("<toy>", init="cat", vectors=2)
        trainer = Trainer(model, train=part, seed=3, validation_timesteps=1)
        trainer.compile(run_eagerly=True)
        cache = Cache(tmp_path / "cache", model, progress=False)
        options = {
            "resolution": 64,
            "batch_size": 2,
            "horizontal_flip": True,
            "caption_template": ["a {caption}", "the {caption}"],
            "cache": cache if case == "cache" else None,
        }
        if position.step:
            found = trainer.restore_checkpoint(tmp_path / "checkpoint")
            assert found == position
        history = HistoryFile(path)
        trainer.fit(
            load(pairs, model.tokenizer, start=position[1:], **options),
            epochs=2,
            verbose=0,
            validation_data=load(pairs, model.tokenizer, **options),
            callbacks=[history, *callbacks],
        )
        return values(trainer), history.rows

    save = SaveAfter(step, tmp_path / "checkpoint")
    expected, rows = run(tmp_path / "a.csv", Position(), save)
    found, again = run(tmp_path / "b.csv", Position(step, 0, step))
    assert_equal(found, expected)
    assert again == rows and len(rows) == 2


def test_saving_and_breaking_off_change_nothing(make, data, tmp_path):
    whole = make()
    whole.fit(data(), epochs=2, verbose=0)
    expected = values(whole)
    for step in (1, 3):
        trainer, position = make(), (0, 0, 0)
        if step == 3:
            position = trainer.restore_checkpoint(tmp_path)
        stop = SaveAfter(step, disk.path_of(tmp_path, step), stops=True)
        with pytest.raises(KeyboardInterrupt):
            rest = data(position[2])
            trainer.fit(rest, epochs=2, verbose=0, callbacks=[stop])
    again = make()
    assert again.restore_checkpoint(tmp_path) == (3, 1, 1)
    again.fit(data(1), epochs=2, verbose=0)
    assert_equal(values(again), expected)


def test_names_count_no_layers(make):
    first, second = make(ema_decay=0.9), make(ema_decay=0.9)
    for trainer in (first, second):
        trainer.optimizer.build(trainer.trainable_variables)
    names = list(state.named_variables(first))
    assert names == list(state.named_variables(second))
    assert "weights.unet.conv_in.weight" in names
    assert "average.unet.conv_in.weight" in names
    assert "optimizer.momentum.unet.conv_in.weight" in names
    assert "optimizer.velocity.unet.conv_in.weight" in names
    assert {"step", "metrics.loss.total"} <= set(names)
    known = len(first.trainable_variables) * 4
    others = [n for n in names if not n.endswith((".weight", ".bias"))]
    assert len(names) - len(others) == known


def test_checkpoints_are_kept_up_to_a_number(make, data, tmp_path):
    trainer = make()
    keeper = Checkpoint(tmp_path, every_steps=1, keep_last=2)
    # Written in place: what a thread has no time for is left out.
    keeper._fits = lambda num_bytes: False
    trainer.fit(data(), epochs=2, verbose=0, callbacks=[keeper])
    kept = [path.name for path in disk.find_all(tmp_path)]
    assert kept == ["step_00000004", "step_00000003"]
    positions = [
        disk.check_whole(path)["position"] for path in disk.find_all(tmp_path)
    ]
    assert positions == [[4, 2, 0], [3, 1, 1]]
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(kept)


def test_a_thread_writes_what_was_copied(make, data, tmp_path):
    trainer = make()
    keeper = Checkpoint(tmp_path, every_steps=2)
    trainer.fit(data(), verbose=0, callbacks=[keeper])
    expected = values(trainer)
    keeper.save()
    for weight in trainer.trainable_variables:
        weight.assign(keras.ops.zeros_like(weight))
    keeper._writer.wait()
    again = make()
    again.restore_checkpoint(tmp_path)
    found = values(again)
    del found["metrics.loss.total"], found["metrics.loss.count"]
    assert_equal(found, {name: expected[name] for name in found})


def test_a_damaged_checkpoint_is_skipped(make, data, tmp_path):
    trainer = make()
    trainer.fit(data(), verbose=0)
    for step in (1, 2, 3):
        trainer.progress.position = (step, 0, step)
        trainer.save_checkpoint(disk.path_of(tmp_path, step))
    newest, middle, _ = disk.find_all(tmp_path)
    tensors = newest / disk.TENSORS
    content = bytearray(tensors.read_bytes())
    content[-1] ^= 1
    tensors.write_bytes(content)
    record = json.loads((middle / disk.RECORD).read_text())
    record["content"] = record["content"].replace('"seed": 3', '"seed": 4')
    (middle / disk.RECORD).write_text(json.dumps(record))
    with pytest.warns(UserWarning, match="is skipped") as warned:
        assert make().restore_checkpoint(tmp_path) == (1, 0, 1)
    told = [str(w.message) for w in warned if "skipped" in str(w.message)]
    assert ["step_00000003" in t for t in told] == [True, False]


def test_another_training_is_refused_by_name(make, data, tmp_path):
    trainer = make(ema_decay=0.9)
    with pytest.raises(ValueError, match="no checkpoint in .* Begin it anew"):
        trainer.restore_checkpoint(tmp_path)
    trainer.save_checkpoint(tmp_path / "checkpoint")
    for arguments, message in (
        ({"seed": 4}, "seed is 4, and was 3"),
        ({"noise": Noise(offset_noise=0.5)}, "noise.offset_noise is 0.5"),
        ({"optimizer": "lion"}, "optimizer.0.class is 'Lion', and was"),
        ({"ema_decay": None}, "ema_decay is None, and was 0.9"),
    ):
        other = make(**{"ema_decay": 0.9, **arguments})
        with pytest.raises(ValueError, match=message):
            other.restore_checkpoint(tmp_path / "checkpoint")
    encoder = other.stable_diffusion.text_encoder
    encoder.weights[0].assign(encoder.weights[0] + 1.0)
    changed = Trainer(other.stable_diffusion, seed=3, ema_decay=0.9)
    changed.compile()
    with pytest.raises(ValueError, match="text_encoder has other weights"):
        changed.restore_checkpoint(tmp_path / "checkpoint")


def test_a_full_disk_leaves_the_last_checkpoint(
    make, data, tmp_path, monkeypatch
):
    trainer = make()
    keeper = Checkpoint(tmp_path, every_steps=1)
    keeper._fits = lambda num_bytes: False
    write = disk.write

    def full(path, *arguments):
        if path.name > "step_00000001":
            raise OSError(28, "No space left on device")
        write(path, *arguments)

    monkeypatch.setattr(disk, "write", full)
    with pytest.warns(UserWarning, match="checkpoint was not written.*space"):
        trainer.fit(data(), verbose=0, callbacks=[keeper])
    assert int(trainer.step) == BATCHES
    assert [p.name for p in disk.find_all(tmp_path)] == ["step_00000001"]


class Signal:
    """An `Interruption` whose signal comes at a moment of the training."""

    signal = None


def test_an_interruption_at_any_moment_writes_a_checkpoint(
    make, data, tmp_path
):
    def run(trainer, batch=0, extra=()):
        history = HistoryFile(tmp_path / "history.csv")
        trainer.fit(
            data(batch),
            epochs=2,
            verbose=0,
            validation_data=data().take(1),
            callbacks=[Throughput(2), history, *extra],
        )
        return [
            {k: v for k, v in row.items() if k != "images_per_second"}
            for row in history.rows
        ]

    whole = make(ema_decay=0.9)
    rows, expected = run(whole), values(whole)
    assert "learning_rate" in rows[0]
    for moment, position in (
        ("on_train_batch_end", (1, 0, 1)),
        ("on_test_batch_end", (2, 0, 2)),
        ("on_epoch_end", (2, 1, 0)),
    ):
        waiting = Signal()
        directory = tmp_path / moment
        keeper = Checkpoint(directory, interruption=waiting)
        sender = keras.callbacks.LambdaCallback()

        def send(*_, waiting=waiting, **__):
            waiting.signal = 15

        setattr(sender, moment, send)
        with pytest.raises(Interrupted, match="signal 15"):
            run(make(ema_decay=0.9), extra=[sender, keeper])
        again = make(ema_decay=0.9)
        assert again.restore_checkpoint(directory) == position
        assert run(again, batch=position[2]) == rows
        assert_equal(values(again), expected)


@pytest.mark.parametrize(
    ("steps", "position", "moment"),
    [
        # At the end of an epoch; and where one is cut short, with a signal in
        # the last validation, which has other metrics.
        (2, (2, 0, 2), None),
        (3, (3, 1, 1), "on_test_batch_end"),
    ],
)
def test_a_training_made_longer_is_bit_equal(
    make, data, tmp_path, steps, position, moment
):
    def run(name, trainer, steps, batch=0, extra=()):
        history = HistoryFile(tmp_path / "history.csv")
        # Of the last step alone, and with a signal no other one.
        keeper = Checkpoint(
            tmp_path / name, every_steps=100, interruption=Signal()
        )
        trainer.fit(
            data(batch),
            epochs=3,
            verbose=0,
            validation_data=data().take(1),
            callbacks=[StopAtStep(steps), history, *extra, keeper],
        )
        return history.rows

    whole = make(ema_decay=0.9)
    rows = run("whole", whole, 5)
    assert [row["step"] for row in rows] == [2, 4, 5]
    short, sender = make(ema_decay=0.9), keras.callbacks.LambdaCallback()
    if moment is None:
        assert run("again", short, steps)[-1]["step"] == steps
    else:

        def send(*_, **__):
            if short.progress.position.step == steps:
                short.progress.interruption.signal = 15

        setattr(sender, moment, send)
        with pytest.raises(Interrupted):
            run("again", short, steps, extra=[sender])
    again = make(ema_decay=0.9)
    assert again.restore_checkpoint(tmp_path / "again") == position
    assert run("again", again, 5, position[2]) == rows
    assert_equal(values(again), values(whole))
    found, expected = (
        disk.read_tensors(disk.path_of(tmp_path / name, 5))
        for name in ("again", "whole")
    )
    assert_equal(found, expected)
    kept = [path.name for path in disk.find_all(tmp_path / "again")]
    assert kept == ["step_00000005", f"step_0000000{steps}"]


def test_without_checkpoints_the_end_has_none(make, data, tmp_path):
    trainer = make()
    for steps in (None, 100):
        keeper = Checkpoint(tmp_path, every_steps=steps)
        trainer.fit(data(), verbose=0, callbacks=[keeper])
        assert len(disk.find_all(tmp_path)) == (steps is not None)
    # Of a training that its epochs ended, and a rest without a step.
    content = disk.check_whole(disk.path_of(tmp_path, 2 * BATCHES))
    assert content["position"] == [2 * BATCHES, 1, 0]
    again = make()
    again.restore_checkpoint(tmp_path)
    before = disk.path_of(tmp_path, 2 * BATCHES).stat().st_mtime_ns
    again.fit(data(), epochs=1, verbose=0, callbacks=[keeper])
    assert disk.path_of(tmp_path, 2 * BATCHES).stat().st_mtime_ns == before


def test_the_best_weights_are_exported(make, data, tmp_path):
    trainer = make()
    keeper = Checkpoint(tmp_path, keep_best="val_loss")
    arguments = {"verbose": 0, "validation_data": data()}
    trainer.fit(data(), callbacks=[keeper], **arguments)
    first = keeper.best
    assert (first["epoch"], first["step"]) == (1, BATCHES)
    exported = json.loads((tmp_path / "best/keras_sdft.json").read_text())
    assert exported["steps"] == BATCHES
    keeper.best["value"] = 0.0
    trainer.fit(data(), initial_epoch=1, epochs=2, callbacks=[keeper])
    assert keeper.best == {"value": 0.0, "epoch": 1, "step": 2}
    # Those of an end are better than when its checkpoint was written.
    keeper.set_state({"best": first})
    assert keeper.best["value"] == 0.0
    lost = Checkpoint(tmp_path, keep_best="val_los")
    with pytest.warns(UserWarning, match="found no 'val_los' in .*val_loss"):
        trainer.fit(data(), callbacks=[lost], **arguments)
