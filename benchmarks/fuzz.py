"""Damages small inputs of every kind, and counts how the readers end.

    python -m benchmarks.fuzz --cases 30000 --seed 0

A reader may succeed, or raise a ValueError or OSError of this library that
names the file. Anything else is a fault: another error, a crash, more than
10 seconds of the processor, more than 400 MB. `--case N` reads one case again
and shows its traceback. Case N of a seed is always the same.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import multiprocessing
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from pathlib import Path

import numpy as np

from benchmarks._fuzz_kinds import KINDS
from benchmarks._fuzz_kinds import damage

SECONDS, MEGABYTES = 10, 400
# A process that does not answer for so long hangs outside Python.
_SILENCE = 60
OK, OWN, FOREIGN = "ok", "own error", "foreign error"
CRASH, HANG, ALLOCATION = "crash", "hang", "allocation"
FAULTS = (FOREIGN, CRASH, HANG, ALLOCATION)


class Hang(BaseException):
    """A case took too long; no `except Exception` may catch it."""


def make_seeds(directory: Path) -> None:
    """Writes a valid input of every kind, and reads it."""
    for number, kind in enumerate(KINDS):
        path = directory / str(number)
        path.mkdir()
        kind.make(path)


def write_case(seeds: Path, directory: Path, seed: int, case: int) -> Path:
    """Writes the input of a case; files that are whole become links.

    Args:
        seeds: Directory of `make_seeds`.
        directory: Where to write; emptied before.
        seed: Integer.
        case: Integer, number of the case.

    Returns:
        Path of the file that was damaged.
    """
    shutil.rmtree(directory, ignore_errors=True)
    number = case % len(KINDS)
    random = np.random.default_rng([seed, case])
    files = sorted(KINDS[number].files)
    name = files[int(random.integers(len(files)))]
    for path in sorted((seeds / str(number)).rglob("*")):
        target = directory / path.relative_to(seeds / str(number))
        if path.is_dir():
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        target.symlink_to(path)
    other = int(random.integers(len(KINDS)))
    stranger = seeds / str(other) / sorted(KINDS[other].files)[0]
    data = damage(
        random,
        KINDS[number].files[name],
        (directory / name).read_bytes(),
        stranger.read_bytes()[:20_000],
    )
    (directory / name).unlink()
    (directory / name).write_bytes(data)
    return directory / name


def read_case(directory: Path, case: int) -> tuple[str, str]:
    """Reads a case and judges how it ended.

    Args:
        directory: Directory of `write_case`.
        case: Integer.

    Returns:
        The outcome, one of `OK`, `OWN` and `FAULTS`, and a text.
    """
    kind = KINDS[case % len(KINDS)]
    before = _reset_peak()
    signal.signal(signal.SIGPROF, _raise_hang)
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    try:
        try:
            kind.read(directory)
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
        outcome, text = OK, ""
    except Hang as error:
        outcome, text = HANG, _place(error)
    except Exception as error:
        outcome, text = _judge(error, directory, kind.names_file)
    used = _peak() - before
    if used > MEGABYTES * 1000:
        return ALLOCATION, f"{used // 1000} MB, {outcome} {text}"
    return outcome, text


def _raise_hang(*_) -> None:
    raise Hang


def _judge(
    error: Exception, directory: Path, names_file: bool
) -> tuple[str, str]:
    text = str(error)
    ours = isinstance(error, (ValueError, OSError)) and (
        type(error).__module__.startswith(("builtins", "keras_sdft"))
        and not isinstance(error, UnicodeError)
    )
    named = str(directory) in text or not names_file
    if isinstance(error, OSError) and error.filename is not None:
        named = True
    if ours and named:
        return OWN, ""
    return FOREIGN, f"{type(error).__name__} {_place(error)}: {text[:150]}"


def _place(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    found = [f for f in frames if "keras_sdft" in f.filename] or frames
    last = found[-1]
    return f"{Path(last.filename).name}:{last.lineno}"


def _reset_peak() -> int:
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    return _peak()


def _peak() -> int:
    """Returns the peak resident memory in kB since `_reset_peak`."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1])
    return 0


