"""A short run of `make fuzz`: damaged files end in errors that name them."""

import logging
from pathlib import Path

import pytest

from benchmarks import fuzz
from benchmarks._fuzz_kinds import KINDS


@pytest.fixture(scope="module")
def seeds(tmp_path_factory):
    path = tmp_path_factory.mktemp("seeds")
    fuzz.make_seeds(path)
    return path


def test_every_kind_is_readable_before_it_is_damaged(seeds):
    for number, kind in enumerate(KINDS):
        kind.read(seeds / str(number))
        for name in kind.files:
            assert (seeds / str(number) / name).is_file()


def test_damaged_files_end_in_errors_that_name_them(seeds, tmp_path):
    logging.disable(logging.WARNING)
    try:
        results = []
        for case in range(20 * len(KINDS)):
            fuzz.write_case(seeds, tmp_path / "case", 1, case)
            results.append((case, *fuzz.read_case(tmp_path / "case", case)))
    finally:
        logging.disable(logging.NOTSET)
    assert [r for r in results if r[1] in fuzz.FAULTS] == []
    # The damage is neither harmless nor the same everywhere.
    assert sum(r[1] == fuzz.OWN for r in results) > len(results) // 2
    assert sum(r[1] == fuzz.OK for r in results) > len(results) // 10


def test_faults_are_seen(tmp_path, monkeypatch):
    """Each kind of fault, by readers that have it."""

    def spin():
        while True:
            pass

    endings = {
        fuzz.FOREIGN: lambda path: {}["a"],
        fuzz.HANG: lambda path: spin(),
        fuzz.ALLOCATION: lambda path: bytearray(b"x") * 500_000_000,
        fuzz.OWN: lambda path: (path / "x").read_bytes(),
        fuzz.OK: lambda path: None,
    }

    monkeypatch.setattr(fuzz, "SECONDS", 0.2)
    for outcome, read in endings.items():
        kind = fuzz.KINDS[0].__class__("x", None, {"a": ""}, read)
        monkeypatch.setattr(fuzz, "KINDS", (kind,))
        assert fuzz.read_case(tmp_path, 0)[0] == outcome

    def unnamed(path: Path):
        raise ValueError("something is wrong")

    kind = fuzz.KINDS[0].__class__("x", None, {"a": ""}, unnamed)
    monkeypatch.setattr(fuzz, "KINDS", (kind,))
    assert fuzz.read_case(tmp_path, 0)[0] == fuzz.FOREIGN


def test_the_table_counts_outcomes():
    results = [(0, fuzz.OK, ""), (1, fuzz.CRASH, "exit code 3")]
    last = fuzz.table(results).splitlines()[-1]
    assert last.split() == ["all", "1", "0", "0", "1", "0", "0"]
