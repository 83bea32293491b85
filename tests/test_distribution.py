import json
import re
import socket
import subprocess
import sys

import pytest

from keras_sdft import distribution
from keras_sdft import tf_config

HOSTS = ["a:1000", "b:2000"]


def config(jobs, kind="worker", index=0):
    return json.dumps({"cluster": jobs, "task": {"type": kind, "index": index}})


def test_reads_the_machines_with_the_chief_first(monkeypatch):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    assert tf_config.read_cluster() is None
    monkeypatch.setenv("TF_CONFIG", config({"worker": HOSTS}, index=1))
    assert tf_config.read_cluster() == (tuple(HOSTS), 1)
    assert distribution.others("auto") == HOSTS[:1]
    assert distribution.others("mirrored") == []
    jobs = {"worker": HOSTS, "chief": ["c:1"]}
    monkeypatch.setenv("TF_CONFIG", config(jobs))
    assert tf_config.read_cluster() == (("c:1", *HOSTS), 1)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "no description of machines: JSONDecodeError"),
        ("[]", "no description of machines"),
        ('{"cluster": {}}', "KeyError: 'task'"),
        (config({"worker": HOSTS}, "ps"), "type 'ps'"),
        (config({"worker": HOSTS, "ps": ["c:1"]}), r"jobs \['ps', 'worker'\]"),
        (config({"worker": HOSTS}, index=2), "index 2 of 2 'worker'"),
        (config({"worker": ["a"]}), "HOST:PORT. Received: 'a'"),
        (config({"worker": ["a:1", "a:1"]}), "Received: 'a:1' twice"),
    ],
)
def test_refuses_a_wrong_description(monkeypatch, text, message):
    monkeypatch.setenv("TF_CONFIG", text)
    with pytest.raises(ValueError, match=message):
        distribution.use("multi_worker")


def test_names_a_port_that_is_in_use(monkeypatch):
    with socket.socket() as other:
        other.bind(("", 0))
        other.listen()
        address = f"localhost:{other.getsockname()[1]}"
        jobs = {"worker": [address, "b:1"]}
        monkeypatch.setenv("TF_CONFIG", config(jobs))
        with pytest.raises(ValueError, match="another process uses that port"):
            distribution.use("multi_worker")


def test_says_what_a_strategy_needs(monkeypatch):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    needed = "needs the environment variable TF_CONFIG.* use strategy=none"
    with pytest.raises(ValueError, match=needed):
        distribution.use("multi_worker")
    with pytest.raises(ValueError, match="Did you mean 'mirrored'"):
        distribution.use("miror")
    with pytest.raises(ValueError, match="Keras' backend 'jax'"):
        distribution.use("fully_sharded")
    monkeypatch.setattr(distribution, "_backend", lambda: "jax")
    with pytest.raises(ValueError, match="Keras' backend 'tensorflow'"):
        distribution.use("mirrored")


def test_one_machine_without_gpus_trains_alone(monkeypatch):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    assert distribution.use("auto") is None
    assert distribution.worker() == (0, 1)
    assert distribution.is_chief()
    assert distribution.num_devices() == 1
    distribution.barrier()
    distribution.check_alike({"seed": 0})


@pytest.fixture
def two_workers(monkeypatch):
    """Makes this process the first of two; returns what both tell."""
    told = []

    def gathered(text):
        return [text, *told]

    monkeypatch.setattr(distribution, "worker", lambda: (0, 2))
    monkeypatch.setattr(distribution, "_gathered", gathered)
    return told


@pytest.mark.parametrize(
    ("name", "here", "there"),
    [
        ("seed", 0, 1),
        ("versions", {"tensorflow": "2.20"}, {"tensorflow": "2.21"}),
        ("the data", [{"images": 8}], [{"images": 7}]),
        ("a flag of a later library", 1, None),
    ],
)
def test_names_what_workers_do_not_share(two_workers, name, here, there):
    facts = {} if there is None else {name: there}
    two_workers.append(json.dumps({"same": 1, **facts}))
    message = f"{name} is {here!r} on worker 0, and {there!r} on worker 1"
    with pytest.raises(ValueError, match=re.escape(f"do not: {message}.")):
        distribution.check_alike({"same": 1, name: here})


def test_all_fail_if_one_does(two_workers):
    two_workers.append("")
    assert distribution.together(lambda: 3) == 3
    with pytest.raises(ZeroDivisionError):
        distribution.together(lambda: 1 / 0)
    two_workers[0] = "OSError: no room"
    message = "Worker 1 could not go on: OSError: no room"
    with pytest.raises(distribution.WorkerError, match=message):
        distribution.on_chief(lambda: 3)


SCRIPT = """
import tensorflow as tf
from keras_sdft import distribution

cpu = tf.config.list_physical_devices("CPU")[0]
two = [tf.config.LogicalDeviceConfiguration()] * 2
tf.config.set_logical_device_configuration(cpu, two)
strategy = distribution.use("mirrored")
assert tf.distribute.get_strategy() is strategy
assert distribution.num_devices() == 2
assert distribution.worker() == (0, 1)
distribution.use("none")
assert not tf.distribute.has_strategy()
"""


def test_uses_all_devices_until_told_otherwise():
    subprocess.run([sys.executable, "-c", SCRIPT], check=True, timeout=300)
