import dataclasses
import json
import os
import re
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks import _speed_cases
from benchmarks import _speed_child
from benchmarks import _speed_inputs
from benchmarks import _speed_ours
from benchmarks import _speed_results
from benchmarks import _speed_sizes
from benchmarks import _speed_workers
from benchmarks import gpu_check
from benchmarks import speed
from benchmarks import tables

ROOT = Path(__file__).resolve().parents[2]


def row(case="1 step", against="diffusers", **values):
    return {
        "case": case,
        "against": against,
        "ours": 1.0,
        "peer": 2.0,
        "ratio": 0.5,
        "unit": "s",
        "better": "lower",
        **values,
    }


# === Figures ===


def test_a_comparison_is_of_medians_and_ranges():
    found = _speed_results.comparison([1.0, 3.0, 2.0], [4.0, 4.0, 5.0])
    assert found == {
        "ours": 2.0,
        "ours_range": [1.0, 3.0],
        "peer": 4.0,
        "peer_range": [4.0, 5.0],
        "ratio": 0.5,
        # Of what ran one after the other: 1/4, 3/4, 2/5.
        "ratio_range": [0.25, 0.75],
    }


def test_a_figure_of_ours_alone_has_no_ratio():
    found = _speed_results.comparison([3.0], None)
    assert found["ours"] == 3.0
    assert found["peer"] is None and found["ratio"] is None


def test_nothing_is_divided_by_zero():
    found = _speed_results.comparison([3.0, 4.0], [0.0, 0.0])
    assert found["peer"] == 0.0 and found["ratio"] is None


@pytest.mark.parametrize(
    "value, text",
    [(1234.5, "1234"), (85.25, "85.2"), (2.0, "2.00"), (0.0519, "0.052")],
)
def test_numbers_have_three_digits(value, text):
    assert _speed_results.number(value) == text


def test_the_table_shows_ranges_and_what_is_better():
    lines = _speed_results.table(
        [
            row(ours_range=[0.9, 1.1]),
            row("2", None, peer=None, ratio=None),
            row("5 recipe", unit="images/s", better="higher"),
        ]
    ).splitlines()
    assert lines[0].startswith("| case | against |")
    assert lines[2] == (
        "| 1 step | diffusers | s | 1.00 (0.900–1.10) | 2.00 | 0.500 |"
    )
    assert lines[3] == "| 2 | – | s | 1.00 | – | – |"
    assert "| images/s, more is better |" in lines[4]


def test_a_clock_keeps_the_warm_up_apart(monkeypatch):
    moments = iter([110.0, 111.0, 113.0, 116.0])
    monkeypatch.setattr(_speed_child.time, "monotonic", lambda: next(moments))
    clock = _speed_child.Clock({"started": 100.0, "warmup": 2, "steps": 2})
    assert [clock.tick() for _ in range(4)] == [True, True, True, False]
    assert clock.result(batch=4) == {
        "first": 10.0,
        "warmup": [1.0],
        "steps": [2.0, 3.0],
        "batch": 4,
    }


# A process that trains apart: its steps take three seconds each.
OTHER = """
import json
import pathlib
import sys

print("of a library")
print("here", flush=True)
input()
pathlib.Path(sys.argv[1]).write_text(json.dumps({"steps": [3.0, 3.0]}))
"""


def test_processes_apart_begin_together_and_the_slowest_counts(
    tmp_path, monkeypatch
):
    marks = []

    def train(job, ready):
        clock = _speed_child.Clock(job, lambda: (marks.append("all"), ready()))
        while clock.tick():
            marks.append(len(clock.marks))
        return {"steps": [1.0, 2.0], "batch": job["batch"]}

    def command(job):
        assert (job["index"], job["apart"]) == (1, True)
        return [sys.executable, "-c", OTHER, job["out"]]

    monkeypatch.setattr(_speed_workers, "_command", command)
    monkeypatch.setattr(_speed_workers.os, "sched_setaffinity", lambda *_: None)
    monkeypatch.setattr(_speed_ours, "train", train)
    monkeypatch.setitem(os.environ, "TF_CONFIG", "")
    job = {"started": 0.0, "warmup": 2, "steps": 2, "batch": 4, "workers": 2}
    out = str(tmp_path / "result.json")
    more = {"apart": True, "cores": [0, 1], "out": out}
    found = _speed_ours.share(job | more)
    # They know no address of each other.
    assert not os.environ["TF_CONFIG"]
    assert marks == [1, "all", 2, 3]
    assert found == {"steps": [3.0, 3.0], "batch": 8}
    assert _speed_cases.images_per_second(found) == pytest.approx(16 / 6)


