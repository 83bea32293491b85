"""Freed memory stays with the process, whatever TensorFlow set before."""

import os
import subprocess
import sys

import pytest

from keras_sdft import host_memory

PROGRAM = """
import ctypes, resource, sys
from keras_sdft import host_memory

libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
libc.malloc.argtypes = [ctypes.c_size_t]
libc.free.argtypes = [ctypes.c_void_p]

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(100):
        buffer = libc.malloc(2**20)
        ctypes.memset(buffer, 0, 2**20)
        libc.free(buffer)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

# As TensorFlow does.
libc.mallopt(-1, 128 * 1024)
given_back = faults()
host_memory.keep_freed_memory()
print(given_back, faults())
"""


def run(program, **environment):
    return subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's malloc")
def test_freed_memory_is_used_again():
    # Of 256 pages each time.
    given_back, kept = map(int, run(PROGRAM))
    assert given_back > 10_000
    assert kept < 1_000


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's malloc")
def test_what_the_user_has_set_stays():
    given_back, kept = map(int, run(PROGRAM, MALLOC_TRIM_THRESHOLD_="131072"))
    assert min(given_back, kept) > 10_000


def test_other_c_libraries_are_left_alone(monkeypatch):
    monkeypatch.setattr(host_memory.ctypes, "CDLL", lambda _: object())
    host_memory.keep_freed_memory()


GENERATOR = """
import keras_sdft
import numpy as np
import tensorflow as tf
from keras_sdft import host_memory

done = []
host_memory.keep_freed_memory = lambda: done.append(1)
trainer = keras_sdft.Trainer(keras_sdft.StableDiffusion.from_preset("tiny"))
trainer.compile()
batch = {
    "moments": np.zeros((1, 8, 8, 8), "float32"),
    "context": np.zeros((1, 77, 128), "float32"),
    "example_weight": np.ones(1, "float32"),
}
spec = tf.nest.map_structure(lambda x: tf.TensorSpec(x.shape, x.dtype), batch)
dataset = tf.data.Dataset.from_generator(
    lambda: iter([batch] * 2), output_signature=spec
)
for _ in range(2):
    trainer.fit(dataset, verbose=0)
print(len(done))
"""


def test_every_dataset_of_a_training_is_followed_by_it():
    assert run(GENERATOR) == ["2"]
