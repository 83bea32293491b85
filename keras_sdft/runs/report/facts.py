"""`report.json`: what a run's report shows and no other file of it has.

Must not know how it is shown.
"""

import importlib
import json
import platform
import resource
import statistics
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from keras_sdft import devices
from keras_sdft.files import write_text
from keras_sdft.parsing import DamagedFile
from keras_sdft.parsing import read_json
from keras_sdft.reprs import data_uri
from keras_sdft.runs.record import FACTS
from keras_sdft.runs.report.images import MAX_SIDE
from keras_sdft.version import __version__

_EXAMPLES = 5
_NAMES = 5
# Of so many images at most, captions are counted: an image that is fetched
# with its caption takes a while.
_CAPTIONS = 500
_BARS = 10


def read_facts(directory: str | Path) -> dict[str, Any]:
    """Returns what a run noted for its report; empty if it did not."""
    try:
        return read_json(Path(directory) / FACTS)
    except (OSError, DamagedFile):
        return {}


def note_facts(directory: str | Path, **facts: Any) -> None:
    """Adds to what a run notes for its report.

    Args:
        directory: The run's directory.
        **facts: Plain values; what has the same name is replaced.
    """
    content = json.dumps({**read_facts(directory), **facts}, indent=1)
    write_text(Path(directory) / FACTS, content + "\n")


def changed_settings(
    values: Mapping[str, Any], defaults: Mapping[str, Any]
) -> dict[str, list[Any]]:
    """Returns the settings that differ from their defaults.

    Args:
        values: Plain values by name.
        defaults: Likewise; what has no default always differs.

    Returns:
        Dict of pairs of value and default (`None` for none), by name.
    """
    plain = {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in defaults.items()
    }
    return {
        name: [value, plain.get(name)]
        for name, value in values.items()
        if name not in plain or plain[name] != value
    }


def machine_facts() -> dict[str, str]:
    """Returns the software and the device, by what it is."""
    import keras

    names = {"jax": "JAX", "tensorflow": "TensorFlow"}
    backend = keras.backend.backend()
    gpus = devices.accelerators()
    return {
        "keras_sdft": __version__,
        "Keras": keras.__version__,
        names[backend]: importlib.import_module(backend).__version__,
        "Python": platform.python_version(),
        "device": ", ".join(gpus) or f"CPU ({platform.machine()})",
    }


def peak_memory() -> dict[str, int]:
    """Returns the most bytes that this process has held, by where."""
    # Of Linux in kB, of macOS in bytes.
    unit = 1 if sys.platform == "darwin" else 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    on_devices = enumerate(devices.peak_memory())
    return {"process": peak, **{f"GPU {i}": most for i, most in on_devices}}


def data_facts(report: Any, tokenizer: Any = None) -> list[dict[str, Any]]:
    """Returns what was read, a dict for each source.

    Args:
        report: `keras_sdft.data.Report`.
        tokenizer: The model's, to count the captions' tokens.
    """
    return [_source(source, tokenizer) for source in report.sources]


def _source(source: Any, tokenizer: Any) -> dict[str, Any]:
    rows, records = source.shown, source.records
    return {
        "name": source.name,
        "found": source.found,
        "used": len(rows),
        "left_out": {
            reason: {"count": len(names), "names": list(names[:_NAMES])}
            for reason, names in source.left_out.items()
        },
        "notes": list(source.notes),
        "buckets": dict(source.buckets),
        "captions": _captions(records, _spread(rows, _CAPTIONS), tokenizer),
        "examples": [_example(records[i]) for i in _spread(rows, _EXAMPLES)],
    }


def _spread(rows: np.ndarray, count: int) -> list[int]:
    """Returns at most so many of the rows, at equal distances."""
    places = np.linspace(0, len(rows) - 1, min(count, len(rows)))
    return [int(rows[round(place)]) for place in places]


def _example(example: Any) -> dict[str, Any]:
    from keras_sdft.data.images import UnreadableImage
    from keras_sdft.data.images import read_image

    try:
        image = data_uri(read_image(example.image), MAX_SIDE)
    except UnreadableImage:
        # Found out while training, as of data too large to be looked at.
        image = None
    return {
        "name": str(example.name),
        "caption": example.captions[0],
        "image": image,
    }


def _captions(
    records: Any, rows: list[int], tokenizer: Any
) -> dict[str, Any] | None:
    """Returns how many tokens captions have, without start and end."""
    if tokenizer is None or not rows:
        return None
    texts = [text for row in rows for text in records[row].captions]
    counts = [max(0, len(tokenizer.encode(text)) - 2) for text in texts]
    limit = tokenizer.max_length - 2
    return {
        "counted": len(counts),
        "least": min(counts),
        "median": statistics.median(counts),
        "most": max(counts),
        "limit": limit,
        "over_limit": sum(count > limit for count in counts),
        "bars": _bars(counts),
    }


def _bars(counts: list[int]) -> list[tuple[str, int]]:
    """Returns how many of the counts lie in ranges of one width."""
    least, most = min(counts), max(counts)
    width = -(-(most - least + 1) // _BARS)
    found = []
    for low in range(least, most + 1, width):
        high = low + width - 1
        name = str(low) if width == 1 else f"{low} to {high}"
        found.append((name, sum(low <= count <= high for count in counts)))
    return found
