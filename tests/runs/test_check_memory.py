import types

import pytest
import tensorflow as tf

from keras_sdft import runs
from keras_sdft.data import Report
from keras_sdft.runs import memory
from tests.cli.options import options_of

GB = 10**9


@pytest.fixture
def trainer():
    """Needs 1 GB for each image, and half of it on a GPU."""

    class FakeEstimate(types.SimpleNamespace):
        def __str__(self):
            return f"needs {self.total}"

    def memory_estimate(batch):
        images = batch["images"].shape[0]
        total, on_device = images * GB, images * GB // 2
        return FakeEstimate(
            total=total,
            on_device=on_device,
            measured=made.measured,
            gradients=GB,
            optimizer_state=made.state,
        )

    made = types.SimpleNamespace(
        memory_estimate=memory_estimate,
        measured=True,
        # AdamW keeps two numbers for each that learns.
        state=2 * GB,
        parts=["the diffusion model"],
        compute_dtype="float32",
    )
    return made


@pytest.fixture
def data():
    """Batches of two, of steps that will have four."""
    batch = {"images": tf.zeros((2, 8, 8, 3))}
    dataset = tf.data.Dataset.from_tensors(batch)
    return runs.RunData(dataset, None, Report(), 4, 1, 1)


@pytest.fixture
def has(monkeypatch):
    """Sets what the machine has."""

    def set_memory(where, size):
        monkeypatch.setattr(memory, "available_memory", lambda: (where, size))

    return set_memory


def check_memory(options, trainer, data):
    runs.check_memory(trainer, data, options.of(runs.RunOptions))


def test_enough_is_told_and_begun(trainer, data, has, capsys):
    has("CPU", 5 * GB)
    check_memory(options_of(), trainer, data)
    output = capsys.readouterr().out
    assert f"needs {4 * GB}" in output
    assert "the CPU has" in output
    assert "5.00 GB" in output


def test_too_little_is_refused_with_what_to_change(trainer, data, has):
    has("CPU", 3 * GB)
    options = options_of(batch_size=4, ema_decay=0.99)
    with pytest.raises(ValueError, match="needs about 4.0 GB") as caught:
        check_memory(options, trainer, data)
    message = str(caught.value)
    assert "the CPU has 3.0 GB" in message
    assert "--batch_size 2 --gradient_accumulation_steps 2" in message
    for flag in ("remat", "optimizer lion", "ema_decay", "check_memory false"):
        assert f"--{flag}" in message
    assert "train_text_encoder" not in message


def test_what_is_in_use_is_not_advised(trainer, data, has):
    has("CPU", 3 * GB)
    trainer.state, trainer.compute_dtype = GB, "bfloat16"
    options = options_of(remat=True, gradient_accumulation_steps=2)
    with pytest.raises(ValueError, match="Try a smaller `--resol") as caught:
        check_memory(options, trainer, data)
    for flag in ("--remat", "--optimizer", "--mixed_precision", "--batch_size"):
        assert flag not in str(caught.value)
    assert "no `--gradient_accumulation_steps`" in str(caught.value)


def test_the_refusal_can_be_switched_off(trainer, data, has, capsys):
    has("CPU", 3 * GB)
    check_memory(options_of(check_memory=False), trainer, data)
    assert "3.00 GB" in capsys.readouterr().out


def test_a_gpu_does_not_hold_the_program(trainer, data, has, capsys):
    has("GPU", 3 * GB)
    check_memory(options_of(), trainer, data)
    assert "Warning" not in capsys.readouterr().out


def test_on_a_gpu_too_little_is_a_warning(trainer, data, has, capsys):
    has("GPU", 1 * GB)
    trainer.measured = False
    check_memory(options_of(), trainer, data)
    output = capsys.readouterr().out
    assert "Warning: Training needs about 2.0 GB, and the GPU has 1.0" in output
    assert "estimate that was measured on CPUs alone" in output
    assert "`--remat`" in output


def test_what_is_not_known_is_not_refused(trainer, data, has, capsys):
    has("CPU", None)
    check_memory(options_of(), trainer, data)
    assert "not known" in capsys.readouterr().out
