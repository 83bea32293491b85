"""The directory of one run: where things lie, and what may be replaced.

Knows names on disk; never removes a file it could not have written.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_CONFIG = "config.yaml"
_ENTRIES = (
    _CONFIG,
    "history.csv",
    "logs",
    "previews",
    "skipped.csv",
    "weights",
)


class RunDirectory:
    """Paths of a run, and the rules for making its directory.

    Args:
        path: Path of the directory; it need not exist.
    """

    def __init__(self, path: str | os.PathLike) -> None:
        self.path = Path(path)
        self.config = self.path / _CONFIG
        self.history = self.path / "history.csv"
        self.logs = self.path / "logs"
        self.previews = self.path / "previews"
        self.before_and_after = self.previews / "before_and_after.png"
        self.skipped = self.path / "skipped.csv"
        self.weights = self.path / "weights"

    def check(
        self,
        inputs: Mapping[str, str | None],
        overwrite: bool,
        made: Mapping[str, str | None] | None = None,
    ) -> None:
        """Refuses a directory that must not be written to. Changes nothing.

        Args:
            inputs: What the run reads, by the flag it was given with; names
                that are no existing paths are passed over.
            overwrite: Whether an earlier run here is to be replaced.
            made: Folders that the run will make beside its directory, by
                flag. They need not exist.

        Raises:
            ValueError: If the directory and an input lie in one another.
            FileExistsError: If the directory is not empty, and is no
                earlier run or `overwrite` is false.
            NotADirectoryError: If it is a file.
        """
        for flag, value in inputs.items():
            if value is not None and os.path.exists(value):
                self._check_apart(flag, value)
        for flag, value in (made or {}).items():
            if value is not None:
                self._check_apart(flag, value)
        if not self.path.exists():
            return
        if not self.path.is_dir():
            raise NotADirectoryError(
                "`output_dir` must be a directory. Received a file: "
                f"{str(self.path)!r}."
            )
        found = sorted(os.listdir(self.path))
        if not found:
            return
        if not self.config.is_file():
            raise FileExistsError(
                f"`output_dir` {str(self.path)!r} is not empty and is no run "
                f"of keras-sdft (it has no {_CONFIG}), so it is never "
                "replaced. Choose another directory."
            )
        foreign = [name for name in found if name not in _ENTRIES]
        if overwrite and foreign:
            raise FileExistsError(
                f"`output_dir` {str(self.path)!r} is not replaced: beside a "
                f"run it holds {', '.join(foreign[:5])}"
                f"{' and more' if len(foreign) > 5 else ''}. Move these "
                "away, or choose another directory."
            )
        if not overwrite:
            raise FileExistsError(
                f"`output_dir` {str(self.path)!r} holds an earlier run. "
                "Choose another directory, or `--overwrite` to replace it."
            )

    def create(self) -> None:
        """Makes the directory, without what an earlier run left in it.

        Call `check` first.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        for name in _ENTRIES:
            entry = self.path / name
            # A link is ours to remove, what it points at is not.
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            elif entry.is_symlink() or entry.exists():
                entry.unlink()

    def write_config(self, values: Mapping[str, Any], comment: str) -> None:
        """Writes the resolved flags as YAML, to be given to `--config`.

        Args:
            values: Plain values by flag.
            comment: One line for the head of the file.
        """
        import yaml

        text = yaml.safe_dump(dict(values), sort_keys=False, allow_unicode=True)
        self.config.write_text(f"# {comment}\n{text}", encoding="utf-8")

    def _check_apart(self, flag: str, value: str) -> None:
        source, target = Path(value).resolve(), self.path.resolve()
        # A new run inside an old run's directory harms nothing.
        within = flag != "model" and target.is_relative_to(source)
        if not within and not source.is_relative_to(target):
            return
        raise ValueError(
            f"`output_dir` and `{flag}` must not contain one another: training "
            "never writes into what it reads. Received: "
            f"output_dir={str(self.path)!r}, {flag}={value!r}."
        )