def test_a_process_that_ends_too_soon_is_told_of(tmp_path, monkeypatch):
    dead = [sys.executable, "-c", "print('of a library')"]
    monkeypatch.setattr(_speed_workers, "_command", lambda job: dead)
    monkeypatch.setattr(_speed_workers.os, "sched_setaffinity", lambda *_: None)
    job = {"workers": 2, "apart": True, "cores": [0, 1], "out": "result.json"}
    with (
        pytest.raises(RuntimeError, match="Another worker ended"),
        _speed_workers.joined(job) as meet,
    ):
        meet()


def test_figures_of_a_result():
    result = {
        "first": 9.0,
        "steps": [1.0, 2.0, 6.0],
        "batch": 3,
        "files": 10,
        "fill": 5.0,
    }
    assert _speed_cases.step_seconds(result) == 2.0
    assert _speed_cases.images_per_second(result) == 1.0
    # 20 images in 20 seconds of training and 5 of encoding.
    assert _speed_cases.over_epochs(2)(result) == pytest.approx(0.8)


def test_memory_is_the_peak_of_this_process():
    before = _speed_child.memory_gb()
    held = np.ones(50_000_000, "uint8")
    grown = _speed_child.memory_gb()
    del held
    # The kernel counts in steps of some pages for each processor.
    assert 0.01 < before <= grown + 0.001
    assert _speed_child.memory_gb() >= grown - 0.001
    with pytest.raises(OSError, match="VmNothing"):
        _speed_child.memory_gb("VmNothing")


# === The results file ===


def test_rows_measured_again_are_replaced(tmp_path):
    path = tmp_path / "results.json"
    _speed_results.save(path, [row(), row(against="KerasCV")])
    _speed_results.save(path, [row(ours=3.0), row("2 step", None)])
    rows = json.loads(path.read_text(encoding="utf-8"))
    found = [(r["case"], r["against"], r["ours"]) for r in rows]
    assert found == [
        ("1 step", "KerasCV", 1.0),
        ("1 step", "diffusers", 3.0),
        ("2 step", None, 1.0),
    ]
    assert [file.name for file in tmp_path.iterdir()] == ["results.json"]


def test_other_processors_and_versions_have_rows_of_their_own(tmp_path):
    path = tmp_path / "results.json"
    old = row(cpu="A", cores=2, versions={"keras": "1"}, date="2026-01-01")
    _speed_results.save(path, [old])
    for changed in ({"cpu": "B"}, {"versions": {"keras": "2"}}):
        _speed_results.save(path, [{**old, **changed, "date": "2026-01-02"}])
    rows = _speed_results.read(path)
    assert len(rows) == 3
    found = _speed_results.by_processor(rows)
    assert {name: len(rows) for name, rows in found.items()} == {"A": 1, "B": 1}
    assert found["A"][0]["versions"] == {"keras": "2"}


def test_a_processor_is_its_name_and_its_widest_instructions():
    text = "model name\t: Intel(R) Xeon(R) Processor\nflags\t: {}\n"
    names = [
        _speed_results.processor(text.format(flags))
        for flags in (
            "sse",
            "sse avx2",
            "avx2 avx512f",
            "avx2 avx512f amx_tile",
        )
    ]
    assert names == [
        "Intel Xeon",
        "Intel Xeon, AVX2",
        "Intel Xeon, AVX-512",
        "Intel Xeon, AMX",
    ]


def test_the_documents_have_the_tables_of_the_results_file():
    rows = _speed_results.read(tables.RESULTS)
    titles = {f"{c.number} {c.title}" for c in _speed_cases.CASES.values()}
    assert {row["case"] for row in rows} <= titles
    gpus = gpu_check.read_published(tables.GPU_RESULTS)
    for path, text in tables.documents(rows, gpus).items():
        assert path.read_text(encoding="utf-8") == text, "`make tables`"
    assert all(found["size"] == "full" for found in gpus)
    # No path of the machine that was measured.
    assert "/" not in tables.GPU_RESULTS.read_text(encoding="utf-8")


