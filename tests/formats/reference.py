"""What the golden files hold, and the headers of published models."""

import math
import os
from pathlib import Path

import numpy as np

from keras_sdft.formats import safetensors_files
from keras_sdft.formats.ldm_names import original_keys
from keras_sdft.formats.safetensors_files import Tensor
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


def transformers_shapes(name, layers):
    """As `single_file_shapes`, the text encoder with transformers' keys."""
    spec = PRESETS[name].spec
    shapes = {
        key: shape
        for key, shape in single_file_shapes(name).items()
        if not key.startswith("cond_stage_model.")
    }
    rows = component_rows("text_encoder", spec)
    found = {row.theirs: row.shape for row in rows}
    first = "text_model.encoder.layers.0."
    for key, shape in list(found.items()):
        if key.startswith(first):
            for layer in range(spec.text_encoder.depth, layers):
                found[key.replace(".0.", f".{layer}.", 1)] = shape
    stem = "cond_stage_model.transformer."
    return shapes | {stem + key: shape for key, shape in found.items()}


def full_size_file(path, shapes, **metadata):
    """Writes a header over a hole: 2 GB that take no room."""
    tensors = {key: Tensor(shape, "F16", None) for key, shape in shapes.items()}
    header = safetensors_files._header(
        sorted(tensors), tensors, "float16", metadata
    )
    path.write_bytes(header)
    size = sum(2 * math.prod(shape) for shape in shapes.values())
    os.truncate(path, len(header) + size)
    return path
