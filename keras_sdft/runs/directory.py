"""The directory of one run: made, locked and checked in one act.

Of an earlier run only files that this library wrote are moved or removed, and
none before the new run has exported.
"""

import contextlib
import datetime
import os
import shlex
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from keras_sdft.disk import check_writable
from keras_sdft.files import Lock
from keras_sdft.files import remove_abandoned
from keras_sdft.files import remove_files
from keras_sdft.files import write_text
from keras_sdft.runs.record import FACTS
from keras_sdft.runs.record import RECORD
from keras_sdft.runs.record import RunRecord
from keras_sdft.runs.record import config_of
from keras_sdft.runs.record import read_record
from keras_sdft.runs.record import write_record
from keras_sdft.runs.record import written_files

LOCK = ".lock"
_EARLIER = "earlier-"


class RunDirectory:
    """A run's directory, which no other process writes while this one does.

    One call at the very start of a command checks it, makes it and locks it
    for the process' life. Use it as a context manager: it records how the
    run ended, and a run that did not come to its first step leaves nothing
    behind.

    ```python
    with RunDirectory("runs/cat", "train", {"data": "photos"}) as run:
        ...  # everything is loaded and checked
        run.begin()
        trainer.fit(...)
        trainer.export(run.weights)
        run.finish(step=1000)
    ```

    An earlier run is replaced only with `overwrite`. It is moved into
    `earlier-1` inside the directory, where it works as before, and removed
    by `finish`. Files that this library did not write stay where they are.

    Args:
        path: Path of the directory; it need not exist.
        command: String, what makes the run: `"train"`.
        inputs: What the run reads, by the flag it was given with; names
            that are no existing paths are passed over.
        overwrite: Boolean, whether an earlier run here is replaced.
        made: Directories that the run makes elsewhere, by flag.

    What a run holds is an attribute each, a `Path`: `report`, `config`,
    `history`, `logs`, `previews`, `before_and_after`, `skipped`, `weights`,
    `best` and `checkpoints`. A run that noted facts for its report
    (`note_facts`) has it written once more when it has ended.

    Attributes:
        path: `Path` of the directory.
        record: `RunRecord`, what `run.json` says.
        earlier: List of `Path`s of earlier runs that wait for `finish`.

    Raises:
        BlockingIOError: If another process writes it; with its id and host.
        FileExistsError: If the directory is not empty, and is no earlier
            run or `overwrite` is false.
        NotADirectoryError: If it is a file.
        PermissionError: If it cannot be written to.
        ValueError: If the directory and an input contain one another.
    """

    def __init__(
        self,
        path: str | os.PathLike,
        command: str,
        inputs: Mapping[str, str | None] | None = None,
        overwrite: bool = False,
        made: Mapping[str, str | None] | None = None,
    ) -> None:
        self.path = Path(path)
        self._name_paths()
        check_separate(self.path, inputs or {}, made or {})
        self._check(overwrite, locked=False)
        self._is_new = not self.path.exists()
        self.path.mkdir(parents=True, exist_ok=True)
        self._lock = Lock(self.path / LOCK, f"trains into {str(self.path)!r}")
        try:
            self._mend()
            # What was there may have changed until the lock was held.
            self._check(overwrite, locked=True)
            self.record = self._take_over(command)
        except BaseException:
            self._lock.release()
            raise

    @classmethod
    def resume(
        cls, path: str | os.PathLike, command: str | None = None
    ) -> "RunDirectory":
        """Returns the directory of a run that goes on, locked.

        Args:
            path: Path of the directory.
            command: String, what made the run, or `None` for anything.

        Raises:
            BlockingIOError: If a process writes it still; with its id and
                host.
            ValueError: If it is no run that has begun, or another command
                made it.
        """
        run = cls.__new__(cls)
        run.path, run._is_new = Path(path), False
        run._name_paths()
        record = read_record(run.path)
        if record is None:
            config_of(run.path)
        if command not in (None, record.command):
            raise ValueError(
                f"The run {str(path)!r} was begun by `{record.command}`: "
                f"`keras-sdft {record.command} --resume "
                f"{shlex.quote(str(path))}`."
            )
        check_writable(run.path, "resume")
        run._lock = Lock(run.path / LOCK, f"trains into {str(path)!r}")
        for directory in (run.path, run.checkpoints, run.previews):
            remove_abandoned(directory)
        run.record = record
        run.record.process = _process()
        return run

    @classmethod
    def beside(cls, path: str | os.PathLike) -> "RunDirectory":
        """Returns the directory of a run that another worker writes.

        Args:
            path: Path of the directory.
        """
        run = cls.__new__(cls)
        run.path = Path(path)
        run._name_paths()
        found = read_record(run.path)
        if found is not None:
            run.record = found
        return run

    def _name_paths(self) -> None:
        self.report = self.path / "index.html"
        self.config = self.path / "config.yaml"
        self.history = self.path / "history.csv"
        self.logs = self.path / "logs"
        self.previews = self.path / "previews"
        self.before_and_after = self.previews / "before_and_after.png"
        self.skipped = self.path / "skipped.csv"
        self.weights = self.path / "weights"
        self.best = self.path / "best"
        self.checkpoints = self.path / "checkpoints"

    @property
    def earlier(self) -> list[Path]:
        found = [
            path
            for path in self.path.glob(f"{_EARLIER}*")
            if path.name.removeprefix(_EARLIER).isdecimal()
            and read_record(path) is not None
        ]
        return sorted(found, key=lambda p: (len(p.name), p.name))

    # === The start ===

    def _check(self, overwrite: bool, locked: bool) -> None:
        """Refuses a directory that must not be written to."""
        if self.path.exists() and not self.path.is_dir():
            raise NotADirectoryError(
                "`output_dir` must be a directory. Received a file: "
                f"{str(self.path)!r}."
            )
        check_writable(self.path, "output_dir")
        if not self.path.exists():
            return
        found = sorted(set(os.listdir(self.path)) - {LOCK})
        record = read_record(self.path)
        if found and record is None and not self.earlier:
            raise FileExistsError(
                f"`output_dir` {str(self.path)!r} is not empty and is no run "
                f"of keras-sdft (it has no {RECORD}), so it is never "
                f"replaced. It holds: {', '.join(found[:5])}. Choose another "
                "directory."
            )
        if record is None or overwrite:
            return
        # Whether it still runs, the lock tells.
        if locked or record.state not in ("starting", "running"):
            steps = [int(p.name[5:]) for p in self.checkpoints.glob("step_*")]
            record.step = max([record.step, *steps])
            begun = record.state not in ("finished", "starting")
            remedy = (
                f"Go on with `keras-sdft {record.command} --resume "
                f"{shlex.quote(str(self.path))}`, choose another directory, "
                if begun and steps
                else "Choose another directory, "
            )
            raise FileExistsError(
                f"`output_dir` {str(self.path)!r} holds an earlier run "
                f"({record.described()}). {remedy}or `--overwrite` to replace "
                "it."
            )

    def _mend(self) -> None:
        """Finishes what a process that was killed had begun."""
        found, earlier = read_record(self.path), self.earlier[-1:]
        if found is not None and found.state == "starting":
            # It never came to its first step: nothing in it is of use.
            remove_files(self.path, self._written())
            found = None
        moved = read_record(earlier[0]) if earlier else None
        if found is None or _same_run(found, moved):
            self._restore()

    def _take_over(self, command: str) -> RunRecord:
        """Moves an earlier run aside, and writes the new one's record."""
        self._move_aside()
        record = RunRecord(
            command=command,
            process=_process(),
            started=_now(),
        )
        write_record(self.path, record)
        return record

    def _written(self) -> list[str]:
        """The run's own files, without those of runs moved aside."""
        return [
            name
            for name in written_files(self.path)
            if not name.startswith(_EARLIER)
        ]

    def _move_aside(self) -> None:
        record = read_record(self.path)
        if record is None:
            return
        number = 1
        while os.path.lexists(self.path / f"{_EARLIER}{number}"):
            number += 1
        target = self.path / f"{_EARLIER}{number}"
        # Killed in between, two records tell `_mend` that they are one run.
        write_record(target, record)
        _move(self.path, target, self._written())

    def _restore(self) -> None:
        """Puts the last run that was moved aside back into its place."""
        for earlier in self.earlier[-1:]:
            _move(earlier, self.path, written_files(earlier))
            with contextlib.suppress(OSError):
                earlier.rmdir()

    # === While it runs ===

    def write_config(self, values: Mapping[str, Any], comment: str) -> None:
        """Writes the resolved flags as YAML, to be given to `--config`.

        Args:
            values: Plain values by flag.
            comment: One line for the head of the file.
        """
        import yaml

        text = yaml.safe_dump(dict(values), sort_keys=False, allow_unicode=True)
        write_text(self.config, f"# {comment}\n{text}")

    def begin(self) -> None:
        """Records that training begins: from now on the directory stays."""
        self.update(state="running")

    def update(self, **values: Any) -> None:
        """Changes the record and the list of files.

        Args:
            **values: Attributes of `RunRecord`.
        """
        for name, value in values.items():
            setattr(self.record, name, value)
        write_record(self.path, self.record)

    # === The end ===

    def finish(self, step: int, **summary: Any) -> None:
        """Records that the run has exported, and removes earlier runs.

        Args:
            step: Integer, optimizer steps of the run.
            **summary: Plain values that belong to its result.
        """
        self.update(state="finished", step=step, ended=_now(), summary=summary)
        for earlier in self.earlier:
            remove_files(earlier, written_files(earlier))
        self.update()

    def close(self, error: BaseException | None = None) -> None:
        """Records how the run ended, and releases the lock.

        Args:
            error: What ended it, or `None`.
        """
        try:
            if self.record.state == "starting":
                self._undo()
            elif self.record.state == "running":
                state = "failed"
                if isinstance(error, (KeyboardInterrupt, SystemExit)):
                    state = "interrupted"
                self.update(state=state, ended=_now(), error=_text(error))
            if self.record.state != "starting":
                self._report()
        finally:
            self._lock.release()

    def _report(self) -> None:
        """Writes the report, if the run noted anything for it."""
        if not (self.path / FACTS).exists():
            return
        # Jinja2 and what reads events are not needed to begin.
        from keras_sdft.runs.report.page import warn_on_error
        from keras_sdft.runs.report.page import write_report

        with warn_on_error(self.path):
            write_report(self.path)
            self.update()

    def _undo(self) -> None:
        """Leaves the directory as it was before the run."""
        remove_files(self.path, self._written())
        self._restore()
        if read_record(self.path) is None:
            (self.path / LOCK).unlink()
        if self._is_new:
            with contextlib.suppress(OSError):
                self.path.rmdir()

    def __enter__(self) -> "RunDirectory":
        return self

    def __exit__(self, kind: Any, error: Any, traceback: Any) -> None:
        # A full disk here must not hide what went wrong before.
        with contextlib.suppress(*((OSError,) if error else ())):
            self.close(error)


