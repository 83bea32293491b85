import os
import shutil
import subprocess
import sys
import threading

import pytest
import tensorflow as tf

from keras_sdft.data import cause_of
from keras_sdft.data import load
from keras_sdft.data.shutdown import Calls

LEAVES_AN_ITERATOR = """
import sys
import numpy as np
sys.path.insert(0, {package!r})
from keras_sdft import data

class Tokenizer:
    max_length, end_of_text = 77, 0
    def encode(self, text): return [1, 0]
    def pad(self, ids): return np.zeros(77, np.int32)

image = np.random.default_rng(0).integers(0, 256, (900, 900, 3), np.uint8)
stream = iter(data.load([(image, "a")] * 64, Tokenizer(), repeat=True))
next(stream)
print("reached the end")
"""


def test_a_process_ends_with_a_stream_half_read():
    package = os.path.dirname(os.path.dirname(os.path.dirname(__file__)))
    done = subprocess.run(
        [sys.executable, "-c", LEAVES_AN_ITERATOR.format(package=package)],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert "reached the end" in done.stdout
    assert "Traceback" not in done.stderr


def test_close_waits_for_calls_and_cuts_later_ones_short():
    calls = Calls()
    begun, done = threading.Event(), []

    def slow(value):
        begun.set()
        threading.Event().wait(0.2)
        done.append(value)
        return value

    guarded = calls.guard(slow, at_end=lambda value: -value)
    thread = threading.Thread(target=guarded, args=(3,))
    thread.start()
    begun.wait()
    calls.close()
    assert done == [3]
    assert guarded(4) == -4
    assert calls.guard(slow)(5) == 5
    thread.join()


def test_what_a_pipeline_raised_is_found_in_tensorflow_s_error(
    numbered, tokenizer
):
    dataset = iter(
        load(numbered, tokenizer, resolution=64, batch_size=2, repeat=True)
    )
    next(dataset)
    shutil.rmtree(numbered)
    with pytest.raises(tf.errors.OpError) as error:
        for _ in range(500):
            next(dataset)
    cause = cause_of(error.value)
    assert isinstance(cause, OSError)
    assert str(cause).startswith("100 images in a row could not be read")
    assert "the file does not exist" in str(cause)
    assert cause_of(ValueError("another")) is None
