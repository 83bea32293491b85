"""The state of a cache's directory: what it holds, of what, and how much.

One JSON file, replaced as a whole whenever rows have reached the disk. This
file must not know images, captions, encoders or TensorFlow.
"""

from __future__ import annotations

import dataclasses
import json
import os
import zlib
from typing import Any

from keras_sdft import files
from keras_sdft import parsing

FORMAT = 4
STATE = "cache.json"
LOCK = "lock"
# The cache of validation data, where the command keeps it.
VALIDATION = "validation"


@dataclasses.dataclass
class State:
    """What a cache holds.

    Attributes:
        fingerprint: Dict, what it was made from.
        rows: Dict, how many rows of each store are on the disk.
        unreadable: Dict, an image's name and why it cannot be read, by record.
    """

    fingerprint: dict[str, Any]
    dtype: str = ""
    flips: bool = False
    contexts: bool = False
    complete: bool = False
    rows: dict[str, int] = dataclasses.field(default_factory=dict)
    unreadable: dict[str, list[str]] = dataclasses.field(default_factory=dict)
    format: int = FORMAT

    def write(self, directory: str) -> None:
        """Replaces the state on the disk."""
        state = dataclasses.asdict(self)
        whole = {"keras_sdft_cache": state, "checksum": _checksum(state)}
        text = json.dumps(whole, indent=1) + "\n"
        files.write_text(os.path.join(directory, STATE), text)


def read_state(directory: str) -> State | None:
    """Returns the state of a cache; `None` if there is none.

    Raises:
        OSError: If the directory is a file, or holds something else.
        ValueError: If the state is damaged.
    """
    if not os.path.lexists(directory):
        return None
    if not os.path.isdir(directory):
        raise NotADirectoryError(
            "A cache needs a directory of its own. Received a file: "
            f"{directory!r}."
        )
    path = os.path.join(directory, STATE)
    if os.path.isfile(path):
        with parsing.reading(path, "state of a cache"):
            whole = parsing.read_json(path)
            state = whole["keras_sdft_cache"]
            if _checksum(state) != whole["checksum"]:
                raise ValueError("it is not what was written")
            if state["format"] != FORMAT:
                return State({}, format=state["format"])
            return State(**state)
    # What a killed process leaves of its first write begins with a dot.
    found = sorted(
        name
        for name in os.listdir(directory)
        if name not in (LOCK, VALIDATION) and not name.startswith(f".{STATE}.")
    )
    if found:
        raise FileExistsError(
            f"{directory!r} is not empty and holds no cache of keras_sdft, so "
            f"nothing is written into it. It holds: {found[:5]}. Name "
            "another directory."
        )
    return None


def _checksum(state: Any) -> int:
    return zlib.crc32(json.dumps(state).encode())