def check_separate(
    path: str | os.PathLike,
    inputs: Mapping[str, str | None],
    made: Mapping[str, str | None],
    flag: str = "output_dir",
) -> None:
    """Refuses a directory that contains an input, or lies in one.

    Args:
        path: The directory that will be written.
        inputs: Paths that are read, by flag; what does not exist is passed
            over, as names of presets are no paths.
        made: Directories that are made beside it, by flag.
        flag: String, the flag of the directory.

    Raises:
        ValueError: If they contain one another.
    """
    target = Path(path).resolve()
    read = {k: v for k, v in inputs.items() if v and os.path.exists(v)}
    for other, value in [*read.items(), *made.items()]:
        if value is None:
            continue
        source = Path(value).resolve()
        # A new run inside an old run's directory harms nothing.
        within = other != "model" and target.is_relative_to(source)
        if within or source.is_relative_to(target):
            raise ValueError(
                f"`{flag}` and `{other}` must not contain one another: "
                "nothing is written into what is read. Received: "
                f"{flag}={str(path)!r}, {other}={value!r}."
            )


def _same_run(first: RunRecord, second: RunRecord | None) -> bool:
    return second is not None and (
        (first.started, first.process) == (second.started, second.process)
    )


def _move(source: Path, target: Path, names: list[str]) -> None:
    """Moves files, and removes directories that are empty then."""
    for name in names:
        goal = target / name
        goal.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):
            os.replace(source / name, goal)
        for parent in (source / name).parents:
            if parent == source:
                break
            with contextlib.suppress(OSError):
                parent.rmdir()


def _process() -> str:
    return f"id {os.getpid()} on {socket.gethostname()}"


def _now() -> str:
    now = datetime.datetime.now().astimezone()
    return now.isoformat(timespec="milliseconds")


def _text(error: BaseException | None) -> str | None:
    if error is None:
        return None
    return f"{type(error).__name__}: {error}".strip(": ")
