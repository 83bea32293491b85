"""Two processes over loopback train as one does."""

import re
import shutil
import signal
import types

import numpy as np
import pytest

from keras_sdft.training.tensorflow import signals
from tests import lost_worker
from tests import workers

# One process trains what several tests look at.
pytestmark = pytest.mark.xdist_group("workers")


def run(folder, case, count):
    """Runs the workers of a case; returns their exit codes and outputs."""
    folder.mkdir(exist_ok=True)
    module = "tests.training.worker_cases"
    return workers.run(folder, module, case, workers.environments(count))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("workers")


@pytest.fixture(scope="module")
def alone(folder):
    """Returns the folder of what a process trained alone."""
    codes, outputs = run(folder / "1", "equal", 1)
    assert codes == [0], outputs[0][-3000:]
    return folder / "1"


@pytest.fixture(scope="module")
def both(folder):
    """Returns the folder of what two processes trained."""
    codes, outputs = run(folder / "2", "equal", 2)
    assert codes == [0, 0], outputs[-1][-3000:]
    return folder / "2"


def test_two_workers_train_as_one(alone, both):
    one = np.load(alone / "worker-0-of-1.npy")
    first, second = (
        np.load(both / f"worker-{index}-of-2.npy") for index in (0, 1)
    )
    np.testing.assert_array_equal(first, second)
    np.testing.assert_allclose(first, one, rtol=0, atol=1e-8)


def test_steps_know_how_many_rows_they_have(both):
    for index in (0, 1):
        printed = (both / workers.OUTPUT.format(index)).read_text()
        # Of 8; kernels, such as attention in parts, are chosen by it.
        assert "traced for 4\n" in printed


def test_the_first_worker_alone_writes(alone, both):
    names = {path.name for path in alone.iterdir() if path.suffix != ".npy"}
    found = {path.name for path in both.iterdir() if path.suffix != ".npy"}
    assert found - {workers.OUTPUT.format(1)} == names
    assert len(list((both / "checkpoints").iterdir())) == 2
    histories = [(where / "history.csv").read_text() for where in (alone, both)]
    rows = [
        np.loadtxt(text.splitlines()[1:], delimiter=",", ndmin=2)
        for text in histories
    ]
    np.testing.assert_allclose(*rows, rtol=1e-6)


def test_a_signal_to_any_worker_ends_all_after_the_same_step(folder, alone):
    codes, outputs = run(folder / "signals", "signals", 2)
    assert codes == [0, 0], outputs[0][-3000:]
    for output in outputs:
        # Each is told by the next step: of training, then of validation.
        assert "signal 15 after step 2, batch [0, 2]" in output
        assert "signal 2 after step 3, batch [0, 3]" in output
    found, expected = (
        np.load(path)
        for path in (
            folder / "signals/worker-1-of-2.npy",
            alone / "worker-0-of-1.npy",
        )
    )
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-8)


@pytest.mark.parametrize(
    ("received", "told"),
    [
        ([None, None], None),
        ([None, signal.SIGINT], 2),
        ([signal.SIGINT] * 3, 2),
        ([signal.SIGINT, signal.SIGTERM, None], 15),
    ],
)
def test_a_sum_tells_which_signals_there_are(received, told):
    workers = [types.SimpleNamespace(received=n, told=None) for n in received]
    total = sum(signals.received(worker) for worker in workers)
    for worker in workers:
        signals.tell(worker, total)
        assert worker.told == told


def test_a_lost_worker_ends_the_others_and_one_goes_on(folder, alone):
    codes, outputs = run(folder / "lost", "lost", 2)
    assert codes == [2, -signal.SIGKILL], outputs[0][-3000:]
    assert "keras-sdft: error: Another worker was lost" in outputs[0]
    assert "after step 2" in outputs[0]
    assert "Start all again, as many or fewer" in outputs[0]
    # It is told by TensorFlow, which waits for signs of life.
    assert lost_worker.seconds_to_the_end(folder / "lost") < 120
    codes, outputs = run(folder / "lost", "resumed", 1)
    assert codes == [0], outputs[0][-3000:]
    # The checkpoint of the last step is skipped while one is written.
    assert re.search("goes on after step [12]$", outputs[0], re.MULTILINE)
    found, expected = (
        np.load(path / "worker-0-of-1.npy") for path in (folder / "lost", alone)
    )
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-8)
    shutil.rmtree(folder / "lost")


def test_workers_that_differ_are_named(folder):
    codes, outputs = run(folder / "alike", "alike", 2)
    assert codes == [2, 2]
    for output in outputs:
        assert "seed is 0 on worker 0, and 1 on worker 1" in output
        assert "Expected: worker=(1, 2). Received: rows 0 to 3 of 8" in output
    assert "Worker 1 could not go on: ValueError" in outputs[0]
