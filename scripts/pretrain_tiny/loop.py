"""A training run: steps, limits, log, checkpoints, measures.

Must not know what is trained.
"""

import csv
import dataclasses
import math
import pathlib
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from keras import ops

from scripts.pretrain_tiny import checkpoints


@dataclasses.dataclass
class Limits:
    """When a run stops, and how often it writes.

    Attributes:
        steps: Integer, optimizer steps of the whole run.
        minutes: Float, minutes of this call; a later one goes on.
        save_minutes: Float, minutes between checkpoints.
        measure_minutes: Float, minutes between measures.
        log_steps: Integer, steps that a line of the log stands for.
    """

    steps: int
    minutes: float = math.inf
    save_minutes: float = 4.0
    measure_minutes: float = 20.0
    log_steps: int = 20


class Run:
    """A resumable training run in a directory.

    Args:
        directory: Path; `checkpoint.npz`, `log.csv` and `measures.csv`.
        step_function: What `gradients.make_step` returns.
        next_batch: Function of the step that returns a batch of NumPy
            arrays; a pure function, or resuming would not be exact.
        groups: Dictionary of names to variables: all that has a state.
        limits: `Limits`.
        summarise: Function of lists of reports (arrays by name) that
            returns numbers by column for the log.
        measure: Function without arguments that returns numbers by column,
            called on the averaged weights.
        average: The `WeightAverage`.
    """

    def __init__(
        self,
        directory: pathlib.Path,
        step_function: Any,
        next_batch: Callable[[int], dict],
        groups: "dict[str, list]",
        limits: Limits,
        summarise: Callable[[dict], dict],
        measure: "Callable[[], dict] | None",
        average: Any,
    ):
        self.directory = directory
        self.step_function = step_function
        self.next_batch = next_batch
        self.groups = groups
        self.limits = limits
        self.summarise = summarise
        self.measure = measure
        self.average = average
        self.step = 0
        self.seconds = 0.0
        self._pending: list = []

    @property
    def checkpoint(self) -> pathlib.Path:
        return self.directory / "checkpoint.npz"

    def resume(self) -> None:
        """Goes back to the last checkpoint, if there is one."""
        if not self.checkpoint.is_file():
            return
        notes = checkpoints.load(self.checkpoint, self.groups)
        self.step, self.seconds = notes["step"], notes["seconds"]
        for name in ("log.csv", "measures.csv"):
            _trim(self.directory / name, self.step)
        print(f"resumed at step {self.step}", flush=True)

    def train(self) -> None:
        """Trains until a limit is reached; writes a checkpoint at the end."""
        limits = self.limits
        began = saved = measured = time.monotonic()
        while self.step < limits.steps:
            self._one_step()
            now = time.monotonic()
            if self.step % limits.log_steps == 0:
                self._write_log()
            if now - saved > 60 * limits.save_minutes:
                self.save()
                saved = time.monotonic()
            if now - measured > 60 * limits.measure_minutes:
                self.write_measures()
                measured = time.monotonic()
            if now - began > 60 * limits.minutes:
                break
        self._write_log()
        self.save()
        self.write_measures()

    def _one_step(self) -> None:
        began = time.monotonic()
        batch = self.next_batch(self.step)
        batch["step"] = np.asarray(self.step, "int32")
        loss, report = self.step_function(batch)
        self.step += 1
        # Kept as they are: reading them would wait for the device.
        self._pending.append({"loss": loss, **report})
        self.seconds += time.monotonic() - began

    def _write_log(self) -> None:
        if not self._pending:
            return
        began = time.monotonic()
        reports = {
            name: [np.asarray(ops.convert_to_numpy(r[name])) for r in part]
            for part in [self._pending]
            for name in part[0]
        }
        self.seconds += time.monotonic() - began
        self._pending = []
        row = {
            "step": self.step,
            "minutes": round(self.seconds / 60, 2),
            "loss": float(np.mean(reports.pop("loss"))),
            **self.summarise(reports),
        }
        _append(self.directory / "log.csv", row)
        if not math.isfinite(row["loss"]):
            raise FloatingPointError(
                f"The loss is {row['loss']} at step {self.step}. The last "
                f"checkpoint is {self.checkpoint}; lower --learning_rate."
            )

    def save(self) -> None:
        """Writes the checkpoint."""
        self.step_function.sync()
        notes = {"step": self.step, "seconds": self.seconds}
        checkpoints.save(self.checkpoint, self.groups, notes)

    def write_measures(self) -> None:
        """Measures the averaged weights."""
        if self.measure is None:
            return
        self.step_function.sync()
        with self.average.swapped_in():
            row = {
                "step": self.step,
                "minutes": round(self.seconds / 60, 2),
                **self.measure(),
            }
        _append(self.directory / "measures.csv", row)


def _append(path, row):
    row = {
        key: round(value, 5) if isinstance(value, float) else value
        for key, value in row.items()
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    columns = list(row)
    if path.is_file():
        # Backends return a step's numbers in orders of their own.
        with open(path, newline="", encoding="utf-8") as file:
            columns = next(csv.reader(file))
    else:
        path.write_text(",".join(columns) + "\n", encoding="utf-8")
    with open(path, "a", newline="", encoding="utf-8") as file:
        csv.DictWriter(file, columns, lineterminator="\n").writerow(row)
    print("  ".join(f"{k} {v}" for k, v in row.items()), flush=True)


def _trim(path, step):
    """Drops the lines of steps that the checkpoint knows nothing of."""
    if not path.is_file():
        return
    header, *lines = path.read_text(encoding="utf-8").splitlines()
    kept = [line for line in lines if int(line.split(",")[0]) <= step]
    path.write_text("\n".join([header, *kept]) + "\n", encoding="utf-8")


def add_arguments(parser: Any, steps: int) -> None:
    """Adds the options that both trainings have."""
    parser.add_argument("--steps", type=int, default=steps)
    parser.add_argument("--minutes", type=float, default=math.inf)
    parser.add_argument("--save_minutes", type=float, default=4.0)
    parser.add_argument("--measure_minutes", type=float, default=20.0)
    parser.add_argument("--log_steps", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jit_compile", action="store_true")


def limits_of(options: Any) -> Limits:
    """The limits that the options say."""
    names = [field.name for field in dataclasses.fields(Limits)]
    return Limits(**{name: getattr(options, name) for name in names})
