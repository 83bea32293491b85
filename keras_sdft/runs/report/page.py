"""`index.html` of a run: one file that shows how it went, and can be mailed.

All that it shows is read from the run's own files.
"""

import contextlib
import csv
import datetime
import functools
import math
import os
import shlex
import warnings
from collections.abc import Iterator
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from keras_sdft.disk import size_text
from keras_sdft.files import is_locked
from keras_sdft.files import write_text
from keras_sdft.runs.directory import LOCK
from keras_sdft.runs.record import RunRecord
from keras_sdft.runs.record import read_record
from keras_sdft.runs.report import images
from keras_sdft.runs.report.charts import charts_of
from keras_sdft.runs.report.facts import read_facts
from keras_sdft.runs.report.scalars import Curve
from keras_sdft.runs.report.scalars import read_curves

PAGE = "index.html"
_FOLDER = Path(__file__).parent
# As `formats.lora_files` names it.
_LORA = "pytorch_lora_weights.safetensors"


def write_report(directory: str | os.PathLike) -> Path:
    """Writes the page of a run, from what is in its directory.

    Args:
        directory: The run's directory.

    Returns:
        Path of the page.

    Raises:
        ValueError: If it is no directory of a run.
        OSError: If the page cannot be written.
    """
    path = Path(directory) / PAGE
    run = describe_run(directory)
    write_text(path, _render("run.html", run=run, charts=charts_of([run])))
    return path


@contextlib.contextmanager
def warn_on_error(directory: str | os.PathLike) -> Iterator[None]:
    """Context manager that turns the error of a report into a warning.

    Args:
        directory: The run's directory.
    """
    try:
        yield
    # Whatever it is, hours of training are worth more than a page.
    except Exception as error:
        warnings.warn(
            f"The report of {str(directory)!r} was not written, and the run "
            f"goes on: {type(error).__name__}: {error}. `keras-sdft report` "
            "writes it again.",
            stacklevel=3,
        )


def write_comparison(
    directories: Sequence[str | os.PathLike], output: str | os.PathLike
) -> Path:
    """Writes a page that compares runs.

    Args:
        directories: Directories of runs.
        output: Path of the page; an earlier one is replaced.

    Returns:
        Path of the page.

    Raises:
        ValueError: If one is no directory of a run.
        OSError: If the page cannot be written.
    """
    runs = [describe_run(directory) for directory in directories]
    names = _short_names(directories)
    for run, name in zip(runs, names, strict=True):
        run["name"] = name
    text = _render(
        "comparison.html",
        runs=runs,
        charts=charts_of(runs),
        settings=_differing(runs),
        previews=_last_previews(runs),
    )
    write_text(output, text)
    return Path(output)


def describe_run(directory: str | os.PathLike) -> dict[str, Any]:
    """Returns what a page shows of a run.

    Args:
        directory: The run's directory.

    Raises:
        ValueError: If it is no directory of a run.
    """
    path = Path(directory)
    record = read_record(path)
    if record is None:
        raise ValueError(
            f"A report is made of a run, and {str(directory)!r} has no "
            "run.json. Expected what `--output_dir` was."
        )
    facts = read_facts(path)
    curves = read_curves(path / "logs")
    is_running = record.state in ("starting", "running") and is_locked(
        path / LOCK
    )
    step = max([record.step, *(c.steps[-1] for c in curves.values())])
    return {
        "name": path.resolve().name,
        "path": str(path.resolve()),
        "record": record,
        "is_running": is_running,
        "state": _state(record, is_running, step),
        "made": _now(),
        "curves": curves,
        "tiles": _tiles(record, facts, curves, step),
        "settings": _settings(facts),
        "config": _text(path / "config.yaml"),
        "data": facts.get("data", []),
        "skipped": _skipped(path / "skipped.csv"),
        "memory": {k: size_text(v) for k, v in facts.get("memory", {}).items()},
        "machine": facts.get("machine", {}),
        "commands": _commands(path, record, facts),
        **_previews(path / "previews"),
    }


def _state(record: RunRecord, is_running: bool, step: int) -> str:
    if is_running:
        return f"running, after step {step:,}"
    record.step = step
    return record.described()


def _tiles(
    record: RunRecord,
    facts: dict[str, Any],
    curves: dict[str, Curve],
    step: int,
) -> list[tuple[str, str]]:
    """Returns the figures at the top: what each is, and its value."""
    total = facts.get("steps")
    found = [("steps", f"{step:,}" + (f" of {total:,}" if total else ""))]
    loss = curves.get("loss/train")
    if loss is not None:
        found.append(("loss, smoothed", _figure(loss.smoothed().values[-1])))
    validation = curves.get("loss/validation")
    if validation is not None:
        best = min(
            (v for v in validation.values if math.isfinite(v)), default=math.nan
        )
        found += [
            ("validation loss", _figure(validation.values[-1])),
            ("best validation loss", _figure(best)),
        ]
    seconds = facts.get("seconds", _seconds(record))
    if seconds is not None:
        found.append(("time", _duration(seconds)))
    speed = curves.get("images_per_second")
    if speed is not None:
        median = sorted(speed.values)[len(speed.values) // 2]
        found.append(("images a second", _figure(median)))
    memory = facts.get("memory", {})
    if memory:
        name, peak = list(memory.items())[-1]
        found.append((f"memory at most, {name}", size_text(peak)))
    return found


def _figure(value: float) -> str:
    return f"{value:.4g}"


def _seconds(record: RunRecord) -> float | None:
    """Returns the time from start to end, of a run that noted no other."""
    try:
        start, end = (
            datetime.datetime.fromisoformat(text or "")
            for text in (record.started, record.ended)
        )
    except ValueError:
        return None
    return (end - start).total_seconds()


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02} min"
    return f"{minutes} min {rest:02} s" if minutes else f"{rest} s"


