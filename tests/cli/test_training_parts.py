"""Each flag of the objective and the optimizer reaches its argument."""

import functools
import types

import keras
import numpy as np
import pytest

import keras_sdft
from keras_sdft.cli.train import COMMAND
from keras_sdft.cli.training_parts import make_optimizer
from keras_sdft.cli.training_parts import make_trainer
from keras_sdft.cli.training_parts import resolve_defaults


def options_of(**changes):
    given = {"model": "tiny", "data": "photos", "output_dir": "run"}
    return resolve_defaults(COMMAND.options(**given | changes))


@pytest.fixture
def trained(monkeypatch):
    """Makes a trainer of flags; returns what it was made with."""
    seen = types.SimpleNamespace()

    class Trainer:
        def __init__(self, sd, **arguments):
            seen.arguments = arguments

        def compile(self, **arguments):
            seen.compiled = arguments

    monkeypatch.setattr(keras_sdft, "Trainer", Trainer)

    def make(**changes):
        make_trainer(options_of(**changes), None, steps=100)
        return seen

    return make


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("prediction_type", "v_prediction"),
        ("change_prediction_type", True),
        ("zero_terminal_snr", True),
        ("weighting", "debiased"),
        ("loss", "huber"),
        ("huber_delta", 0.3),
        ("offset_noise", 0.1),
        ("multires_noise_iterations", 6),
        ("multires_noise_discount", 0.8),
        ("input_perturbation", 0.1),
        ("train_text_encoder", True),
        ("text_encoder_stop_step", 7),
        ("gradient_accumulation_steps", 2),
        ("ema_decay", 0.99),
        ("seed", 3),
    ],
)
def test_flags_reach_the_trainer(trained, name, value):
    plain = trained().arguments
    given = trained(**{name: value}).arguments
    assert given[name] == value != plain[name]
    assert {k for k in plain if plain[k] != given[k]} == {name}


def test_a_plain_run_is_the_trainer_s_own(trained):
    """Without flags the trainer is what its defaults say."""
    import inspect

    from keras_sdft.training import trainer

    own = inspect.signature(trainer.Trainer.__init__).parameters
    for name, value in trained().arguments.items():
        assert value == own[name].default, name


def test_gamma_range_and_bias(trained):
    weighting = trained(weighting="min_snr", snr_gamma=2.0).arguments
    assert isinstance(weighting["weighting"], functools.partial)
    assert weighting["weighting"].keywords == {"gamma": 2.0}
    given = trained(timestep_range=[10, 500]).arguments
    assert given["timestep_range"] == (10, 500)
    given = trained(
        timestep_bias_strategy="range",
        timestep_bias_multiplier=3.0,
        timestep_bias_begin=10,
        timestep_bias_end=20,
    ).arguments["timestep_bias"]
    expected = np.ones(1000)
    expected[10:20] = 3.0
    np.testing.assert_array_equal(given, expected)
    later = trained(
        timestep_bias_strategy="later",
        timestep_bias_multiplier=2.0,
        timestep_bias_portion=0.1,
    ).arguments["timestep_bias"]
    assert later.sum() == 900 + 200 and later[-1] == 2.0


@pytest.mark.parametrize(
    ("name", "kind", "rate", "decay"),
    [
        ("adamw", "AdamW", 1e-5, 1e-2),
        ("schedule_free_adamw", "ScheduleFreeAdamW", 1e-5, 1e-2),
        ("lion", "Lion", 1e-6, 1e-1),
        ("muon", "Muon", 1e-5, 1e-2),
        ("adafactor", "Adafactor", 5e-4, 0.0),
    ],
)
def test_optimizers_by_name(trained, name, kind, rate, decay):
    options = options_of(optimizer=name)
    # What was used is what is saved with the run.
    assert (options.learning_rate, options.weight_decay) == (rate, decay)
    optimizer = trained(optimizer=name, max_grad_norm=0.5).compiled["optimizer"]
    assert type(optimizer).__name__ == kind
    assert float(optimizer.learning_rate) == pytest.approx(rate)
    assert optimizer.weight_decay == pytest.approx(decay)
    assert optimizer.global_clipnorm == 0.5
    given = options_of(optimizer=name, learning_rate=3e-4, weight_decay=0.5)
    optimizer = make_optimizer(given, 3e-4, steps=10)
    assert float(optimizer.learning_rate) == pytest.approx(3e-4)
    assert optimizer.weight_decay == 0.5


def test_moments_of_adam(trained):
    for name in ("adamw", "schedule_free_adamw"):
        optimizer = trained(
            optimizer=name,
            adam_beta1=0.8,
            adam_beta2=0.99,
            adam_epsilon=1e-6,
        ).compiled["optimizer"]
        assert optimizer.beta_1 == 0.8
        assert optimizer.beta_2 == 0.99
        assert optimizer.epsilon == 1e-6


def rates(optimizer, steps):
    schedule = optimizer._learning_rate
    return [float(schedule(step)) for step in steps]


@pytest.mark.parametrize(
    ("flags", "steps", "expected"),
    [
        ({"lr_scheduler": "linear"}, (0, 50, 100), (1e-4, 5e-5, 0)),
        (
            {"lr_scheduler": "linear", "lr_warmup_steps": 20},
            (0, 10, 20, 60),
            (0, 5e-5, 1e-4, 5e-5),
        ),
        ({"lr_scheduler": "cosine"}, (0, 50, 100), (1e-4, 5e-5, 0)),
        (
            {"lr_scheduler": "cosine_with_restarts", "lr_num_cycles": 2},
            (0, 25, 50, 75),
            (1e-4, 5e-5, 1e-4, 5e-5),
        ),
        (
            {"lr_scheduler": "polynomial", "lr_power": 2.0, "lr_end": 2e-5},
            (0, 50, 100),
            (1e-4, 4e-5, 2e-5),
        ),
        ({"lr_warmup_steps": 10}, (0, 5, 10, 99), (0, 5e-5, 1e-4, 1e-4)),
    ],
)
def test_schedules(trained, flags, steps, expected):
    optimizer = trained(learning_rate=1e-4, **flags).compiled["optimizer"]
    assert rates(optimizer, steps) == pytest.approx(expected, abs=1e-10)


def test_a_constant_rate_is_a_plain_number(trained):
    optimizer = trained(learning_rate=1e-4).compiled["optimizer"]
    assert not isinstance(
        optimizer._learning_rate,
        keras.optimizers.schedules.LearningRateSchedule,
    )


def test_the_text_encoder_has_a_rate_of_its_own(trained):
    seen = trained(train_text_encoder=True)
    assert seen.compiled["text_encoder_optimizer"] is None
    seen = trained(
        train_text_encoder=True,
        learning_rate=1e-4,
        text_encoder_learning_rate=1e-5,
        lr_scheduler="polynomial",
        lr_end=2e-5,
    )
    first = seen.compiled["optimizer"]
    second = seen.compiled["text_encoder_optimizer"]
    assert second is not first
    # Both fall to a fifth.
    assert rates(first, (0, 100)) == pytest.approx([1e-4, 2e-5])
    assert rates(second, (0, 100)) == pytest.approx([1e-5, 2e-6])


def test_xla_reaches_compile(trained):
    assert trained().compiled["jit_compile"] is False
    assert trained(jit_compile=True).compiled["jit_compile"] is True
