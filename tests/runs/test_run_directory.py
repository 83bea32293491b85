"""A run's directory is one act, and an earlier run outlives a failed one."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

from keras_sdft import data
from keras_sdft import files
from keras_sdft import runs
from keras_sdft.data.examples import Examples
from keras_sdft.runs import RunDirectory
from keras_sdft.runs import check_separate
from keras_sdft.runs import read_record
from keras_sdft.runs.resume import check_flags

PACKAGE = Path(files.__file__).parent
# Without the package's own imports, which take seconds.
LIGHT = f"""
import os, sys, types
package = types.ModuleType("keras_sdft")
package.__path__ = [{str(PACKAGE)!r}]
sys.modules["keras_sdft"] = package
from keras_sdft.runs import RunDirectory
"""
KILLS = (
    LIGHT
    + """
from keras_sdft import files
os.fsync = lambda handle: None

def train(path, text):
    with RunDirectory(path, "train", overwrite=True) as run:
        run.begin()
        run.previews.mkdir(exist_ok=True)
        (run.previews / "step_000001.png").write_text(text)
        run.weights.mkdir(exist_ok=True)
        (run.weights / "diffusion_model.weights.h5").write_text(text)
        run.finish(1)

def weights(path):
    found = set()
    for name in files.files_in(path):
        if name.endswith(".h5"):
            found.add(open(os.path.join(path, name)).read())
    return found

def run(action):
    child = os.fork()
    if not child:
        try:
            action()
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

def killed_at(moment, action):
    def kill(event, arguments, seen=[0]):
        if event.split(".")[0] in ("open", "os", "shutil", "fcntl"):
            seen[0] += 1
            if seen[0] == moment:
                os.kill(os.getpid(), 9)
    sys.addaudithook(kill)
    action()

moment = 0
while True:
    moment += 5
    path = os.path.join(sys.argv[1], str(moment))
    train(path, "one")
    notes = os.path.join(path, "previews", "mine.txt")
    open(notes, "w").write("mine")
    code = run(lambda: killed_at(moment, lambda: train(path, "two")))
    if code == 0:
        break
    assert code == -9, code
    assert weights(path) & {"one", "two"}, moment
    assert run(lambda: train(path, "three")) == 0
    assert weights(path) == {"three"}, (moment, weights(path))
    expected = [
        ".lock",
        "previews/mine.txt",
        "previews/step_000001.png",
        "run.json",
        "weights/diffusion_model.weights.h5",
    ]
    assert files.files_in(path) == expected, (moment, files.files_in(path))
