"""Two devices train as one does, in a process of their own."""

import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from keras_sdft import data
from keras_sdft.training import workers
from keras_sdft.training.tensorflow import replicas

ROOT = Path(__file__).resolve().parents[2]


# One process computes what all tests of this file look at.
pytestmark = pytest.mark.xdist_group("replicas")


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    path = tmp_path_factory.mktemp("replicas") / "found.json"
    run = subprocess.run(
        [sys.executable, "-m", "tests.training.replica_cases", str(path)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert run.returncode == 0, run.stderr[-4000:]
    return json.loads(path.read_text())


# SGD follows the gradients themselves: to a millionth of the movement, or the
# rounding of a weight of 1. Others divide by them, so that single weights,
# whose gradient is nearly zero, may differ more.
ROUNDING = 1.2e-7
LIMITS = {
    "gradients": (ROUNDING, 1e-9),
    "buckets and one row": (1e-8, 1e-9),
    "adamw, schedule-free": (1e-4, 1e-8),
    "muon, adafactor": (1e-4, 1e-8),
    "lion in float16": (1e-5, 1e-7),
    "resumed": (1e-8, 1e-9),
}


@pytest.mark.parametrize("name", LIMITS)
def test_two_devices_train_as_one(found, name):
    case, (largest, mean) = found[name], LIMITS[name]
    assert case["max"] <= largest
    assert case["mean"] <= mean
    assert case["moved"] > 1e-6


def test_devices_have_the_same_weights_bit_for_bit(found):
    alike = [found[name]["alike"] for name in LIMITS if name != "resumed"]
    assert len(alike) == 5
    assert all(alike)


def test_logs_are_those_of_one_device(found):
    apart = [found[name]["logs"] for name in LIMITS if name != "resumed"]
    assert max(apart) < 1e-6


def test_generates_the_same_images(found):
    assert found["images"] <= 1


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("eager", "`run_eagerly=True` is for one device"),
        ("steps", "Received: steps_per_execution=2"),
        ("optimizer", "was made outside of the strategy"),
        ("model", "was made outside of the strategy"),
        ("trainer", "was made outside of the strategy"),
        ("strategy", "Received: CentralStorageStrategy"),
        ("part on one", "Expected: worker=(0, 1). Received: rows 0 to 7 of 16"),
        ("part on two", "Expected: worker=(0, 1). Received: rows 0 to 7 of 16"),
        ("batch", "One batch alone"),
    ],
)
def test_refuses_what_several_devices_cannot_do(found, name, message):
    assert message in found["refused"][name]


def rows_of_workers(batch, workers, each, micro_batches=1):
    """Returns the rows of each replica of each worker."""
    found = []
    for index in range(workers):
        context = tf.distribute.InputContext(workers, index, workers * each)
        rows = replicas._rows_of_replicas(batch, context, micro_batches)
        for replica in range(each):
            found.append({k: v[replica].numpy() for k, v in rows.items()})
    return found


@pytest.mark.parametrize(
    ("size", "workers", "each", "micro_batches", "rows"),
    [(8, 2, 2, 1, 2), (8, 1, 2, 2, 4), (3, 2, 2, 1, 1), (5, 2, 1, 3, 3)],
)
def test_rows_are_shown_once_in_their_order(
    size, workers, each, micro_batches, rows
):
    batch = {
        "moments": tf.range(size),
        "example_weight": tf.ones(size) + tf.range(size, dtype="float32"),
    }
    found = rows_of_workers(batch, workers, each, micro_batches)
    joined = {k: np.concatenate([b[k] for b in found]) for k in found[0]}
    assert {len(part["place"]) for part in found} == {rows}
    np.testing.assert_array_equal(joined["moments"], joined["place"])
    np.testing.assert_array_equal(joined["place"][:size], np.arange(size))
    np.testing.assert_array_equal(
        joined["example_weight"][:size], np.arange(size) + 1.0
    )
    assert not joined["example_weight"][size:].any()
    assert set(joined["whole"]) == {size}


def test_a_worker_s_rows_are_split_among_its_devices_alone():
    batch = {
        "moments": tf.range(4, 8),
        "example_weight": tf.ones(4),
        "place": tf.range(4, 8),
        "whole": tf.fill([4], 8),
    }
    context = tf.distribute.InputContext(2, 1, 4)
    rows = replicas._rows_of_replicas(batch, context, 1)
    np.testing.assert_array_equal(rows["place"], [[4, 5], [6, 7]])
    np.testing.assert_array_equal(rows["moments"], rows["place"])


@pytest.mark.parametrize(
    ("index", "count", "refused"), [(1, 2, False), (0, 2, True), (1, 3, True)]
)
def test_looks_whose_rows_a_dataset_has(index, count, refused):
    rows = {"place": tf.range(4, 8), "whole": tf.fill([4], 8)}
    dataset = tf.data.Dataset.from_tensors(rows)
    context = contextlib.nullcontext()
    if refused:
        context = pytest.raises(ValueError, match="Received: rows 4 to 7 of 8")
    with context:
        workers.check_rows(dataset, index, count)


def test_a_look_at_the_rows_is_no_epoch(make_micro):
    images = [
        (np.full((64, 64, 3), 20 * shade, np.uint8), "a cat")
        for shade in range(8)
    ]
    dataset = data.load(
        images,
        make_micro().tokenizer,
        resolution=64,
        batch_size=8,
        worker=(1, 2),
    )
    shown = [next(iter(dataset))["images"].numpy() for _ in range(2)]
    assert not np.array_equal(*shown)
    dataset.passes.begin()
    again = []
    for _ in range(2):
        workers.check_rows(dataset, 1, 2)
        again.append(next(iter(dataset))["images"].numpy())
    np.testing.assert_array_equal(again, shown)