def gpu_row(side, **values):
    return {"case": "LoRA", "side": side, "batch": 4, **values}


def test_a_gpu_is_compared_with_the_better_of_both_peers():
    sides = {
        "ours": gpu_row("ours", step_seconds=0.05, images_per_second=80.0),
        "diffusers": gpu_row(
            "diffusers", step_seconds=0.1, images_per_second=20.0
        ),
        "diffusers, tuned": gpu_row(
            "diffusers, tuned", step_seconds=0.2, images_per_second=40.0
        ),
    }
    step = ["LoRA, batch 4: step", "ms", "**0.500**", "50.0", "100", "200"]
    assert tables.gpu_line("loRA", sides, "step_seconds") == step
    assert tables.gpu_line("loRA", sides, "images_per_second")[2] == "**2.00**"
    # Of what was not measured, and without a peer.
    assert tables.gpu_line("loRA", sides, "host_peak_gb")[2:] == ["–"] * 4
    alone = tables.gpu_line("loRA", {"ours": sides["ours"]}, "step_seconds")
    assert alone[2:] == ["–", "50.0", "–", "–"]


def test_equalities_of_a_gpu_stand_beside_their_limits():
    model = {"name": "tiny", "loss": 0.0, "gradients": 5e-6}
    kernel = {"name": "attention", "cudnn": False}
    kernel["errors"] = {"y": 2e-3, "dq": 1e-3, "dk": 3e-3, "dv": 1e-3}
    rows = [model | {"limits": [1e-5, 1e-3]}, kernel | {"limits": [2e-2]}]
    card = {"backend": "jax", "accelerators": ["A"]}
    text = tables.gpu_equalities([{"card": card, "equalities": rows}])
    assert text.splitlines() == [
        "A, JAX backend:",
        "",
        "|  | loss or output | gradients | limits |",
        "| --- | --- | --- | --- |",
        "| tiny | 0 | 5.0e-6 | 1.0e-5 / 1.0e-3 |",
        "| attention, by our kernel | 2.0e-3 | 3.0e-3 | 2.0e-2 |",
    ]


def test_a_comparison_replaces_ours_alone():
    alone = row(against=None, peer=None, ratio=None)
    assert _speed_results.merged([alone], [row()]) == [row()]
    assert _speed_results.merged([row()], [alone]) == [alone, row()]


@pytest.mark.parametrize("text", ["{", "{}", "[1]", '[{"ours": 1}]'])
def test_a_file_that_is_no_results_is_kept(tmp_path, text):
    path = tmp_path / "results.json"
    path.write_text(text)
    with pytest.raises(ValueError, match="results file must be"):
        _speed_results.save(path, [row()])
    assert path.read_text() == text


def test_the_machine_is_named():
    found = _speed_results.machine()
    assert found["cores"] >= 1 and found["memory_gb"] > 0.5
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", found["date"])


# === Cases ===


def test_every_group_of_the_issue_has_cases():
    numbers = {case.number for case in _speed_cases.CASES.values()}
    assert numbers == set(range(1, 10))
    titles = [case.title for case in _speed_cases.CASES.values()]
    assert len(set(titles)) == len(titles)


def test_full_size_must_be_asked_for():
    names = [case.name for case in _speed_cases.select([], full=False)]
    assert "step-mid" in names and "step-full-256" not in names
    everything = _speed_cases.select([], full=True)
    assert len(everything) == len(_speed_cases.CASES)
    (named,) = _speed_cases.select(["step-full-256"], full=False)
    assert named.full
    assert _speed_cases.select(["2"], full=False) == []


def test_groups_and_names_mix():
    chosen = _speed_cases.select(["7", "step-tiny"], full=False)
    assert [case.name for case in chosen] == ["step-tiny", "image-mid"]


def test_unknown_cases_are_refused():
    with pytest.raises(ValueError, match="step-middle"):
        _speed_cases.select(["1", "step-middle"], full=False)


