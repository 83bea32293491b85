"""Is fine-tuning here faster than with diffusers, and than with KerasCV?

Time of a training step, time to the first step, peak memory, files to
updated weights, reading alone, and generation; ours against the peers, on
this machine. Prints one table of medians, ranges over the repeats, and ratios
ours / peer, and merges it into `benchmarks/results.json`.

    make bench                                       about an hour
    make bench-full                                  SD 1.5's size too
    .venv/bin/python -m benchmarks.speed --cases 1 3 some groups
    .venv/bin/python -m benchmarks.speed --cases step-full-512
    .venv/bin/python -m benchmarks.speed --quick     does it run at all?
    .venv/bin/python -m benchmarks.speed --list      what there is

Every job is a process of its own, and never two at once: ours, then each
peer, then again ours. Both sides have the same shapes, batches, data types
and optimizer, and their own default number of threads. The first steps are
not counted among the others: the end of the very first is a case by itself.
The machine must be idle, or the figures mean nothing.
"""

import argparse
import dataclasses
import json
import os
import subprocess
import sys
import time
from pathlib import Path

from benchmarks import _speed_cases
from benchmarks import _speed_results

ROOT = Path(__file__).resolve().parent.parent
OURS = ROOT / ".venv" / "bin" / "python"
PEER = ROOT / ".venv-peers" / "bin" / "python"
JAX = ROOT / ".venv-jax" / "bin" / "python"
RESULTS = ROOT / "benchmarks" / "results.json"
WORK = ROOT / "build" / "speed"
COMPILED_BY_JAX = WORK / "jax-cache"
PHOTOS = 64
# Both sides as a user has them: whatever the caller set for himself is out.
NOT_INHERITED = (
    "KMP_AFFINITY",
    "MKL_NUM_THREADS",
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "TF_CONFIG",
    "TF_ENABLE_ONEDNN_OPTS",
    "TF_NUM_INTEROP_THREADS",
    "TF_NUM_INTRAOP_THREADS",
    "XLA_FLAGS",
)


@dataclasses.dataclass(frozen=True)
class Side:
    """A program that runs jobs.

    Attributes:
        python: Path of its interpreter.
        module: String, the module that reads the job.
        variant: String, how it shall run it.
        environment: Dict of what is set for it.
        again: Boolean, whether it runs each job once before it is measured.
    """

    python: Path
    module: str
    variant: str | None = None
    environment: dict[str, str] = dataclasses.field(default_factory=dict)
    again: bool = False


SIDES = {
    "ours": Side(OURS, "_speed_ours"),
    "diffusers": Side(PEER, "_speed_peer", "eager"),
    "diffusers, tuned": Side(PEER, "_speed_peer", "tuned"),
    "diffusers, compiled": Side(PEER, "_speed_peer", "compiled"),
    "KerasCV": Side(OURS, "_speed_keras_cv", "plain"),
    "KerasCV, graph, oneDNN": Side(
        OURS, "_speed_keras_cv", "graph", {"TF_ENABLE_ONEDNN_OPTS": "1"}
    ),
    _speed_cases.ONE_PROCESS: Side(OURS, "_speed_ours"),
    "ours in JAX": Side(JAX, "_speed_ours", None, {"KERAS_BACKEND": "jax"}),
    "ours in JAX, started again": Side(
        JAX,
        "_speed_ours",
        None,
        {
            "KERAS_BACKEND": "jax",
            "JAX_COMPILATION_CACHE_DIR": str(COMPILED_BY_JAX),
        },
        again=True,
    ),
}


class NotMeasured(Exception):
    """A job that gave no figure, and why; `missing` if none was expected."""

    def __init__(self, reason, missing=False):
        super().__init__(reason)
        self.missing = missing


