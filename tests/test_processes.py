"""How processes of JAX are found, without any: JAX is not needed here."""

import subprocess
import sys
import types

import keras
import pytest

from keras_sdft import distribution
from keras_sdft import processes

SLURM = {"SLURM_STEP_NODELIST": "node[1-2]", "SLURM_NTASKS": "2"}


@pytest.mark.parametrize(
    ("environment", "named"),
    [
        ({}, False),
        ({processes.ADDRESSES: "a:1,b:1"}, True),
        ({processes.COORDINATOR: "a:1"}, True),
        (SLURM, True),
        (SLURM | {"SLURM_NTASKS": "1"}, False),
        # The script around `srun`, one process for all of them.
        ({"SLURM_NTASKS": "2", "SLURM_PROCID": "0"}, False),
        ({"OMPI_COMM_WORLD_SIZE": "2"}, True),
        ({"TPU_WORKER_HOSTNAMES": "a,b"}, True),
        ({"TPU_WORKER_HOSTNAMES": "localhost"}, False),
    ],
)
def test_finds_who_begins_several_processes(environment, named):
    assert processes.are_named(environment) is named


def test_pods_are_asked_where_jax_can(monkeypatch):
    pod = {"KUBERNETES_SERVICE_HOST": "10.0.0.1", "JOB_COMPLETION_INDEX": "0"}
    for spec in (None, object()):
        monkeypatch.setattr(
            processes.importlib.util, "find_spec", lambda name, spec=spec: spec
        )
        assert processes.are_named(pod) is (spec is not None)


def test_names_those_that_are_waited_for(monkeypatch):
    monkeypatch.setattr(distribution, "_backend", lambda: "jax")
    monkeypatch.setenv(processes.ADDRESSES, "a:1,b:1,c:1")
    monkeypatch.setenv(processes.INDEX, "1")
    assert distribution.others("fully_sharded") == ["a:1", "c:1"]
    assert distribution.others("none") == []


@pytest.fixture
def jax(monkeypatch):
    """A JAX that is not connected; returns how it was asked to be."""
    asked = []

    def initialize(**options):
        asked.append(options)
        if isinstance(asked[0], Exception):
            raise asked[0]

    made = types.ModuleType("jax")
    made.distributed = types.SimpleNamespace(is_initialized=lambda: False)
    made.config = types.SimpleNamespace(update=lambda *_: None)
    monkeypatch.setitem(sys.modules, "jax", made)
    monkeypatch.setattr(keras.distribution, "initialize", initialize)
    for name in (processes.ADDRESSES, processes.COORDINATOR):
        monkeypatch.delenv(name, raising=False)
    return asked


def test_connects_what_the_environment_names(jax, monkeypatch):
    processes.start()
    assert jax == []
    monkeypatch.setenv(processes.ADDRESSES, "a:1,b:1")
    processes.start()
    assert jax == [{"num_processes": 2}]


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (
            RuntimeError("initialize() must be called before any JAX calls"),
            "Call `keras_sdft.distribution.use\\(\\)` first",
        ),
        (
            ValueError("Number of processes must be defined."),
            "names: Number of processes must be defined. Expected KERAS_DIST",
        ),
    ],
)
def test_says_what_is_missing(jax, monkeypatch, error, message):
    jax.append(error)
    monkeypatch.setenv(processes.COORDINATOR, "a:1")
    with pytest.raises(ValueError, match=message):
        processes.start()


SCRIPT = """
import sys
import threading
import time
from keras_sdft import distribution

def write():
    time.sleep(0.5)
    print("written")

distribution._backend = lambda: "jax"
threading.Thread(target=write).start()
distribution.leave(distribution.WorkerError(), 2)
print("here")
distribution.leave(distribution.LostWorkerError(), 3)
print("not here")
"""


def test_leaves_lost_workers_when_all_is_written():
    command = [sys.executable, "-c", SCRIPT]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stdout) == (3, "here\nwritten\n")
