"""What the golden files hold, and the headers of published models."""

from pathlib import Path

import numpy as np

from keras_sdft.formats.ldm_names import original_keys
from keras_sdft.models import PRESETS
from keras_sdft.models.weight_names import COMPONENTS
from keras_sdft.models.weight_names import component_rows

GOLDEN = Path(__file__).parent / "golden"
ARCHITECTURES = ("sd1", "sd2")
_INPUT = "input_"


def golden_numbers(architecture):
    """What both sides were given, and what the other one found."""
    numbers = dict(np.load(GOLDEN / architecture / "reference.npz"))
    inputs = {
        name.removeprefix(_INPUT): array
        for name, array in numbers.items()
        if name.startswith(_INPUT)
    }
    return inputs, numbers


def single_file_shapes(name):
    """The keys and shapes of a preset as a single file of original keys."""
    spec = PRESETS[name].spec
    found = {}
    for component in COMPONENTS:
        shapes = {r.theirs: r.shape for r in component_rows(component, spec)}
        for key, original in original_keys(spec)[component].items():
            shape = shapes[key]
            if isinstance(original, tuple):
                original = original[0]
                shape = (3 * shape[0], *shape[1:])
            found[original] = shape
    return found