def test_bfloat16_is_measured_where_there_are_instructions(capsys):
    flags = "flags\t\t: fpu {} avx512_bitalg\n"
    for flag, there in (("avx512_bf16", 1), ("amx_bf16", 1), ("avx_vnni", 0)):
        found = _speed_results.multiplies_bfloat16(flags.format(flag))
        assert found == bool(there)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_speed_results, "multiplies_bfloat16", lambda _: False)
        case = _speed_cases.CASES["step-mid-bfloat16"]
        # Without jobs: none may be asked for.
        assert speed.run([case], None, 1, [], None) == 0
    assert "step-mid-bfloat16: needs instr" in capsys.readouterr().err


def test_jobs_are_shared_between_figures():
    cases = _speed_cases.CASES
    assert cases["step-mid"].job == cases["memory-mid"].job
    assert cases["first-mid"].job == cases["memory-mid"].job
    lora = cases["step-lora-mid"], cases["memory-lora-mid"]
    assert lora[0].job == lora[1].job and lora[0].ours == lora[1].ours


@pytest.mark.parametrize("name", _speed_cases.CASES)
def test_every_side_knows_the_job(name):
    case = _speed_cases.CASES[name]
    assert set(case.peers) <= set(speed.SIDES)
    for name in ("ours", *case.peers):
        path = ROOT / "benchmarks" / f"{speed.SIDES[name].module}.py"
        commands = path.read_text().rpartition("COMMANDS = ")[2]
        assert f'"{case.job["command"]}"' in commands.partition("}")[0]
    assert case.job["size"] in _speed_sizes.SIZES


# === Sizes and inputs ===


def test_tiny_is_the_preset():
    from keras_sdft.models import PRESETS

    spec, size = PRESETS["tiny"].spec, _speed_sizes.SIZES["tiny"]
    assert spec.diffusion_model.widths == size.widths
    assert spec.diffusion_model.num_heads == (size.heads,) * 4
    assert spec.diffusion_model.blocks == size.blocks
    assert spec.text_encoder.width == size.text_width
    assert spec.text_encoder.depth == size.text_depth
    assert spec.text_encoder.num_heads == size.text_heads
    assert spec.text_encoder.vocabulary_size == size.vocabulary
    assert spec.autoencoder.encoder_widths == size.autoencoder
    assert spec.autoencoder.groups == size.autoencoder_groups


def test_full_is_stable_diffusion():
    from keras_sdft.models import DiffusionModelSpec
    from keras_sdft.models import TextEncoderSpec

    size = _speed_sizes.SIZES["full"]
    assert DiffusionModelSpec().widths == size.widths
    assert DiffusionModelSpec().context_width == size.text_width
    assert TextEncoderSpec().depth == size.text_depth


def test_both_sides_get_the_same_batch():
    job = {"size": "mid", "batch": 2, "pixels": 64}
    first, second = _speed_sizes.ready_batch(job), _speed_sizes.ready_batch(job)
    assert first["moments"].shape == (2, 8, 8, 8)
    assert first["context"].shape == (2, 77, 128)
    for name, array in first.items():
        assert array.dtype == np.float32
        np.testing.assert_array_equal(array, second[name])


def test_photos_are_as_large_as_photos(tmp_path):
    sizes = {}
    for kind in ("jpeg", "png"):
        folder = _speed_inputs.make_photos(tmp_path / kind, kind, 1)
        (file,) = folder.glob(f"*.{kind}")
        sizes[kind] = file.stat().st_size
    pixels = 1000 * 750
    # Bits a pixel of a camera's photo: 2 to 6 as JPEG, 10 to 20 as PNG.
    assert 1.5 < 8 * sizes["jpeg"] / pixels < 6
    assert 8 < 8 * sizes["png"] / pixels < 20


