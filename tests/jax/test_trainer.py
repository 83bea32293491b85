"""A training in JAX through `fit`: as TensorFlow's, on one device and two.

Every case goes on from TensorFlow's checkpoint of step 2 to step 4.
"""

import io

import jax
import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_sdft
from keras_sdft import devices
from keras_sdft import keras_internals
from keras_sdft.training.jax import train_step
from tests.jax import both


@pytest.fixture(scope="module")
def compare(tensorflow_side):
    """Asserts that a training ended as TensorFlow's did."""
    start = np.load(tensorflow_side / "start.npz")
    end = np.load(tensorflow_side / "end.npz")
    names = [name for name in end if name[:2] in ("we", "av")]
    moved = max(abs(end[name] - start[name]).max() for name in names)
    assert moved > 1e-2

    def check(trainer):
        found = both.arrays(trainer)
        assert set(found) == set(end)
        assert int(found["step"]) == int(end["step"]) == both.STEPS
        wrong = {
            name: abs(value - end[name]).max()
            for name, value in found.items()
            if abs(value - end[name]).max() > 1e-5 * max(moved, 1.0)
        }
        assert not wrong

    return check


def resumed(directory):
    trainer = both.fit_trainer()
    with pytest.warns(UserWarning, match="last bits"):
        position = trainer.restore_checkpoint(directory / "checkpoint")
    assert position == (2, 1, 0)
    return trainer


@pytest.fixture(scope="module")
def trained(tensorflow_side):
    trainer = resumed(tensorflow_side)
    trainer.fit(both.dataset(2, 4), epochs=2, verbose=0)
    return trainer


def test_goes_on_from_tensorflow_as_tensorflow_does(trained, compare):
    compare(trained)


def test_its_checkpoint_holds_what_tensorflows_does(
    trained, tensorflow_side, tmp_path
):
    from keras_sdft.training import checkpoint_files as disk

    trained.save_checkpoint(tmp_path)
    ours = disk.read_tensors(tmp_path)
    theirs = disk.read_tensors(tensorflow_side / "checkpoint")
    # Counters are int32 here, and int64 in TensorFlow.
    ours, theirs = (
        {(name, tuple(tensor.shape)) for name, tensor in found.items()}
        for found in (ours, theirs)
    )
    assert not ours ^ theirs


def test_its_own_checkpoints_are_resumed_bit_for_bit(trained, tmp_path):
    trained.save_checkpoint(tmp_path)
    epoch = trained.progress.position.epoch
    data = both.dataset(0, 2)
    trained.fit(data, initial_epoch=epoch, epochs=epoch + 1, verbose=0)
    straight = both.arrays(trained)
    assert trained.restore_checkpoint(tmp_path).step == both.STEPS
    trained.fit(data, epochs=epoch + 1, verbose=0)
    for name, value in both.arrays(trained).items():
        np.testing.assert_array_equal(value, straight[name], err_msg=name)


def test_the_program_holds_no_weights_as_constants(trained):
    step = trained._compiled(trained.train_step, trained.optimizer.variables)
    state = [[v.value for v in variables] for variables in step.state]
    frozen = [v.value for v in step.frozen]
    batch = both.encoded()
    constants = jax.make_jaxpr(step.pure)(state, batch, frozen).consts
    # The noise is the test's own.
    tables = {t.shape for t in trained.noise_sampler.tables.values()}
    large = [c.shape for c in constants if np.size(c) > 1000]
    assert set(large) <= tables


def test_the_state_stays_on_the_device_between_steps(
    tensorflow_side, monkeypatch, tmp_path
):
    trainer = resumed(tensorflow_side)
    synchronized, rates = [], []
    plain = type(trainer).jax_state_sync

    def counting(trainer):
        synchronized.append(not keras_internals.has_its_state(trainer))
        plain(trainer)

    monkeypatch.setattr(type(trainer), "jax_state_sync", counting)
    schedule = keras.optimizers.schedules.PolynomialDecay(1e-3, 4, 0.0)
    trainer.compile(keras_sdft.training.AdamW(schedule))
    record = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda _, logs: rates.append(logs["learning_rate"])
    )
    ours = [
        keras_sdft.callbacks.StopOnNaN(),
        keras_sdft.callbacks.Throughput(both.B),
        keras_sdft.callbacks.StopAtStep(100),
        keras_sdft.callbacks.TensorBoard(tmp_path),
        keras_sdft.callbacks.Checkpoint(tmp_path),
        keras_sdft.callbacks.Progress(100, both.B, io.StringIO()),
    ]
    trainer.fit(
        both.dataset(0, 3), epochs=2, verbose=0, callbacks=[*ours, record]
    )
    assert sum(synchronized) == 1
    assert np.allclose(rates, [7.5e-4, 5e-4, 2.5e-4])


