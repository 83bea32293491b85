"""Two processes over loopback train as one does, in JAX.

What they train is ended by a signal to the second, or by its kill, and gone on
with by this process.
"""

import os
import re
import signal
import types

import jax
import keras
import numpy as np
import pytest

from benchmarks._speed_workers import free_addresses
from keras_sdft import devices
from keras_sdft import processes
from keras_sdft.training.jax import rows
from tests import lost_worker
from tests import workers
from tests.jax import worker_cases

# One run of two processes is what several tests look at.
pytestmark = pytest.mark.xdist_group("workers")


def run(folder, strategy, devices):
    """Runs two processes; returns their exit codes and outputs."""
    flags = os.environ["XLA_FLAGS"].replace("count=2", f"count={devices}")
    given = {
        "PYTHONPATH": str(workers.ROOT),
        "XLA_FLAGS": flags,
        processes.ADDRESSES: ",".join(free_addresses(2)),
    }
    environments = [
        {**os.environ, **given, processes.INDEX: str(index)}
        for index in range(2)
    ]
    module = "tests.jax.worker_cases"
    return workers.run(folder, module, strategy, environments, timeout=1500)


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """Returns the folder and the outputs of what two processes trained.

    Each has two devices that divide the weights.
    """
    folder = tmp_path_factory.mktemp("workers")
    codes, outputs = run(folder, "fully_sharded", devices=2)
    assert codes == [0, 0], outputs[-1][-3000:]
    return folder, outputs


@pytest.fixture(scope="module")
def alone():
    """Returns a trainer that trained alone, its losses and its weights."""
    one = worker_cases.trainer()
    begin, losses = worker_cases.values_of(one), []
    worker_cases.train(one, losses)
    return one, losses, begin, worker_cases.values_of(one)


def test_two_processes_end_together_and_one_goes_on(both, alone):
    folder, _ = both
    one, straight, begin, end = alone
    first, second = (np.load(folder / f"worker-{i}.npz") for i in (0, 1))
    for name, value in first.items():
        np.testing.assert_array_equal(value, second[name], err_msg=name)
    np.testing.assert_array_equal(first["begin"], begin)
    position = one.restore_checkpoint(folder / "checkpoints")
    step, *start = position
    assert position == (worker_cases.STEPS // 2 + 2, 1, 2)
    np.testing.assert_array_equal(first["end"], worker_cases.values_of(one))
    # One validation more.
    losses = list(first["losses"])
    assert len(losses) == step + 1
    worker_cases.train(one, losses, start)
    np.testing.assert_allclose(losses, straight, rtol=1e-6)
    assert_ends(one, begin, end)


def assert_ends(one, begin, end):
    """Asserts that the weights are those at the end of a training."""
    apart = abs(worker_cases.values_of(one) - end)
    moved = abs(end - begin)
    assert moved.max() > 1e-2
    print(f"apart {apart.max():.1e}, {apart.mean():.1e}; {moved.max():.1e}")
    assert apart.mean() <= 1e-6 * moved.max()
    assert apart.max() <= 1e-5 * moved.max()


def test_a_killed_process_ends_the_other_and_one_goes_on(tmp_path, alone):
    one, _, begin, end = alone
    codes, outputs = run(tmp_path, "data_parallel", devices=1)
    assert codes == [2, -signal.SIGKILL], outputs[0][-3000:]
    lost = "keras-sdft: error: Another worker was lost, .* after step 2: "
    assert re.search(lost, outputs[0])
    assert "Start all again, as many or fewer" in outputs[0]
    # Before JAX ends it, after 100 seconds.
    assert lost_worker.seconds_to_the_end(tmp_path) < 60
    step, *start = one.restore_checkpoint(tmp_path / "checkpoints")
    # The checkpoint of the last step is skipped while one is written.
    assert step in (1, 2)
    worker_cases.train(one, [], start)
    assert_ends(one, begin, end)


def test_processes_that_differ_are_named(both):
    _, outputs = both
    for output in outputs:
        assert "seed is 0 on worker 0, and 1 on worker 1" in output
        assert "signal 15 after (5, 1, 2)" in output
    assert "Expected: worker=(1, 2). Received: rows 0 to 1 of 4" in outputs[1]
    assert "WorkerError: Worker 1 could not go on: ValueError" in outputs[0]


def test_the_first_process_alone_writes(both):
    folder, _ = both
    assert len(list((folder / "checkpoints").iterdir())) == 1
    assert (folder / "weights/diffusion_model.weights.h5").exists()


@pytest.mark.parametrize(
    ("owners", "strategy", "message"),
    [
        ([0, 0, 1], "data_parallel", r"as many devices. Received: \[2, 1\]"),
        ([0, 1], "fully_sharded", "each of the 2 processes has one"),
    ],
)
def test_devices_that_processes_cannot_share(
    monkeypatch, owners, strategy, message
):
    found = [types.SimpleNamespace(process_index=index) for index in owners]
    monkeypatch.setattr(jax, "devices", lambda: found)
    monkeypatch.setattr(jax, "process_count", lambda: max(owners) + 1)
    monkeypatch.setattr(jax, "local_device_count", lambda: owners.count(0))
    with pytest.raises(ValueError, match=message):
        devices.share(strategy)
    assert keras.distribution.distribution() is None


def test_processes_need_batches_of_a_known_size():
    import tensorflow as tf

    batches = tf.data.Dataset.from_tensors({"example_weight": [1.0, 1.0]})
    unknown = batches.unbatch().batch(2)
    with pytest.raises(ValueError, match="drop_remainder=True"):
        rows.of_worker(unknown, 0, 2)
    own = rows.of_worker(batches, 1, 2)
    assert own.element_spec["example_weight"].shape == (1,)
    assert own.cardinality() == 1
