"""Every check, with values on both sides of its limits."""

import numpy as np
import pytest

from keras_sdft import checks


@pytest.mark.parametrize(
    ("check", "arguments", "valid", "invalid"),
    [
        (checks.one_of, (["mse", "huber"],), ["mse"], ["mes", "", None, 1]),
        (checks.integer, (1,), [1, np.int64(7)], [0, 1.0, True, None, "1"]),
        (checks.integer, (1, 3), [1, 3], [0, 4, 2.5]),
        (checks.number, (0,), [0, 0.5, 2], [-1, float("nan"), float("inf")]),
        (checks.number, (0, 1), [0, 1], [-0.1, 1.1, True, "0", None]),
        (checks.number, (None, None, 0), [1e-9], [0, -1, float("inf")]),
        (checks.number, (0, None, None, 1), [0, 0.9], [1, -0.1]),
        (checks.text, (), ["a", " a "], ["", " ", None, 7]),
        (checks.text, (True,), [" ", ","], ["", None]),
        (checks.boolean, (), [True, False], [0, 1, None, "yes"]),
        (checks.multiple_of, (64,), [64, 512], [0, -64, 65, 64.0, None]),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_valid_values_pass_and_others_are_named(
    check, arguments, valid, invalid
):
    for value in valid:
        assert check("option", value, *arguments) == value
    for value in invalid:
        with pytest.raises(ValueError, match="^`option` must") as caught:
            check("option", value, *arguments)
        assert f"Received: option={value!r}." in str(caught.value)


def test_the_nearest_is_named():
    with pytest.raises(ValueError, match="Did you mean 'huber'"):
        checks.one_of("loss", "hubr", ["mse", "huber"])
    with pytest.raises(ValueError, match="Nearest valid: 512"):
        checks.multiple_of("resolution", 500, 64, " pixels")


def test_exactly_one_is_given():
    assert checks.exclusive(steps=3, epochs=None) == "steps"
    for steps, epochs in ((1, 2), (None, None)):
        with pytest.raises(ValueError, match="exactly one of `steps` and"):
            checks.exclusive(steps=steps, epochs=epochs)