def test_a_large_set_has_names_of_its_own(tmp_path):
    photos = _speed_inputs.make_photos(tmp_path / "photos", "jpeg", 2)
    folder = _speed_inputs.make_many(tmp_path / "many", photos, 5)
    lines = (folder / "metadata.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    assert len({row["file_name"] for row in rows}) == 5
    assert len({row["text"] for row in rows}) == 5
    files = [folder / row["file_name"] for row in rows]
    assert len({file.stat().st_ino for file in files}) == 2
    with pytest.raises(ValueError, match="at least 3 photos"):
        _speed_inputs.make_many(tmp_path / "more", photos, 100_001)


# === The driver ===


class FakeJobs:
    """Results without processes."""

    def __init__(self, results):
        self.results = results
        self.asked = []

    def result(self, name, job, repeat, limit):
        self.asked.append((name, repeat))
        found = self.results[name]
        if isinstance(found, Exception):
            raise found
        return {"steps": [found[repeat]], "versions": {name: "1"}}


@pytest.fixture
def case():
    return dataclasses.replace(
        _speed_cases.CASES["step-mid"], peers=("diffusers", "KerasCV")
    )


def test_sides_run_in_turn(case):
    jobs = FakeJobs(
        {"ours": [1.0, 2.0], "diffusers": [2.0, 4.0], "KerasCV": [4.0, 4.0]}
    )
    rows, failures = speed.measure(case, jobs, 2, ["diffusers", "KerasCV"])
    names = ["ours", "diffusers", "KerasCV"]
    assert jobs.asked == [(name, r) for r in (0, 1) for name in names]
    assert not failures
    assert [r["against"] for r in rows] == ["diffusers", "KerasCV"]
    assert rows[0]["ratio"] == 0.5 and rows[0]["ratio_range"] == [0.5, 0.5]
    assert rows[0]["versions"] == {"ours": "1", "diffusers": "1"}
    wanted = {"case", "ours", "peer", "ratio", "unit", "versions"}
    assert wanted <= set(rows[0])


def test_a_peer_that_fails_leaves_the_others(case):
    error = speed.NotMeasured("killed")
    jobs = FakeJobs({"ours": [1.0], "diffusers": error, "KerasCV": [4.0]})
    rows, failures = speed.measure(case, jobs, 1, ["diffusers", "KerasCV"])
    assert [r["against"] for r in rows] == ["KerasCV"]
    assert failures == [("diffusers", error)]


def test_without_ours_there_is_no_row(case):
    error = speed.NotMeasured("not there yet", missing=True)
    jobs = FakeJobs({"ours": error, "diffusers": [1.0]})
    assert speed.measure(case, jobs, 1, ["diffusers"]) == (
        [],
        [("ours", error)],
    )


def test_peers_can_be_left_out(case):
    jobs = FakeJobs({"ours": [1.0]})
    ((only,), _) = speed.measure(case, jobs, 1, [])
    assert only["against"] is None and only["ours"] == 1.0


def test_a_slow_peer_is_repeated_less_often(case):
    jobs = FakeJobs({"ours": [1.0, 3.0], "KerasCV": [4.0]})
    fewer = {"KerasCV": 1}
    ((only,), _) = speed.measure(case, jobs, 2, ["KerasCV"], fewer)
    assert jobs.asked == [("ours", 0), ("KerasCV", 0), ("ours", 1)]
    assert only["repeats"] == [2, 1]
    assert only["ratio"] == 0.5 and only["ratio_range"] == [0.25, 0.25]


def test_what_is_too_long_runs_once(case):
    jobs = FakeJobs({"ours": [1.0]})
    speed.measure(dataclasses.replace(case, once=True), jobs, 3, [])
    assert jobs.asked == [("ours", 0)]


def test_a_run_saves_and_counts_failures(case, monkeypatch, capsys):
    saved = []
    jobs = FakeJobs({"ours": [1.0], "diffusers": speed.NotMeasured("killed")})
    monkeypatch.setattr(speed, "free_gb", lambda: 100.0)
    assert speed.run([case], jobs, 1, ["diffusers"], saved.append) == 1
    jobs.results["diffusers"] = [2.0]
    assert speed.run([case], jobs, 1, ["diffusers"], saved.append) == 0
    # Without its peers, our figure is still worth its minutes.
    assert [rows[0]["against"] for rows in saved] == [None, "diffusers"]
    assert [rows[0]["ratio"] for rows in saved] == [None, 0.5]
    shown = capsys.readouterr()
    assert "killed" in shown.err
    assert "| 1 training step, mid size" in shown.out


def test_a_case_that_does_not_fit_is_left_out(case, monkeypatch, capsys):
    monkeypatch.setattr(speed, "free_gb", lambda: 0.5)
    assert speed.run([case], FakeJobs({}), 1, [], None) == 0
    assert "needs 6 GB of free memory" in capsys.readouterr().err


def test_a_process_that_fails_is_told_of(tmp_path, monkeypatch):
    monkeypatch.setitem(
        speed.SIDES, "ours", speed.Side(speed.OURS, "_speed_nothing")
    )
    monkeypatch.setattr(speed.Jobs, "_tokenizer", lambda self, size: tmp_path)
    jobs = speed.Jobs(tmp_path / "work")
    if not speed.OURS.exists():
        pytest.skip("there is no .venv beside this checkout")
    with pytest.raises(speed.NotMeasured, match="_speed_nothing ended"):
        jobs.result("ours", {"size": "tiny"}, 0)


def test_a_side_that_is_not_installed_is_told_of(tmp_path, monkeypatch):
    nowhere = speed.Side(tmp_path / "python", "_speed_peer")
    monkeypatch.setitem(speed.SIDES, "diffusers", nowhere)
    monkeypatch.setattr(speed.Jobs, "_tokenizer", lambda self, size: tmp_path)
    jobs = speed.Jobs(tmp_path / "work")
    with pytest.raises(speed.NotMeasured, match="make peers"):
        jobs.result("diffusers", {"size": "tiny"}, 0)


def test_a_side_starts_with_its_own_defaults(tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("TF_ENABLE_ONEDNN_OPTS", "0")
    jobs = speed.Jobs(tmp_path)
    environment = jobs._environment(speed.SIDES["KerasCV"])
    assert "OMP_NUM_THREADS" not in environment
    assert "TF_ENABLE_ONEDNN_OPTS" not in environment
    environment = jobs._environment(speed.SIDES["KerasCV, graph, oneDNN"])
    assert environment["TF_ENABLE_ONEDNN_OPTS"] == "1"


def test_what_a_side_cannot_do_yet_is_a_result(tmp_path, monkeypatch):
    def cannot(job):
        raise NotImplementedError("not there yet")

    out = tmp_path / "result.json"
    job = json.dumps({"command": "read", "out": str(out)})
    monkeypatch.setattr(_speed_child.sys, "argv", ["child", job])
    _speed_child.main({"read": cannot}, ["numpy"])
    result = json.loads(out.read_text())
    assert result["missing"] == "not there yet"
    assert result["versions"]["numpy"] == np.__version__


# === The command line ===


def test_the_defaults_are_those_of_make_bench():
    given = speed.parse([])
    assert given.repeats == 3 and given.steps is None
    assert given.slow_repeats == 1
    assert not any(case.full for case in given.chosen)
    assert "diffusers, compiled" not in given.peers
    assert "diffusers, compiled" in speed.parse(["--compile"]).peers


def test_quick_takes_one_repeat_of_one_step():
    given = speed.parse(["--quick"])
    assert (given.repeats, given.steps) == (1, 1)
    assert max(case.job.get("many", 0) for case in given.chosen) == 1000


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--repeats", "0"], "at least 1"),
        (["--steps", "-2"], "at least 1"),
        (["--cases", "10"], "No such cases"),
        (["--peers", "jax"], "invalid choice"),
    ],
)
def test_wrong_arguments_are_refused(arguments, message, capsys):
    with pytest.raises(SystemExit):
        speed.parse(arguments)
    assert message in capsys.readouterr().err


def test_the_cases_can_be_listed(capsys):
    assert speed.main(["--list", "--cases", "7"]) == 0
    assert capsys.readouterr().out.startswith("7  image-mid")


def test_what_starts_again_is_run_once_before(tmp_path, monkeypatch):
    jobs, ran = speed.Jobs(tmp_path), []

    def run(side, job, limit=3600):
        ran.append(side.environment.get("KERAS_BACKEND"))
        return {"run": len(ran)}

    monkeypatch.setattr(jobs, "_run", run)
    monkeypatch.setattr(jobs, "_whole", dict)
    plain, again = _speed_cases.JAX
    found = [jobs.result(plain, {}, 0), jobs.result(again, {}, 0)]
    found.append(jobs.result(again, {}, 1))
    assert found == [{"run": 1}, {"run": 3}, {"run": 4}]
    assert set(ran) == {"jax"}
    caches = [
        speed.SIDES[s].environment.get("JAX_COMPILATION_CACHE_DIR")
        for s in _speed_cases.JAX
    ]
    assert caches[0] is None and caches[1]
