"""Models and trainers that were dropped leave nothing behind."""

import ctypes
import gc
import os
import sys

import pytest
from tensorflow.python.framework.func_graph import FuncGraph

from keras_sdft import StableDiffusion
from keras_sdft import Trainer

_STATM = "/proc/self/statm"


def resident_bytes():
    """Returns what is in memory after all that can be freed was."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    with open(_STATM) as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def make_and_drop():
    model = StableDiffusion.from_preset("tiny")
    trainer = Trainer(model)
    trainer.compile()
    trainer.optimizer.build(trainer.trainable_variables)
    return [weight.value.name for weight in model.diffusion_model.weights]


# pytest keeps every warning.
@pytest.mark.filterwarnings("ignore")
@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason=f"reads {_STATM}")
def test_dropped_trainers_leave_no_memory_behind():
    sizes = []
    for _ in range(23):
        make_and_drop()
        # Each time: what is freed late leaves holes.
        sizes.append(resident_bytes())
    assert (sizes[-1] - sizes[2]) / 20 < 2**20


@pytest.mark.slow
def test_a_dropped_training_leaves_no_graph_behind(make_micro, make_dataset):
    def train_and_drop():
        trainer = Trainer(make_micro())
        trainer.compile()
        trainer.fit(make_dataset(batch_size=1), verbose=0)

    def graphs():
        gc.collect()
        return sum(isinstance(o, FuncGraph) for o in gc.get_objects())

    train_and_drop()
    before = graphs()
    train_and_drop()
    assert graphs() == before


def test_variables_have_the_same_names_in_every_model():
    # TensorFlow keeps something for each name for ever.
    assert make_and_drop() == make_and_drop()
