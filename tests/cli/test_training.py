"""Groups of options reach the trainer, the optimizer and `fit`."""

import types

import pytest

import keras_sdft
from keras_sdft import training
from keras_sdft.cli.run import make_trainer
from keras_sdft.cli.run import parts_of
from keras_sdft.cli.run import resolve_defaults
from keras_sdft.cli.train import Captioned
from keras_sdft.runs import RunData
from tests.cli.options import options_of
from tests.cli.options import subject_of


@pytest.fixture
def trained(monkeypatch):
    """Makes a trainer of flags; returns what it was made with."""
    seen = types.SimpleNamespace()

    class Trainer:
        def __init__(self, sd, **arguments):
            seen.arguments = arguments

        def compile(self, optimizer, **arguments):
            seen.optimizer = optimizer
            seen.compiled = arguments

    monkeypatch.setattr(keras_sdft, "Trainer", Trainer)

    def make(**changes):
        make_trainer(options_of(**changes), None, steps=100)
        return seen

    return make


def test_flags_reach_the_trainer(trained):
    seen = trained(
        loss="huber",
        offset_noise=0.1,
        train_text_encoder=True,
        gradient_accumulation_steps=2,
        ema_decay=0.99,
        seed=3,
    ).arguments
    assert seen.pop("objective") == training.Objective(loss="huber")
    assert seen.pop("noise") == training.Noise(offset_noise=0.1)
    names = [part.name for part in seen.pop("train")]
    assert names == ["diffusion_model", "text_encoder"]
    assert seen == {
        "gradient_accumulation_steps": 2,
        "ema_decay": 0.99,
        "seed": 3,
    }


def test_the_optimizer_is_made_of_its_group(trained):
    seen = trained(
        optimizer="schedule_free_adamw",
        learning_rate=1e-4,
        adam_beta1=0.8,
        max_grad_norm=0.5,
        jit_compile=True,
    )
    optimizer = seen.optimizer
    assert type(optimizer).__name__ == "ScheduleFreeAdamW"
    assert float(optimizer.learning_rate) == pytest.approx(1e-4)
    assert (optimizer.beta_1, optimizer.global_clipnorm) == (0.8, 0.5)
    assert seen.compiled["jit_compile"] is True
    assert trained().compiled["jit_compile"] == "auto"
    assert trained(jit_compile=False).compiled["jit_compile"] is False


def test_the_text_encoder_has_a_rate_of_its_own(trained):
    seen = trained(train_text_encoder=True).arguments
    assert seen["train"][1].optimizer is None
    seen = trained(
        train_text_encoder=True,
        learning_rate=1e-4,
        text_encoder_learning_rate=1e-5,
    )
    first, second = seen.optimizer, seen.arguments["train"][1].optimizer
    assert float(first.learning_rate) == pytest.approx(1e-4)
    assert float(second.learning_rate) == pytest.approx(1e-5)


def test_parts_decide_what_may_be_cached():
    sd = types.SimpleNamespace(img_height=64)
    assert [part.name for part in parts_of(options_of())] == ["diffusion_model"]
    assert Captioned(options_of(no_cache=True), sd).captions
    options = options_of(
        train_text_encoder=True, text_encoder_stop_step=7, no_cache=True
    )
    assert parts_of(options)[1].stop_step == 7
    assert not Captioned(options, sd).captions


@pytest.mark.parametrize(
    ("name", "rate", "decay"),
    [("adamw", 1e-5, 1e-2), ("lion", 1e-6, 1e-1), ("adafactor", 5e-4, 0.0)],
)
def test_what_the_optimizer_uses_is_saved(name, rate, decay):
    options = resolve_defaults(options_of(optimizer=name))
    assert (options.learning_rate, options.weight_decay) == (rate, decay)
    given = options_of(optimizer=name, learning_rate=3e-4, weight_decay=0.5)
    options = resolve_defaults(given)
    assert (options.learning_rate, options.weight_decay) == (3e-4, 0.5)


def test_the_last_epoch_is_validated_too():
    def frequency(steps, every):
        data = RunData(
            None, None, None, 1, 2, steps, validation_every_epochs=every
        )
        return data.validation_freq

    assert frequency(10, 1) == [1, 2, 3, 4, 5]
    assert frequency(10, 2) == [2, 4, 5]
    assert frequency(7, 2) == [2, 4]
    assert frequency(3, 5) == [2]


def test_a_part_s_learning_rate_counts_where_none_was_given():
    def rate(**changes):
        return resolve_defaults(subject_of(**changes)).learning_rate

    assert rate() == 1e-6
    own = keras_sdft.adapters.LoRAOptions(lora_rank=4).default_learning_rate
    assert rate(lora_rank=4) == own > 1e-5
    assert rate(lora_rank=4, learning_rate=1e-6) == 1e-6