def run(cases, seed: int = 0, report=None) -> list[tuple[int, str, str]]:
    """Reads cases in this process.

    Args:
        cases: Iterable of integers.
        seed: Integer.
        report: Function of each `(case, outcome, text)`, or `None`.

    Returns:
        A list of `(case, outcome, text)`.
    """
    results = []
    with tempfile.TemporaryDirectory() as folder:
        seeds = Path(folder) / "seeds"
        seeds.mkdir()
        make_seeds(seeds)
        for case in cases:
            directory = Path(folder) / "case"
            write_case(seeds, directory, seed, case)
            result = (case, *read_case(directory, case))
            results.append(result)
            if report is not None:
                report(result)
    return results


def _work(connection, cases: range, seed: int) -> None:
    """Reads cases in a process of its own, with a limit on memory."""
    import logging

    logging.disable(logging.CRITICAL)
    devnull = os.open(os.devnull, os.O_WRONLY)
    os.dup2(devnull, 2)
    import keras_sdft.data
    import keras_sdft.models.stable_diffusion  # noqa: F401

    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + 3_000_000_000
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    run(cases, seed, connection.send)
    connection.send(None)


def run_apart(cases: range, seed: int):
    """Yields the results of cases read in a process that may die.

    After a crash or a hang another process goes on with the next case.
    """
    context = multiprocessing.get_context("spawn")
    while cases:
        ours, theirs = context.Pipe()
        process = context.Process(target=_work, args=(theirs, cases, seed))
        process.start()
        theirs.close()
        outcome = None
        while outcome is None:
            if not ours.poll(_SILENCE):
                outcome = HANG
                break
            try:
                result = ours.recv()
            except EOFError:
                outcome = CRASH
                break
            if result is None:
                process.join()
                return
            cases = cases[1:]
            yield result
        process.kill()
        process.join()
        yield cases[0], outcome, f"exit code {process.exitcode}"
        cases = cases[1:]


def _part(connection, cases: range, seed: int) -> None:
    for result in run_apart(cases, seed):
        connection.send(result)
    connection.send(None)


def run_all(count: int, seed: int, processes: int):
    """Yields the results of `count` cases from several processes."""
    context = multiprocessing.get_context("spawn")
    connections = []
    for number in range(processes):
        ours, theirs = context.Pipe()
        cases = range(number, count, processes)
        process = context.Process(target=_part, args=(theirs, cases, seed))
        process.start()
        connections.append(ours)
    while connections:
        for connection in multiprocessing.connection.wait(connections):
            result = connection.recv()
            if result is None:
                connections.remove(connection)
            else:
                yield result


def table(results) -> str:
    """Returns counts by kind and outcome as text."""
    counts: dict = collections.defaultdict(collections.Counter)
    for case, outcome, _ in results:
        counts[KINDS[case % len(KINDS)].name][outcome] += 1
    columns = (OK, OWN, *FAULTS)
    rows = [("", *columns)]
    for name, found in counts.items():
        rows.append((name, *(str(found[c]) for c in columns)))
    total = sum(counts.values(), collections.Counter())
    rows.append(("all", *(str(total[c]) for c in columns)))
    return "\n".join(
        f"{row[0]:20}" + "".join(f"{cell:>15}" for cell in row[1:])
        for row in rows
    )


def main(arguments=None) -> int:
    """Runs the fuzzer; the exit code is 1 if there is a fault."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=30_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--case", type=int, help="show this case alone")
    options = parser.parse_args(arguments)
    if options.case is not None:
        return _show(options.seed, options.case)
    start, results = time.monotonic(), []
    faults: dict = collections.defaultdict(list)
    for result in run_all(options.cases, options.seed, options.processes):
        results.append(result)
        case, outcome, text = result
        if outcome in FAULTS:
            name = KINDS[case % len(KINDS)].name
            group = (name, outcome, text.partition(": ")[0])
            faults[group].append(case)
            if len(faults[group]) == 1:
                print(f"case {case}: {name}: {outcome}: {text}", flush=True)
    print(table(results))
    print(f"{len(results)} cases in {time.monotonic() - start:.0f} s")
    for (name, outcome, place), cases in faults.items():
        print(f"{len(cases):6} {outcome} in {name}, {place}: {cases[:5]}")
    return int(bool(faults))


def _show(seed: int, case: int) -> int:
    with tempfile.TemporaryDirectory() as folder:
        seeds = Path(folder) / "seeds"
        seeds.mkdir()
        make_seeds(seeds)
        path = write_case(seeds, Path(folder) / "case", seed, case)
        print(f"{path}: {path.read_bytes()[:500]!r}")
        KINDS[case % len(KINDS)].read(Path(folder) / "case")
    return 0


if __name__ == "__main__":
    sys.exit(main())
