"""`run.json`: what marks a directory as a run, and lists what it consists of.

A directory without it was not written by this library, whatever else it
holds. Must not know how anything is trained.
"""

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

from keras_sdft.files import files_in
from keras_sdft.files import write_text
from keras_sdft.models.model_card import CARD_FILE
from keras_sdft.models.model_card import is_free
from keras_sdft.parsing import DamagedFile
from keras_sdft.parsing import read_json
from keras_sdft.version import __version__

RECORD = "run.json"
CONFIG = "config.yaml"
# What a run notes for its report.
FACTS = "report.json"
FORMAT_VERSION = 1
STATES = ("starting", "running", "interrupted", "failed", "finished")
_MARK = "keras_sdft_run"
# What this version writes into a run, beside the record.
_OURS = re.compile(
    r"index\.html|report\.json|config\.yaml|history\.csv|skipped\.csv"
    r"|logs/(.+/)?events\.out\.tfevents\.[^/]+"
    r"|previews/(step_\d+|before_and_after)\.png"
    r"|(weights|best)/(\w+\.weights\.h5|[\w.-]+\.safetensors|keras_sdft\.json"
    r"|README\.md|image_\d\.png)"
    r"|checkpoints/step_\d+/(state\.safetensors|checkpoint\.json)"
)


@dataclasses.dataclass(kw_only=True)
class RunRecord:
    """What `run.json` says.

    Attributes:
        command: String, what made it: `"train"`.
        state: `"starting"` before the first step, `"running"`,
            `"interrupted"` by a signal, `"failed"`, or `"finished"`. A
            process that was killed leaves one of the first two.
        step: Integer, optimizer steps, as far as it was written.
        process: String, id and host of the process.
        started: String, local time in ISO format.
        ended: String or `None`, likewise.
        error: String or `None`, why it failed.
        summary: Dict of plain values that belong to its result.
        version: String, version of the library that wrote it.
        files: List of strings, relative paths of what the run consists of.
    """

    command: str
    state: str = "starting"
    step: int = 0
    process: str = ""
    started: str = ""
    ended: str | None = None
    error: str | None = None
    summary: dict[str, Any] = dataclasses.field(default_factory=dict)
    version: str = __version__
    files: list[str] = dataclasses.field(default_factory=list)

    def described(self) -> str:
        """Returns how it ended, if no process writes it any more."""
        if self.state == "finished":
            return f"finished after {self.step:,} steps"
        if self.state in ("starting", "running"):
            return f"killed after step {self.step:,} or later"
        return f"{self.state} after {self.step:,} steps"


def read_record(directory: str | Path) -> RunRecord | None:
    """Reads a run's record.

    Args:
        directory: The directory.

    Returns:
        A `RunRecord`, or `None` if the directory is no run of this library.

    Raises:
        ValueError: If the record is ours and damaged.
    """
    path = Path(directory) / RECORD
    try:
        content = read_json(path)
    except (OSError, DamagedFile):
        return None
    if _MARK not in content:
        return None
    version = content.pop(_MARK)
    names = {field.name for field in dataclasses.fields(RunRecord)}
    try:
        record = RunRecord(**{k: v for k, v in content.items() if k in names})
        valid = version == FORMAT_VERSION and record.state in STATES
        valid = valid and type(record.step) is int
        valid = valid and isinstance(record.summary, dict)
        valid = valid and all(isinstance(name, str) for name in record.files)
    except TypeError:
        valid = False
    if not valid:
        raise ValueError(
            f"{str(path)!r} is damaged, or was written by another version of "
            f"keras_sdft ({content.get('version')!r}; this is {__version__}). "
            "Choose another directory, or move this one away."
        )
    return record


def config_of(directory: str | Path) -> str:
    """Returns the path of the flags that a run saved.

    Raises:
        ValueError: If the directory is that of no run.
    """
    config = Path(directory) / CONFIG
    if read_record(directory) is None or not config.is_file():
        raise ValueError(
            f"`resume` must name the directory of a run. Received: "
            f"{str(directory)!r}, which has no {RECORD} and {CONFIG}. Expected "
            "what `output_dir` was."
        )
    return str(config)


def write_record(directory: str | Path, record: RunRecord) -> None:
    """Writes a run's record, with the list of its files as it is now."""
    record.files = written_files(directory, record)
    content = {_MARK: FORMAT_VERSION, **dataclasses.asdict(record)}
    text = json.dumps(content, indent=2, ensure_ascii=False)
    write_text(Path(directory) / RECORD, text + "\n")


def written_files(
    directory: str | Path, record: RunRecord | None = None
) -> list[str]:
    """Returns the files of a run that this library wrote, the record last.

    Those that it lists, and what a killed process wrote after the list. A
    model card that somebody has changed is theirs.

    Args:
        directory: The directory.
        record: Its `RunRecord`. Defaults to the one in it.
    """
    record = record or read_record(directory)
    if record is None:
        return []
    present = files_in(directory)
    listed = set(record.files)
    ours = [n for n in present if n in listed or _OURS.fullmatch(n)]
    theirs = {
        name
        for name in ours
        if Path(name).name == CARD_FILE
        and not is_free((Path(directory) / name).parent)
    }
    return [*(n for n in ours if n not in theirs | {RECORD}), RECORD]
