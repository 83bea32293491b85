"""Quick parts alone: `--device cpu --size tiny` runs all of it in minutes."""

import json

import numpy as np
import pytest

from benchmarks import gpu_check


@pytest.fixture
def no_children(monkeypatch):
    """Answers jobs by hand; returns what was asked."""
    asked = []

    def run(job, work, *args, **more):
        asked.append(job)
        work.mkdir(parents=True, exist_ok=True)
        if job["command"] == "card":
            return {"backend": "tensorflow", "platform": "cpu"}
        if job["command"] == "train":
            return {
                "steps": [0.5, 0.25],
                "batch": 4,
                "first": 9.0,
                "peak": 1.0,
                "device_peak": 2e9,
                "versions": {},
            }
        raise gpu_check.Failed("out of memory")

    monkeypatch.setattr(gpu_check, "run", run)
    monkeypatch.setattr(gpu_check, "peer_python", lambda *args: "python")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setenv("KERAS_BACKEND", "tensorflow")
    return asked


def test_without_a_gpu_nothing_is_measured(no_children, tmp_path, capsys):
    status = gpu_check.check(gpu_check.parse(["--work", str(tmp_path)]))
    assert status == 2
    assert [job["command"] for job in no_children] == ["card"]
    assert "sees no GPU here: cpu" in capsys.readouterr().err
    assert not list(tmp_path.rglob("results.json"))


def test_what_ran_is_written_although_a_part_failed(no_children, tmp_path):
    words = ["--device", "cpu", "--size", "tiny", "--work", str(tmp_path)]
    words += ["--parts", "bench", "profile"]
    assert gpu_check.check(gpu_check.parse(words)) == 1
    path = tmp_path / "tensorflow" / "results.json"
    found = json.loads(path.read_text())
    assert found["profile"] == {"failed": "out of memory"}
    assert found["card"]["platform"] == "cpu"
    sides = ["ours", "diffusers", "diffusers, tuned"]
    assert [row["side"] for row in found["bench"]] == sides * 2
    assert found["bench"][0]["images_per_second"] == pytest.approx(4 / 0.375)
    assert found["bench"][0]["device_peak_gb"] == 2.0
    jobs = [job for job in no_children if job["command"] == "train"]
    assert {job["dtype"] for job in jobs} == {"mixed_bfloat16"}
    assert all(job["remat"] for job in jobs)
    assert [job.get("lora") for job in jobs] == [None] * 3 + [16] * 3


def test_a_part_is_kept_by_calls_of_the_same_circumstances(
    no_children, tmp_path, monkeypatch
):
    words = ["--device", "cpu", "--size", "tiny", "--work", str(tmp_path)]
    path = tmp_path / "tensorflow" / "results.json"

    def parts(*names):
        gpu_check.check(gpu_check.parse([*words, "--parts", *names]))
        return sorted({*json.loads(path.read_text())} & {*gpu_check.PARTS})

    assert parts("bench") == ["bench"]
    assert parts("profile") == ["bench", "profile"]
    machine = gpu_check._speed_results.machine()
    other = lambda: machine | {"date": "2000-01-01"}  # noqa: E731
    monkeypatch.setattr(gpu_check._speed_results, "machine", other)
    assert parts("profile") == ["profile"]


def results(card="A", **parts):
    card = {"backend": "jax", "accelerators": [card]}
    return {"card": card, "size": "full", **parts}


def test_a_file_has_the_latest_results_of_each_card(tmp_path):
    path = tmp_path / "gpu_results.json"
    whole = {"equalities": [{"holds": True}], "bench": [{"step_seconds": 1.0}]}
    for card in ("B", "A", "B"):
        profile = {"trace": "profile"}
        gpu_check.publish(path, results(card, **whole, profile=profile))
    published = [results("A", **whole), results("B", **whole)]
    assert gpu_check.read_published(path) == published
    # What does not hold is no figure to publish.
    wrong = results(**whole | {"equalities": [{"holds": False}]})
    for incomplete in (wrong, results(bench=whole["bench"])):
        with pytest.raises(SystemExit, match="Missing: equalities. Run"):
            gpu_check.publish(path, incomplete)
    assert gpu_check.read_published(path) == published


def test_errors_are_of_all_gradients_and_of_the_worst_tensor():
    exact = {"loss": np.array(2.0), "a": np.array([3.0, 0.0])}
    exact |= {"b": np.array([0.0, 4.0]), "c": np.array([0.0, 0.0])}
    found = exact | {"loss": np.array(2.02), "b": np.array([0.0, 4.4])}
    loss, error, worst = gpu_check.errors(found, exact)
    assert (loss, error, worst) == pytest.approx((0.01, 0.08, 0.1))
    # Rounding where there is no gradient does not count.
    rounded = exact | {"c": np.array([1e-6, 0.0])}
    assert gpu_check.errors(rounded, exact)[2] < 1e-3


def test_a_wrong_gradient_fails():
    assert not gpu_check.has_failed([{"holds": True}, {"step_seconds": 1.0}])
    assert gpu_check.has_failed([{"holds": True}, {"holds": False}])
    assert gpu_check.has_failed({"failed": "out of memory"})