def _now() -> str:
    return datetime.datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z")


def _settings(facts: dict[str, Any]) -> dict[str, tuple[str, str]]:
    """Returns value and default of what differs, as text, by flag."""
    return {
        name: (_shown(value), _shown(default))
        for name, (value, default) in facts.get("settings", {}).items()
    }


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value))
    if isinstance(value, bool):
        return str(value).lower()
    return "" if value is None else str(value)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        return ""


def _skipped(path: Path) -> list[list[str]]:
    """Returns image and reason of what could not be read."""
    return list(csv.reader(_text(path).splitlines()))[1:]


def _previews(directory: Path) -> dict[str, Any]:
    """Returns the steps of the previews, and the images of each prompt."""
    last = images.preview_steps(directory, 1)[-1:]
    count = len(images.read_preview(last[0])) if last else 0
    paths = images.preview_steps(directory, count) if count else []
    found: dict[str, list[tuple[int, str]]] = {}
    for index, path in enumerate(paths):
        for prompt, image in images.read_preview(path):
            found.setdefault(prompt, []).append((index, image))
    return {
        "preview_steps": [images.step_of(path) for path in paths],
        "previews": found,
    }


def _commands(
    path: Path, record: RunRecord, facts: dict[str, Any]
) -> list[tuple[str, str]]:
    """Returns what to do with the run next: a title and a command each."""
    run, weights = path.resolve(), path.resolve() / "weights"
    found = []
    if weights.is_dir():
        prompt = facts.get("prompt") or "YOUR PROMPT"
        words = ["generate", "--model", run, "--prompt", prompt]
        found.append(("Generate images", [*words, "--output", "out.png"]))
    if (path / "checkpoints").is_dir():
        words = [record.command, "--resume", run]
        if record.state == "finished":
            found.append(("Train longer", [*words, "--max_train_steps", "N"]))
        else:
            found.append(("Go on", words))
    for name, format in ((_LORA, "kohya"), ("*.weights.h5", "ldm")):
        source = weights / name if name == _LORA else run
        if any(weights.glob(name)):
            words = ["convert", "--model", source, "--output"]
            words += [f"{run.name}.safetensors", "--format", format]
            found.append(("Convert for A1111 and ComfyUI", words))
            break
    return [
        (title, shlex.join(["keras-sdft", *map(str, words)]))
        for title, words in found
    ]


# === Several runs ===


def _short_names(directories: Sequence[str | os.PathLike]) -> list[str]:
    """Returns the last parts of paths, as many as tell them apart."""
    paths = [Path(directory).resolve() for directory in directories]
    depth = 1
    while len({path.parts[-depth:] for path in paths}) < len(set(paths)):
        depth += 1
    return ["/".join(path.parts[-depth:]) for path in paths]


def _differing(runs: list[dict[str, Any]]) -> dict[str, list[str]]:
    """Returns the settings that are not the same in all runs, by flag."""
    import yaml

    found = [yaml.safe_load(run["config"] or "{}") or {} for run in runs]
    names = dict.fromkeys(name for one in found for name in one)
    values = {n: [_shown(one.get(n)) for one in found] for n in names}
    return {
        name: row
        for name, row in values.items()
        if len(set(row)) > 1 and name != "output_dir"
    }


def _last_previews(runs: list[dict[str, Any]]) -> dict[str, list[str | None]]:
    """Returns the last image of each run, by prompt."""
    prompts = dict.fromkeys(
        prompt for run in runs for prompt in run["previews"]
    )
    return {
        prompt: [
            run["previews"][prompt][-1][1]
            if prompt in run["previews"]
            else None
            for run in runs
        ]
        for prompt in prompts
    }


# === Rendering ===


def _render(name: str, **values: Any) -> str:
    return _environment().get_template(name).render(values)


@functools.cache
def _environment() -> Any:
    # Training without a report, as in a notebook, does not need it.
    import jinja2

    loader = jinja2.FileSystemLoader(_FOLDER / "templates")
    result = jinja2.Environment(
        loader=loader,
        autoescape=jinja2.select_autoescape(["html"]),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    result.globals["source"] = lambda path: jinja2.utils.markupsafe.Markup(
        (_FOLDER / path).read_text(encoding="utf-8")
    )
    return result
