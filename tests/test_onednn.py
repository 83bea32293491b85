"""oneDNN is switched on, and who cannot have it is told why."""

import os
import subprocess
import sys
import types
import warnings

import pytest

from keras_sdft import onednn


@pytest.fixture
def tensorflow(monkeypatch):
    """TensorFlow as it looks once imported, on a machine without a GPU."""
    monkeypatch.delenv(onednn.VARIABLE, raising=False)
    config = types.SimpleNamespace(list_physical_devices=lambda kind: [])
    module = types.SimpleNamespace(config=config)
    monkeypatch.setitem(sys.modules, "tensorflow", module)
    monkeypatch.setattr(onednn, "is_on", lambda: False)
    return module


def silently():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        onednn.switch_on()


def test_set_if_tensorflow_comes_later(tensorflow, monkeypatch):
    monkeypatch.delitem(sys.modules, "tensorflow")
    silently()
    assert os.environ[onednn.VARIABLE] == "1"


def test_the_user_decides(tensorflow, monkeypatch):
    monkeypatch.setenv(onednn.VARIABLE, "0")
    silently()
    assert os.environ[onednn.VARIABLE] == "0"


def test_too_late_is_said(tensorflow):
    with pytest.warns(UserWarning, match="Import keras_sdft before keras"):
        onednn.switch_on()


def test_nothing_to_say(tensorflow, monkeypatch):
    monkeypatch.setattr(onednn, "is_on", lambda: True)
    silently()
    os.environ.pop(onednn.VARIABLE)
    monkeypatch.setattr(onednn, "is_on", lambda: False)
    tensorflow.config.list_physical_devices = lambda kind: [kind]
    silently()


def test_tensorflow_is_asked_by_its_own_name():
    code = (
        "import keras_sdft.onednn as o, tensorflow, sys;"
        "sys.exit(0 if o.is_on() else 1)"
    )
    for value in ("1", "0"):
        environment = {**os.environ, onednn.VARIABLE: value}
        done = subprocess.run([sys.executable, "-c", code], env=environment)
        assert done.returncode == 1 - int(value)
