import math

import keras
import numpy as np
import pytest

from keras_sdft.training import AdamW
from keras_sdft.training import schedules

TOTAL, WARM = 20, 4


def progress(step):
    return (step - WARM) / (TOTAL - WARM)


def restarts(step):
    if progress(step) >= 1.0:
        return 0.0
    return 0.5 * (1 + math.cos(math.pi * ((3 * progress(step)) % 1.0)))


def polynomial(step):
    if step > TOTAL:
        return 1e-3
    return (1e-2 - 1e-5) * (1 - progress(step)) ** 2 / 1e-2 + 1e-3


# The multipliers of the field's schedules after warm-up.
FORMULAS = {
    "constant": lambda step: 1.0,
    "linear": lambda step: max(0.0, (TOTAL - step) / (TOTAL - WARM)),
    "cosine": lambda step: max(
        0.0, 0.5 * (1 + math.cos(math.pi * 0.5 * 2 * progress(step)))
    ),
    "cosine_with_restarts": restarts,
    "polynomial": polynomial,
}


@pytest.mark.parametrize("name", schedules.SCHEDULES)
def test_schedules_equal_their_formulas(name):
    schedule = schedules.WarmUpSchedule(
        name,
        1e-2,
        TOTAL,
        WARM,
        num_cycles=3,
        power=2.0,
        end_learning_rate=1e-5,
    )
    # Beyond the end every schedule stays where it ended.
    steps = [s for s in range(TOTAL + 1)]
    found = [float(schedule(step)) for step in steps]
    expected = [
        1e-2 * (step / WARM if step < WARM else FORMULAS[name](step))
        for step in steps
    ]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-8)
    assert float(schedule(TOTAL + 5)) == pytest.approx(found[-1])
    again = schedules.WarmUpSchedule.from_config(schedule.get_config())
    assert float(again(7)) == float(schedule(7))


@pytest.mark.parametrize("name", schedules.SCHEDULES)
def test_no_warm_up_begins_at_the_whole_rate(name):
    schedule = schedules.WarmUpSchedule(name, 1e-2, 10)
    assert float(schedule(0)) == pytest.approx(1e-2)


def test_a_constant_rate_needs_no_end():
    schedule = schedules.WarmUpSchedule("constant", 1e-2, warmup_steps=2)
    rates = [float(schedule(step)) for step in (0, 1, 2, 1000)]
    np.testing.assert_allclose(rates, [0.0, 5e-3, 1e-2, 1e-2])


def test_an_optimizer_follows_it():
    rate = schedules.WarmUpSchedule("linear", 0.1, 2)
    optimizer = AdamW(rate, weight_decay=0.0)
    variable = keras.Variable([1.0])
    seen = []
    for _ in range(3):
        optimizer.apply([np.array([1.0], "float32")], [variable])
        seen.append(float(variable[0]))
    np.testing.assert_allclose(seen, [0.9, 0.85, 0.85], rtol=1e-5)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (("cosin", 1e-3, 10), "Did you mean 'cosine'"),
        (("linear", 1e-3), "num_steps"),
        (("linear", 1e-3, 10, 10), "warmup_steps=10"),
        (("linear", 0.0, 10), "learning_rate"),
        (("constant", 1e-3, None, -1), "warmup_steps"),
        (("cosine_with_restarts", 1e-3, 10, 0, 0), "num_cycles"),
        (("polynomial", 1e-8, 10), "end_learning_rate"),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        schedules.WarmUpSchedule(*arguments)