class Jobs:
    """Runs jobs one at a time, and each only once for all of its figures.

    Args:
        work: Path of the scratch directory.
        photos: Integer, how many photos are made of each kind.
        steps: Integer, steps of every job; `None` for each case's own.
    """

    def __init__(self, work, photos=PHOTOS, steps=None):
        self.work = work
        self.photos = photos
        self.steps = steps
        self._results = {}
        work.mkdir(parents=True, exist_ok=True)

    def result(self, name, job, repeat, limit=3600):
        """The figures of a side's repeat of a job, within some seconds.

        Raises:
            NotMeasured: If the process failed.
        """
        key = (name, json.dumps(job, sort_keys=True), repeat)
        if key not in self._results:
            side = SIDES[name]
            try:
                if side.again and repeat == 0:
                    self._run(side, self._whole(job), limit)
                self._results[key] = self._run(side, self._whole(job), limit)
            except NotMeasured as error:
                self._results[key] = error
        result = self._results[key]
        if isinstance(result, NotMeasured):
            raise result
        return result

    def _whole(self, job):
        """The job with its files, which are made if they are not there."""
        job = dict(job)
        if self.steps:
            job["steps"] = self.steps
        job["tokenizer"] = str(self._tokenizer(job["size"]))
        if "photos" in job:
            job["folder"] = str(self._photos(job))
            job["files"] = job.get("many", self.photos)
        return job

    def _photos(self, job):
        # Only here, so that the tests of the rest need no Pillow.
        from benchmarks import _speed_inputs

        photos = _speed_inputs.make_photos(
            self.work / f"{job['photos']}-{self.photos}",
            job["photos"],
            self.photos,
        )
        if "many" not in job:
            return photos
        return _speed_inputs.make_many(
            self.work / f"many-{job['many']}", photos, job["many"]
        )

    def _tokenizer(self, size):
        """A tokenizer for the peer: ours, in its files."""
        folder = self.work / f"tokenizer-{size}"
        if not folder.exists():
            job = {"command": "tokenizer", "size": size, "folder": str(folder)}
            # Not in this process, which stays small: it imports TensorFlow.
            self._run(SIDES["ours"], job)
        return folder

    def _run(self, side, job, limit=3600):
        if not side.python.exists():
            raise NotMeasured(
                f"There is no {side.python}: `make peers .venv-jax/.installed`."
            )
        out = self.work / "result.json"
        out.unlink(missing_ok=True)
        job |= {"variant": side.variant, "out": str(out)}
        module = f"benchmarks.{side.module}"
        job["started"] = time.monotonic()
        try:
            done = subprocess.run(
                [str(side.python), "-m", module, json.dumps(job)],
                cwd=ROOT,
                env=self._environment(side),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
                timeout=limit,
            )
        except subprocess.TimeoutExpired as error:
            raise NotMeasured(f"no end after {limit} s") from error
        if done.returncode or not out.exists():
            last = done.stderr.strip().splitlines()[-12:]
            raise NotMeasured(
                "\n".join([f"{module} ended with {done.returncode}.", *last])
            )
        result = json.loads(out.read_text(encoding="utf-8"))
        if "missing" in result:
            raise NotMeasured(result["missing"], missing=True)
        return result

    def _environment(self, side):
        kept = {k: v for k, v in os.environ.items() if k not in NOT_INHERITED}
        return {
            **kept,
            "TF_CPP_MIN_LOG_LEVEL": "2",
            "HF_HUB_OFFLINE": "1",
            "HF_DATASETS_CACHE": str(self.work / "tables"),
            **side.environment,
        }


# === Cases ===


def measure(case, jobs, repeats, peers, fewer=None):
    """The rows of a case, and what kept others from being there.

    Args:
        case: A `Case`.
        jobs: `Jobs`.
        repeats: Integer >= 1.
        peers: Names of the peers that are wanted.
        fewer: Dict of sides that are repeated less often.

    Returns:
        Pair of a list of rows and a list of `(side, NotMeasured)`.
    """
    repeats = 1 if case.once else repeats
    peers = [] if case.alone else [p for p in case.peers if p in peers]
    names = ["ours", *peers]
    figures, versions, failures = {name: [] for name in names}, {}, []
    for repeat in range(repeats):
        for name in list(figures):
            if repeat >= (fewer or {}).get(name, repeats):
                continue
            job = case.job | case.ours if name == "ours" else case.job
            try:
                result = jobs.result(name, job, repeat, case.limit)
            except NotMeasured as error:
                failures.append((name, error))
                if name == "ours":
                    return [], failures
                del figures[name]
                continue
            mine = name == "ours" and case.our_figure
            figures[name].append((mine or case.figure)(result))
            versions[name] = result["versions"]
    ours = figures.pop("ours")
    compared = figures or {None: None}
    rows = [
        _row(case, against, ours, values, versions)
        for against, values in compared.items()
    ]
    return rows, failures


