"""Our losses, gradients and optimizer steps against diffusers' and torch's.

The numbers were written by `benchmarks/parity.py --golden`; of each tensor
its norm and its products with random directions are kept.
"""

import numpy as np
import pytest

from benchmarks import _parity_ours as parity
from benchmarks._parity_models import CASES
from benchmarks._parity_models import OPTIMIZER_STEPS
from benchmarks._parity_models import projections
from tests.formats.reference import ARCHITECTURES
from tests.formats.reference import GOLDEN
from tests.formats.reference import golden_numbers


@pytest.fixture(scope="module", params=ARCHITECTURES)
def golden(request):
    inputs, numbers = golden_numbers(request.param)
    return parity.load(GOLDEN / request.param, inputs), inputs, numbers


def largest_error(tensors, reference):
    """Of any tensor, relative to its norm."""
    difference = projections(tensors) - reference
    return float((np.abs(difference).max(1) / reference[:, 0]).max())


@pytest.mark.parametrize("prediction_type, gamma", CASES)
def test_losses_and_gradients(prediction_type, gamma, golden):
    model, inputs, numbers = golden
    training = parity.Training(model, inputs, prediction_type, gamma)
    loss, gradients = training.gradients(0)
    case = f"{prediction_type}_{gamma:g}"
    assert loss == pytest.approx(numbers[f"losses_{case}"][0], rel=1e-5)
    tensors = training.in_their_layout(gradients)
    # Measured 1e-5 and below.
    assert largest_error(tensors, numbers[f"gradients_{case}"]) < 1e-4


def test_min_snr_is_seen_by_these_tests(golden):
    """The first batch has an example below and one above the ceiling."""
    _, _, numbers = golden
    for prediction_type in ("epsilon", "v_prediction"):
        plain = numbers[f"losses_{prediction_type}_0"][0]
        weighted = numbers[f"losses_{prediction_type}_5"][0]
        assert abs(weighted / plain - 1) > 0.01


def test_steps_of_adamw_with_clipping():
    architecture = "sd1"
    inputs, numbers = golden_numbers(architecture)
    model = parity.load(GOLDEN / architecture, inputs)
    prediction_type = model.spec.prediction_type
    training = parity.Training(model, inputs, prediction_type, 5.0)
    before = projections(training.in_their_layout(training.variables))
    losses = training.take_steps(OPTIMIZER_STEPS)
    case = f"{prediction_type}_5"
    np.testing.assert_allclose(losses, numbers[f"losses_{case}"][1:], rtol=1e-5)
    after = training.in_their_layout(training.variables)
    wanted = numbers[f"trained_{case}"]
    assert largest_error(after, wanted) < 1e-4
    # The weights did go somewhere.
    assert (np.abs(before - wanted)[:, 1:].max(1) > 1e-4).all()
