"""Going on with a run: what may change, and whether its data is the same.

Must not know flags by name beyond those that may change.
"""

import hashlib
import os
import shlex
from collections.abc import Iterable
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from keras_sdft.data import Report
from keras_sdft.data.examples import Examples
from keras_sdft.disk import size_text
from keras_sdft.files import is_locked
from keras_sdft.parsing import read_yaml
from keras_sdft.runs.directory import LOCK
from keras_sdft.runs.directory import RunDirectory
from keras_sdft.runs.record import read_record

_MAX_CONFIG_BYTES = 1_000_000
# Flags that change neither weights nor data.
CHANGEABLE = (
    "max_train_steps",
    "num_train_epochs",
    "preview_prompts",
    "preview_every_steps",
    "preview_num_steps",
    "preview_guidance_scale",
    "save_every_steps",
    "log_every_steps",
    "check_memory",
    "checkpoint_every_steps",
    "checkpoint_every_minutes",
    "keep_checkpoints",
    "keep_best",
    "weights_directory",
    "license",
    "strategy",
)


def check_flags(before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Refuses values by flag that would make it another training."""
    changed = [
        f"`{flag}` was {before[flag]!r}, and is {value!r}"
        for flag, value in now.items()
        if flag in before
        and flag not in (*CHANGEABLE, "output_dir", "overwrite")
        and before[flag] != value
    ]
    if changed:
        raise ValueError(
            "A run goes on with what it began with, so that it ends as if it "
            f"had never stopped: {'; '.join(changed)}. Leave the flag out, or "
            "begin a new run with another `output_dir`."
        )


def find_checkpoint(
    run: RunDirectory, flags: Mapping[str, Any]
) -> tuple[Path, dict[str, Any]]:
    """Returns a run's newest whole checkpoint and its content.

    Args:
        run: `RunDirectory`.
        flags: Values by flag that the run is to go on with.

    Raises:
        ValueError: If there is none, or a flag that may not change was
            another when the run began; with the run's own value.
    """
    check_flags(read_yaml(run.config, _MAX_CONFIG_BYTES), flags)
    # Keras takes seconds to import, and the command's help needs none.
    from keras_sdft.training import checkpoint_files

    found = checkpoint_files.find_newest(run.checkpoints)
    if found is None:
        raise ValueError(
            f"The run {str(run.path)!r} has no checkpoint: it ended before "
            "its first. Begin it anew: `keras-sdft "
            f"{run.record.command} --config "
            f"{shlex.quote(str(run.config))} --output_dir "
            f"{shlex.quote(str(run.path))} --overwrite`."
        )
    return found


def command_to_resume(run: RunDirectory) -> str:
    """Returns the command line that goes on with a run."""
    path = shlex.quote(str(run.path))
    return f"keras-sdft {run.record.command} --resume {path}"


def data_state(report: Report) -> dict[str, dict[str, Any]]:
    """Returns what tells the data of a run from other data.

    Files count by name and size, so that a copy on another machine is the
    same.

    Args:
        report: `keras_sdft.data.Report` of what was read.

    Returns:
        Dict by source of the number of images and two checksums.
    """
    return {source.name: _source_state(source) for source in report.sources}


def _source_state(examples: Examples) -> dict[str, Any]:
    images, captions = hashlib.sha256(), hashlib.sha256()
    rows = examples.shown.tolist()
    # A data set that tells its version need not be read for it.
    identity = getattr(examples.records, "identity", None)
    if identity is not None:
        images.update(f"{identity} {rows}".encode())
        rows = []
    for row in rows:
        example = examples.records[row]
        name = os.path.basename(example.name)
        images.update(
            f"{name} {_size(example.image)}\n".encode("utf-8", "replace")
        )
        text = f"{example.captions!r} {example.weight}\n"
        captions.update(text.encode("utf-8", "replace"))
    return {
        "count": len(examples.shown),
        "images": images.hexdigest(),
        "captions": captions.hexdigest(),
    }


def _size(image: Any) -> Any:
    if isinstance(image, (str, os.PathLike)):
        return os.path.getsize(image) if os.path.exists(image) else None
    return len(image) if isinstance(image, bytes) else type(image).__name__


def check_data(
    before: Mapping[str, Mapping[str, Any]],
    now: Mapping[str, Mapping[str, Any]],
) -> None:
    """Refuses data that has changed since a run began.

    Args:
        before: `data_state`, as a checkpoint kept it.
        now: `data_state` of what was read now.

    Raises:
        ValueError: If it differs, with what does.
    """
    changed = list(_changes(list(before.values()), now))
    if changed:
        raise ValueError(
            "The data has changed since the run began, so it cannot go on as "
            f"if it had never stopped: {'; '.join(changed)}. Put it back as it "
            "was, or begin a new run."
        )


def _changes(
    before: list[Mapping[str, Any]], now: Mapping[str, Mapping[str, Any]]
) -> Iterable[str]:
    # By their order: a folder may have moved with the run.
    if len(before) != len(now):
        yield f"{len(before)} sources then, {len(now)} now"
        return
    for old, (name, new) in zip(before, now.items(), strict=True):
        if old["count"] != new["count"]:
            yield f"{name}: {old['count']} images then, {new['count']} now"
        elif old["images"] != new["images"]:
            yield f"{name}: other images, in their names or sizes"
        elif old["captions"] != new["captions"]:
            yield f"{name}: other captions or weights"


def describe(path: str | os.PathLike) -> dict[str, Any] | None:
    """Returns what a directory says of its run, `None` if it is no run.

    Args:
        path: Path of the directory.

    Returns:
        Dict of texts and numbers for a reader.
    """
    record = read_record(Path(path))
    if record is None:
        return None
    found = {
        int(each.name.removeprefix("step_")): each / "state.safetensors"
        for each in (Path(path) / "checkpoints").glob("step_*")
        if (each / "checkpoint.json").is_file()
    }
    record.step = max([record.step, *found])
    state = record.described()
    if is_locked(Path(path) / LOCK):
        state = f"running ({record.process})"
    result: dict[str, Any] = {
        "command": record.command,
        "state": state,
        "started": record.started,
        "ended": record.ended,
        "error": record.error,
        "result": record.summary or None,
        "checkpoints": [
            f"step {step:,} ({size_text(found[step].stat().st_size)})"
            for step in sorted(found)
            if found[step].is_file()
        ]
        or None,
    }
    if found and record.state != "finished":
        name = shlex.quote(os.fspath(path))
        result["go_on_with"] = f"keras-sdft {record.command} --resume {name}"
    return result