def _row(case, against, ours, values, versions):
    found = dict(versions["ours"])
    if against:
        found |= versions[against]
    return {
        "case": f"{case.number} {case.title}",
        "against": against,
        **_speed_results.comparison(ours, values),
        "unit": case.unit,
        "better": case.better,
        "repeats": [len(ours), len(values or [])],
        "versions": found,
        **_speed_results.machine(),
    }


def free_gb():
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024 / 1e9
    raise OSError("/proc/meminfo has no MemAvailable.")


def run(cases, jobs, repeats, peers, save, fewer=None):
    """Measures cases and prints them; tells how many jobs failed."""
    rows, notes, failed = [], {}, 0
    for case in cases:
        if free_gb() < case.memory:
            notes[f"{case.name}: needs {case.memory:.0f} GB of free memory"] = 1
            continue
        if case.bfloat16 and not _speed_results.multiplies_bfloat16(
            Path("/proc/cpuinfo").read_text()
        ):
            notes[f"{case.name}: needs instructions for bfloat16"] = 1
            continue
        start = time.monotonic()
        found, failures = measure(case, jobs, repeats, peers, fewer)
        minutes = (time.monotonic() - start) / 60
        print(f"{case.name}: {minutes:.1f} minutes", file=sys.stderr)
        rows += found
        if found:
            # At once: an hour of figures must not hang on the last of them.
            save(found)
        for name, error in failures:
            notes[f"{case.name}, {name}: {error}"] = 1
            failed += not error.missing
    print(_speed_results.table(rows))
    for note in notes:
        print(f"\nLeft out: {note}", file=sys.stderr)
    return failed


def parse(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--cases",
        nargs="+",
        default=[],
        metavar="CASE",
        help="names, or numbers of groups; all that are not full size",
    )
    parser.add_argument(
        "--full", action="store_true", help="full size too: hours and 19 GB"
    )
    parser.add_argument("--repeats", type=positive, default=3)
    parser.add_argument(
        "--slow_repeats",
        type=positive,
        default=1,
        help="fewer for KerasCV and JAX, which take long to begin",
    )
    parser.add_argument("--steps", type=positive, help="of every job")
    parser.add_argument(
        "--peers",
        nargs="+",
        choices=_speed_cases.PEERS,
        default=[p for p in _speed_cases.PEERS if p != _speed_cases.COMPILED],
        metavar="PEER",
        help=f"from {', '.join(map(repr, _speed_cases.PEERS))}",
    )
    parser.add_argument(
        "--compile",
        action="store_true",
        help="measure torch.compile too, which takes minutes to begin",
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help="one repeat of one step, saved nowhere",
    )
    parser.add_argument("--list", action="store_true", help="the cases")
    parser.add_argument(
        "--work", type=Path, default=WORK, help="scratch, for 2 GB"
    )
    parser.add_argument("--results", type=Path, default=RESULTS)
    given = parser.parse_args(arguments)
    try:
        given.chosen = _speed_cases.select(given.cases, given.full)
    except ValueError as error:
        parser.error(str(error))
    if given.compile:
        given.peers = [*given.peers, _speed_cases.COMPILED]
    if given.quick:
        given.repeats, given.steps = 1, 1
        given.chosen = [
            case for case in given.chosen if case.job.get("many", 0) <= 1000
        ]
    return given


def positive(text):
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, not {value}")
    return value


def main(arguments=None):
    given = parse(arguments)
    if given.list:
        for case in given.chosen:
            print(f"{case.number}  {case.name:22} {case.title} [{case.unit}]")
        return 0
    if not given.quick:
        # A file that cannot be merged into is found before the hour.
        _speed_results.read(given.results)
    jobs = Jobs(
        given.work.resolve(),
        photos=8 if given.quick else PHOTOS,
        steps=given.steps,
    )

    def save(rows):
        if not given.quick:
            _speed_results.save(given.results, rows)

    slow = (*_speed_cases.KERAS_CV, *_speed_cases.JAX)
    fewer = dict.fromkeys(slow, given.slow_repeats)
    failed = run(given.chosen, jobs, given.repeats, given.peers, save, fewer)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