@pytest.mark.filterwarnings("ignore:.*ran out of data")
def test_calls_of_several_steps_count_those_they_had(monkeypatch):
    def no_gradients(denoising, variables, batch, scale, sums):
        losses = batch["example_weight"]
        gradients = [keras.ops.zeros_like(v.value) for v in variables]
        return keras.ops.sum(losses), gradients, sums(losses, batch)

    # Quicker to compile than the networks.
    monkeypatch.setattr(train_step, "loss_and_gradients", no_gradients)
    # The text encoder stops after 2 steps, the data ends after 4, and the
    # training after 6: all of them within a call.
    encoder = keras_sdft.training.TextEncoder(stop_step=2)
    trainer = keras_sdft.Trainer(
        both.model(), train=["diffusion_model", encoder]
    )
    trainer.compile(keras.optimizers.SGD(0.1), steps_per_execution=3)
    positions = []
    record = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda _, logs: positions.append(
            tuple(trainer.progress.position)
        )
    )
    stop = keras_sdft.callbacks.StopAtStep(6)
    # Of unknown length.
    data = both.captioned(4).filter(lambda batch: True)
    trainer.fit(data, epochs=3, verbose=0, callbacks=[stop, record])
    assert positions == [(3, 0, 3), (4, 0, 4), (6, 1, 2)]
    assert stop.step == int(trainer.step) == 6
    steps = [int(one.iterations) for one in trainer.optimizer.optimizers]
    assert steps == [6, 2]


def test_weights_stay_where_gradients_are_not_finite(trained):
    before = both.arrays(trained)
    broken = both.dataset(0, 1).map(
        lambda batch: {**batch, "moments": batch["moments"] * np.nan}
    )
    with pytest.raises(ValueError, match="gradients became NaN or infinite"):
        trained.fit(broken.concatenate(both.dataset(0, 1)), verbose=0)
    after = both.arrays(trained)
    for name, value in before.items():
        if not name.startswith("metrics"):
            np.testing.assert_array_equal(value, after[name], err_msg=name)
    # And training can go on.
    trained.fit(both.dataset(0, 1), verbose=0)


def test_weights_are_there_after_a_dataset_failed(trained):
    before = both.arrays(trained)

    def broken(batch):
        bad = tf.constant(1) // (tf.size(batch["moments"]) * 0)
        return {**batch, "example_weight": tf.cast(bad, "float32")[None]}

    failing = both.dataset(0, 1).map(broken)
    with pytest.raises(tf.errors.InvalidArgumentError):
        trained.fit(failing, verbose=0)
    for name, value in both.arrays(trained).items():
        if not name.startswith("metrics"):
            np.testing.assert_array_equal(value, before[name], err_msg=name)


@pytest.fixture
def two_devices():
    assert len(keras.distribution.list_devices()) == 2
    yield keras_sdft.distribution.use
    keras_sdft.distribution.use("none")


@pytest.mark.parametrize("strategy", ["data_parallel", "fully_sharded"])
def test_two_devices_train_as_one(
    two_devices, tensorflow_side, compare, strategy, tmp_path
):
    two_devices(strategy)
    trainer = resumed(tensorflow_side)
    trainer.fit(both.dataset(2, 4), epochs=2, verbose=0)
    compare(trainer)
    weights = [v.value for v in trainer.trainable_variables]
    here = sum(w.addressable_shards[0].data.nbytes for w in weights)
    share = here / sum(w.nbytes for w in weights)
    assert share == 1 if strategy == "data_parallel" else share < 0.6
    exported = keras_sdft.StableDiffusion.from_preset(
        str(trainer.export(tmp_path / "exported")), 64, 64
    )
    averages = trainer.weight_average.weights
    for own, average in zip(
        exported.diffusion_model.weights, averages, strict=True
    ):
        np.testing.assert_array_equal(np.asarray(own), np.asarray(average))
    with pytest.raises(ValueError, match="2 \\* 2. Received: batch size 6. "):
        trainer.fit(both.dataset(0, 1).map(_six_rows), verbose=0)


def _six_rows(batch):
    return {
        name: tf.concat([value, value[:2]], 0) for name, value in batch.items()
    }


def test_the_longest_axis_is_divided():
    assert devices.sharded_axes((3, 3, 320, 640), 4) == [
        None,
        None,
        None,
        "batch",
    ]
    assert devices.sharded_axes((1000, 63), 2) == ["batch", None]
    assert devices.sharded_axes((63, 63), 2) == [None, None]
    assert devices.sharded_axes((320,), 2) == [None]


def test_engines_of_tensorflow_are_refused_by_name():
    with pytest.raises(ValueError, match="for Keras' backend 'tensorflow'"):
        keras_sdft.distribution.use("mirrored")