print(moment)
"""
)


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "a.png").write_bytes(b"mine")
    return folder


def train(path, text="new", overwrite=False, error=None):
    with RunDirectory(path, "train", overwrite=overwrite) as run:
        run.begin()
        run.write_config({"model": text}, "config")
        if error is not None:
            raise error
        run.weights.mkdir(exist_ok=True)
        (run.weights / "diffusion_model.weights.h5").write_text(text)
        run.finish(3, loss=0.5)


def weights(path):
    return (path / "weights" / "diffusion_model.weights.h5").read_text()


def test_a_run_is_marked_and_lists_what_it_wrote(tmp_path):
    path = tmp_path / "new" / "run"
    train(path)
    record = read_record(path)
    assert (record.state, record.step) == ("finished", 3)
    assert record.summary == {"loss": 0.5}
    assert record.files == [
        "config.yaml",
        "weights/diffusion_model.weights.h5",
        "run.json",
    ]
    assert record.process.startswith(f"id {os.getpid()} on ")


def test_an_earlier_run_is_kept_unless_told_otherwise(tmp_path):
    train(tmp_path / "run", "old")
    with pytest.raises(FileExistsError, match="finished after 3 .*--overwrite"):
        RunDirectory(tmp_path / "run", "train")
    train(tmp_path / "run", "new", overwrite=True)
    assert weights(tmp_path / "run") == "new"
    assert not list((tmp_path / "run").glob("earlier-*"))


@pytest.mark.parametrize(
    "error, state",
    [(ValueError("NaN"), "failed"), (KeyboardInterrupt(), "interrupted")],
)
def test_the_earlier_run_outlives_a_failed_one(tmp_path, error, state):
    path = tmp_path / "run"
    train(path, "old")
    for _ in range(2):
        with pytest.raises(type(error)):
            train(path, "new", overwrite=True, error=error)
    assert read_record(path).state == state
    assert weights(path / "earlier-1") == "old"
    assert read_record(path / "earlier-1").state == "finished"
    train(path, "newest", overwrite=True)
    assert weights(path) == "newest"
    assert not list(path.glob("earlier-*"))


def test_a_run_without_a_first_step_leaves_nothing(tmp_path):
    train(tmp_path / "old", "old")
    before = files.files_in(tmp_path)
    for name, overwrite in (("new", False), ("old", True)):
        with (
            pytest.raises(ValueError, match="caption"),
            RunDirectory(tmp_path / name, "train", overwrite=overwrite) as run,
        ):
            run.write_config({"model": "tiny"}, "config")
            raise ValueError("no caption")
    assert files.files_in(tmp_path) == before
    assert weights(tmp_path / "old") == "old"
    assert not (tmp_path / "new").exists()


def test_a_kill_at_any_moment_leaves_weights(tmp_path):
    command = [sys.executable, "-c", KILLS, str(tmp_path)]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert int(result.stdout) > 100


def test_a_second_process_is_refused_by_id_and_host(tmp_path):
    code = LIGHT + (
        "with RunDirectory(sys.argv[1], 'train') as run:\n"
        "    if sys.argv[2] == 'running': run.begin()\n"
        "    print('held', flush=True); sys.stdin.read()\n"
    )
    for state in ("starting", "running"):
        path = str(tmp_path / state)
        other = subprocess.Popen(
            [sys.executable, "-c", code, path, state],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        with other:
            assert other.stdout.readline() == b"held\n"
            for overwrite in (False, True):
                with pytest.raises(BlockingIOError, match=f"id {other.pid} on"):
                    RunDirectory(path, "train", overwrite=overwrite)
            other.kill()
    # Killed before its first step there is nothing to keep.
    train(tmp_path / "starting")
    with pytest.raises(FileExistsError, match="killed after step 0"):
        train(tmp_path / "running")


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize(
    "name, content",
    [
        ("config.yaml", "lr: 1"),
        ("run.json", "{}"),
        ("run.json", '{"keras_sdft_run": 99, "version": "9.9"}'),
    ],
)
def test_what_is_no_run_is_never_replaced(tmp_path, name, content, overwrite):
    path = tmp_path / "proj"
    (path / "weights").mkdir(parents=True)
    (path / name).write_text(content)
    (path / "weights" / "precious.ckpt").write_text("mine")
    before = files.files_in(path)
    with pytest.raises((FileExistsError, ValueError), match="another dir"):
        RunDirectory(path, "train", overwrite=overwrite)
    assert files.files_in(path) == before


def test_files_of_others_in_a_run_stay(tmp_path, photos):
    path = tmp_path / "run"
    train(path, "old")
    (path / "thesis.tex").write_text("mine")
    (path / "weights" / "best.ckpt").write_text("mine")
    (path / "logs").symlink_to(photos, target_is_directory=True)
    train(path, "new", overwrite=True)
    assert weights(path) == "new"
    assert (path / "thesis.tex").read_text() == "mine"
    assert (path / "weights" / "best.ckpt").read_text() == "mine"
    assert (photos / "a.png").read_bytes() == b"mine"


def test_files_listed_outside_are_not_touched(tmp_path):
    path = tmp_path / "run"
    train(path, "old")
    (tmp_path / "mine.txt").write_text("mine")
    record = json.loads((path / "run.json").read_text())
    record["files"] += ["../mine.txt", str(tmp_path / "mine.txt")]
    (path / "run.json").write_text(json.dumps(record))
    train(path, "new", overwrite=True)
    assert (tmp_path / "mine.txt").read_text() == "mine"


def test_a_file_or_a_place_without_permission_is_found_at_once(
    tmp_path, monkeypatch
):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(NotADirectoryError, match="a file"):
        RunDirectory(tmp_path / "file", "train", overwrite=True)
    # Root may write everywhere.
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(PermissionError, match="`output_dir` cannot"):
        RunDirectory(tmp_path / "run", "train")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("flag", ["data", "validation_data"])
@pytest.mark.parametrize("inside", ["", "run", "deep/run"])
def test_data_is_not_written_into(photos, flag, inside):
    with pytest.raises(ValueError, match=f"`output_dir` and `{flag}`"):
        RunDirectory(
            photos / inside, "train", {flag: str(photos)}, overwrite=True
        )
    assert files.files_in(photos) == ["a.png"]


@pytest.mark.parametrize("flag", ["data", "model", "validation_data"])
def test_what_is_read_is_not_replaced(tmp_path, flag):
    path = tmp_path / "run"
    train(path, "old")
    for source in (path, path / "weights", path / "config.yaml"):
        with pytest.raises(ValueError, match="must not contain one another"):
            RunDirectory(path, "train", {flag: str(source)}, overwrite=True)
    assert weights(path) == "old"


def test_a_link_to_the_data_is_seen_through(tmp_path, photos):
    link = tmp_path / "link"
    link.symlink_to(photos, target_is_directory=True)
    with pytest.raises(ValueError, match="must not contain one another"):
        check_separate(link / "run", {"data": str(photos)}, {})


def test_separate_paths_and_names_are_allowed(tmp_path, photos):
    old = tmp_path / "old"
    train(old)
    inputs = {
        "data": str(photos),
        "model": str(old),
        "validation_data": "mnist",
    }
    check_separate(tmp_path / "run", inputs, {"class_data_dir": None})
    check_separate(old / "second", {"model": str(old)}, {})
    with pytest.raises(ValueError, match="`class_data_dir`"):
        check_separate(old, {}, {"class_data_dir": str(old / "class")})


def test_config_is_yaml_with_a_comment(tmp_path):
    values = {"model": "tiny", "learning_rate": 1e-5, "prompts": ["cœur"]}
    with RunDirectory(tmp_path / "run", "train") as run:
        run.begin()
        run.write_config(values, "about this file")
    text = run.config.read_text(encoding="utf-8")
    assert text.startswith("# about this file\nmodel: tiny\n")
    assert "cœur" in text
    assert yaml.safe_load(text) == values


def test_a_run_is_described_and_goes_on(tmp_path):
    path = tmp_path / "run"
    assert runs.describe(path) is None
    with pytest.raises(ValueError, match="has no run.json"):
        RunDirectory.resume(path)
    with pytest.raises(KeyboardInterrupt):
        train(path, error=KeyboardInterrupt())
    checkpoint = path / "checkpoints" / "step_00000007"
    checkpoint.mkdir(parents=True)
    for name in ("state.safetensors", "checkpoint.json"):
        (checkpoint / name).write_bytes(b"{}")
    (path / "checkpoints" / ".step_00000008.old-1-0.new").mkdir()
    told = runs.describe(path)
    assert told["state"] == "interrupted after 7 steps"
    assert told["checkpoints"] == ["step 7 (2 bytes)"]
    assert told["go_on_with"] == f"keras-sdft train --resume {path}"
    with pytest.raises(FileExistsError, match="Go on with .*--resume"):
        RunDirectory(path, "train")
    with RunDirectory.resume(path) as run:
        assert runs.describe(path)["state"].startswith("running (id ")
        with pytest.raises(BlockingIOError, match=f"id {os.getpid()}"):
            RunDirectory.resume(path)
        run.begin()
        run.finish(9)
    assert runs.describe(path)["state"] == "finished after 9 steps"
    assert os.listdir(path / "checkpoints") == ["step_00000007"]
    train(path, "new", overwrite=True)
    assert not (path / "checkpoints").exists()


def test_what_would_be_another_training_is_refused():
    before = {"seed": 0, "max_train_steps": 10, "output_dir": "/a"}
    check_flags(before, {**before, "max_train_steps": 20})
    check_flags(before, {**before, "output_dir": "/b"})
    with pytest.raises(ValueError, match="`seed` was 0, and is 1"):
        check_flags(before, {**before, "seed": 1})


def test_changed_data_is_told(tmp_path):
    report = data.Report()
    rows = np.arange(3)

    def state(names, captions=("a", "b", "c")):
        pairs = zip(names, captions, strict=True)
        records = [data.Example(n, (c,), name=n) for n, c in pairs]
        report.add_source("photos", Examples(records, rows))
        return runs.data_state(report)

    for name in ("1", "2", "3"):
        (tmp_path / name).write_text(name)
    names = [str(tmp_path / name) for name in ("1", "2", "3")]
    before = state(names)
    (tmp_path / "moved").mkdir()
    moved = [str(tmp_path / "moved" / name) for name in ("1", "2", "3")]
    for old, new in zip(names, moved, strict=True):
        os.rename(old, new)
    runs.check_data(before, state(moved))
    with pytest.raises(ValueError, match="photos: other captions"):
        runs.check_data(before, state(moved, ("a", "b", "x")))
    (tmp_path / "moved" / "1").write_text("longer")
    with pytest.raises(ValueError, match="photos: other images"):
        runs.check_data(before, state(moved))
    rows = np.arange(2)
    with pytest.raises(ValueError, match="3 images then, 2 now"):
        runs.check_data(before, state(moved))
