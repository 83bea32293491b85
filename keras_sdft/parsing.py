"""Files that are not trusted: budgets, and one boundary around parsers.

Whatever a damaged file makes a parser raise becomes a `ValueError` that
names the file and what is wrong. Imports nothing of this library; every
package may import it.
"""

import contextlib
import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# Far beyond any configuration, and read in a second.
MAX_JSON_BYTES = 16_000_000
# Every object and list of JSON takes about 64 bytes, and 2 in its file.
MAX_JSON_CONTAINERS = 200_000
MAX_YAML_DEPTH = 20


class DamagedFile(ValueError):
    """A file is not what it should be, or larger than its budget."""


@contextlib.contextmanager
def reading(path: str | Path, kind: str) -> Iterator[None]:
    """Context manager that turns a parser's failure into `DamagedFile`.

    Errors that name the file already pass, as do those of the operating
    system (a missing file, no permission).

    Args:
        path: The file or directory.
        kind: What it should be, for the message: `"JSON"`.

    Raises:
        DamagedFile: If what is inside raised anything else.
    """
    try:
        yield
    except Exception as error:
        if isinstance(error, OSError) and error.filename is not None:
            raise
        if isinstance(error, (OSError, ValueError)) and _names(error, path):
            raise
        raise DamagedFile(
            f"{str(path)!r} is damaged, or no {kind}: {reason(error)}. "
            "Fetch or write it again."
        ) from error


def reason(error: BaseException) -> str:
    """Returns in a line what an error of a parser says."""
    kinds = {
        RecursionError: "it is nested too deeply",
        MemoryError: "it asks for more memory than there is",
        UnicodeDecodeError: "it is not UTF-8 text",
        EOFError: "it ends too early",
        KeyError: f"{error} is missing",
    }
    for kind, text in kinds.items():
        if isinstance(error, kind):
            return text
    lines = str(error).strip().splitlines()
    text = lines[0][:200].rstrip(".") if lines else ""
    return text or type(error).__name__


def read_bytes(path: str | Path, budget: int) -> bytes:
    """Reads a whole file of at most `budget` bytes.

    Raises:
        DamagedFile: If it is larger.
    """
    path = Path(path)
    with path.open("rb") as file:
        data = file.read(budget + 1)
    if len(data) > budget:
        raise _beyond(path, f"{budget:,} bytes")
    return data


def read_text(path: str | Path, budget: int) -> str:
    """Reads a whole UTF-8 text of at most `budget` bytes.

    Raises:
        DamagedFile: If it is larger, or not UTF-8.
    """
    with reading(path, "text"):
        return read_bytes(path, budget).decode("utf-8-sig")


def read_gzip(path: str | Path, budget: int) -> bytes:
    """Reads what a gzipped file holds, at most `budget` bytes of it.

    Raises:
        DamagedFile: If it holds more, or is damaged.
    """
    with reading(path, "gzipped file"), gzip.open(path) as file:
        data = file.read(budget + 1)
        if len(data) > budget:
            raise _beyond(path, f"{budget:,} bytes when unpacked")
        return data


def read_json(path: str | Path, budget: int = MAX_JSON_BYTES) -> dict:
    """Reads a JSON object.

    Raises:
        DamagedFile: If it is larger than `budget`, no JSON, or no object.
    """
    value = parse_json(read_bytes(path, budget), path)
    if not isinstance(value, dict):
        raise DamagedFile(f"{str(path)!r} is no JSON object.")
    return value


def parse_json(data: bytes, path: str | Path, kind: str = "JSON") -> Any:
    """Parses JSON whose memory stays a small multiple of its size.

    Args:
        data: UTF-8 text.
        path: Where it is from, for messages.
        kind: What it is, for messages.

    Raises:
        DamagedFile: If it is none, or has too many objects and lists.
    """
    if data.count(b"{") + data.count(b"[") > MAX_JSON_CONTAINERS:
        raise _beyond(path, f"{MAX_JSON_CONTAINERS:,} objects and lists")
    with reading(path, kind):
        return json.loads(data.decode("utf-8-sig"))


def read_yaml(path: str | Path, budget: int) -> Any:
    """Reads a YAML file of at most `budget` bytes.

    Raises:
        ValueError: If it has aliases or is nested too deeply; what else
            PyYAML raises on a damaged file is of nearly every class.
    """
    import yaml

    text, depth = read_text(path, budget), 0
    for token in yaml.scan(text):
        # A few of aliases stand for more values than a message can show, and
        # the time to parse grows with the square of the depth.
        if isinstance(token, yaml.AliasToken):
            raise ValueError("aliases (`*name`) are not supported")
        depth += type(token).__name__.endswith("StartToken")
        depth -= type(token).__name__.endswith("EndToken")
        if depth > MAX_YAML_DEPTH:
            raise ValueError(f"it is nested more than {MAX_YAML_DEPTH} deep")
    return yaml.safe_load(text)


def _beyond(path: str | Path, budget: str) -> DamagedFile:
    return DamagedFile(
        f"{str(path)!r} is beyond the budget of {budget} for such a file."
    )


def _names(error: BaseException, path: str | Path) -> bool:
    text = str(error)
    return str(path) in text or repr(str(path))[1:-1] in text
