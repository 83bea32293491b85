"""Tests of the JAX backend, which `make test-jax` runs."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

collect_ignore_glob = []
if os.environ["KERAS_BACKEND"] == "jax":
    # Two devices for the tests that ask for them. What is compiled runs
    # once or twice, so that optimizing it does not pay.
    flags = [
        "--xla_force_host_platform_device_count=2",
        "--xla_backend_optimization_level=0",
        "--xla_llvm_disable_expensive_passes=true",
    ]
    os.environ["XLA_FLAGS"] = " ".join(flags)
else:
    collect_ignore_glob = ["test_*.py"]

ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.fixture(scope="session")
def tensorflow_side(tmp_path_factory):
    """The directory of what `both.main` computed in TensorFlow."""
    directory = tmp_path_factory.mktemp("tensorflow")
    subprocess.run(
        [sys.executable, "-m", "tests.jax.both", str(directory)],
        check=True,
        cwd=ROOT,
        env={**os.environ, "KERAS_BACKEND": "tensorflow", "PYTHONPATH": "."},
    )
    return directory
