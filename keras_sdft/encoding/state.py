"""The state of a cache's directory: what it holds, of what, and how much.

One JSON file, replaced as a whole whenever rows have reached the disk. This
file must not know images, captions, encoders or TensorFlow.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import json
import os
from collections.abc import Iterator
from typing import Any

from keras_sdft import checks
from keras_sdft import files
from keras_sdft.version import __version__

FORMAT_VERSION = 2
DTYPES = ("float16", "float32")

STATE = "cache.json"
LOCK = "lock"
# The cache of validation data, where the command keeps it.
VALIDATION = "validation"

_MARK = "keras_sdft_cache"


@dataclasses.dataclass
class State:
    """What a cache holds; of another version, nothing else can be relied on.

    Attributes:
        fingerprint: Dict, what it was made from.
        rows: Dict, how many rows of each store are on the disk.
        rounding: Dict, the most that rounding has changed in each store.
        unreadable: Dict, why images cannot be read, by record.
    """

    fingerprint: dict[str, Any]
    dtype: str
    flips: bool
    contexts: bool
    complete: bool = False
    rows: dict[str, int] = dataclasses.field(default_factory=dict)
    rounding: dict[str, float] = dataclasses.field(default_factory=dict)
    unreadable: dict[str, str] = dataclasses.field(default_factory=dict)
    written_by: str = __version__
    version: int = FORMAT_VERSION

    def write(self, directory: str) -> None:
        """Replaces the state on the disk."""
        content = dataclasses.asdict(self)
        content = {_MARK: content.pop("version"), **content}
        text = json.dumps(content, indent=1) + "\n"
        files.write_text(os.path.join(directory, STATE), text)


def read_state(directory: str) -> State | None:
    """Returns the state of a cache; `None` if there is none.

    Raises:
        NotADirectoryError: If the directory is a file.
        FileExistsError: If it holds something else than a cache.
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
        return _parsed(path)
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


def _parsed(path: str) -> State:
    state = State({}, "", False, False)
    try:
        with open(path, encoding="utf-8") as file:
            content = json.load(file)
        state.version = content.pop(_MARK)
        state.written_by = str(content["written_by"])
        if state.version != FORMAT_VERSION:
            return state
        for field in dataclasses.fields(State)[:-1]:
            kind = type(getattr(state, field.name))
            if not isinstance(content[field.name], kind):
                raise TypeError(f"{field.name} is no {kind.__name__}")
            setattr(state, field.name, content[field.name])
        checks.one_of("dtype", state.dtype, DTYPES)
        _ = [range(count) for count in state.rows.values()]
        _ = [int(record) for record in state.unreadable]
    except (
        ValueError,
        LookupError,
        TypeError,
        AttributeError,
        RecursionError,
    ) as error:
        raise ValueError(
            f"{path!r} is damaged or was not written by keras_sdft: "
            f"{error!r}. Remove {os.path.dirname(path)!r}, or name another "
            "directory."
        ) from error
    return state


@contextlib.contextmanager
def full_disk(directory: str) -> Iterator[None]:
    """Context manager in which the error of a full disk says what to do."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise OSError(
            error.errno,
            "The disk is full. What is encoded so far is kept; free some "
            "space and run this again, and it goes on from there",
            directory,
        ) from error
