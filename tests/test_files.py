"""Files and directories are whole or absent, whatever happens in between."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from keras_sdft import disk
from keras_sdft import files

# Ends the process at the n-th thing that it does to the disk, for every n,
# and then writes once more as the next process would.
KILLS = """
import importlib.util, os, sys

spec = importlib.util.spec_from_file_location("files", sys.argv[1])
files = importlib.util.module_from_spec(spec)
spec.loader.exec_module(files)
# A killed process loses nothing that the system holds already.
os.fsync = lambda handle: None
exchange = sys.argv[3] == "exchange"
if not exchange:
    files._exchange = lambda *names: False
OURS = ["a", "sub/b", "list"]

def written(directory):
    return OURS

def write(target, text):
    with files.staged_directory(target, written) as new:
        (new / "sub").mkdir()
        for name in OURS:
            (new / name).write_text(text)

def content(target):
    names = files.files_in(target)
    return {name: open(os.path.join(target, name)).read() for name in names}

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
        if event.split(".")[0] in ("open", "os", "shutil", "fcntl", "ctypes"):
            seen[0] += 1
            if seen[0] == moment:
                os.kill(os.getpid(), 9)
    sys.addaudithook(kill)
    action()

moment = 0
while True:
    moment += 1
    parent = os.path.join(sys.argv[2], str(moment))
    target = os.path.join(parent, "out")
    write(target, "one")
    open(os.path.join(target, "sub", "notes.txt"), "w").write("mine")
    code = run(lambda: killed_at(moment, lambda: write(target, "two")))
    if code == 0:
        break
    assert code == -9, code
    if exchange:
        now = content(target)
        assert {now[n] for n in OURS} in ({"one"}, {"two"}), (moment, now)
    assert run(lambda: write(target, "three")) == 0
    expected = {**dict.fromkeys(OURS, "three"), "sub/notes.txt": "mine"}
    assert content(target) == expected, (moment, content(target))
    assert os.listdir(parent) == ["out"], (moment, os.listdir(parent))
print(moment)
"""


def written(directory):
    return ["a", "list"]


def write(path, text, name="a"):
    with files.staged_directory(path, written) as new:
        (new / name).write_text(text)
        (new / "list").write_text("list")


@pytest.mark.parametrize("swap", ["exchange", "two renames"])
def test_a_kill_at_any_moment_loses_nothing(tmp_path, swap):
    command = [sys.executable, "-c", KILLS, files.__file__, tmp_path, swap]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert int(result.stdout) > 30


def test_a_directory_behind_a_link_is_replaced_there(tmp_path):
    write(tmp_path / "real", "one")
    (tmp_path / "link").symlink_to("real")
    write(tmp_path / "link", "two")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real" / "a").read_text() == "two"
    assert sorted(os.listdir(tmp_path)) == ["link", "real"]


def test_files_of_others_stay_where_they_are(tmp_path):
    write(tmp_path / "out", "one")
    (tmp_path / "out" / "sub").mkdir()
    (tmp_path / "out" / "sub" / "mine.png").write_text("mine")
    (tmp_path / "out" / "notes").symlink_to("sub")
    write(tmp_path / "out", "two", name="b")
    found = files.files_in(tmp_path / "out")
    assert found == ["b", "list", "notes", "sub/mine.png"]


def test_a_file_of_others_with_the_name_of_a_new_one_is_refused(tmp_path):
    write(tmp_path / "out", "one")
    (tmp_path / "out" / "mine").write_text("mine")
    with pytest.raises(FileExistsError, match="'mine'"):
        write(tmp_path / "out", "two", name="mine")
    assert (tmp_path / "out" / "a").read_text() == "one"
    assert os.listdir(tmp_path) == ["out"]


def test_an_error_leaves_the_earlier_directory(tmp_path):
    write(tmp_path / "out", "one")
    with (
        pytest.raises(OSError, match="full"),
        files.staged_directory(tmp_path / "out", written) as new,
    ):
        (new / "a").write_text("half")
        raise OSError("full")
    assert (tmp_path / "out" / "a").read_text() == "one"
    assert os.listdir(tmp_path) == ["out"]


def test_what_a_living_process_writes_is_left_alone(tmp_path):
    with files.staged_directory(tmp_path / "out", written) as new:
        (new / "a").write_text("slow")
        write(tmp_path / "out", "fast")
        (new / "list").write_text("list")
    assert (tmp_path / "out" / "a").read_text() == "slow"


def test_permissions_stay(tmp_path):
    write(tmp_path / "out", "one")
    (tmp_path / "out").chmod(0o700)
    write(tmp_path / "out", "two")
    files.write_text(tmp_path / "file", "one")
    (tmp_path / "file").chmod(0o640)
    files.write_text(tmp_path / "file", "two")
    modes = [(tmp_path / n).stat().st_mode & 0o777 for n in ("out", "file")]
    assert modes == [0o700, 0o640]


def test_a_file_is_whole_or_as_it_was(tmp_path):
    files.write_text(tmp_path / "file", "one")
    (tmp_path / "link").symlink_to("file")
    with (
        pytest.raises(KeyboardInterrupt),
        files.atomic_file(tmp_path / "link") as file,
    ):
        file.write(b"half")
        raise KeyboardInterrupt
    assert (tmp_path / "file").read_text() == "one"
    files.write_text(tmp_path / "link", "two")
    assert (tmp_path / "file").read_text() == "two"
    assert sorted(os.listdir(tmp_path)) == ["file", "link"]


def test_half_a_file_of_a_dead_process_is_removed(tmp_path):
    dead = subprocess.run(["sh", "-c", "echo $$"], capture_output=True)
    name = f".file.{files._HOST}-{int(dead.stdout)}-0.part"
    (tmp_path / name).write_text("half")
    files.write_text(tmp_path / "file", "whole")
    assert os.listdir(tmp_path) == ["file"]


def test_removal_follows_no_link_and_leaves_the_directory(tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "a").write_text("mine")
    run = tmp_path / "run"
    (run / "sub").mkdir(parents=True)
    (run / "sub" / "a").write_text("ours")
    (run / "link").symlink_to(outside)
    names = ["sub/a", "link/a", "../outside/a", str(outside / "a"), "gone"]
    assert not files.remove_files(run, names)
    assert (outside / "a").read_text() == "mine"
    assert os.listdir(run) == ["link"]
    assert files.remove_files(run, ["link"])
    assert (outside / "a").exists()


def test_a_lock_names_who_holds_it(tmp_path):
    code = (
        "import importlib.util, sys\n"
        f"s = importlib.util.spec_from_file_location('f', {files.__file__!r})\n"
        "f = importlib.util.module_from_spec(s); s.loader.exec_module(f)\n"
        "lock = f.Lock(sys.argv[1], 'works')\n"
        "print('held', flush=True); sys.stdin.read()\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "lock")]
    other = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    with other:
        assert other.stdout.readline() == b"held\n"
        assert files.is_locked(tmp_path / "lock")
        with pytest.raises(BlockingIOError, match=rf"id {other.pid} on .* wo"):
            files.Lock(tmp_path / "lock", "works")
        other.kill()
    with files.Lock(tmp_path / "lock", "works") as lock:
        assert lock.holder().startswith(f"id {os.getpid()} on ")
    assert not files.is_locked(tmp_path / "lock")


def test_space_is_checked_where_the_path_will_be(tmp_path):
    path = tmp_path / "not" / "there"
    assert disk.existing_directory(path) == str(tmp_path)
    disk.check_space(path, disk.free_bytes(tmp_path) // 2, "A run", "")
    with pytest.raises(OSError, match="A run needs 1000.0 TB, and"):
        disk.check_space(path, 10**15, "A run", "Train less.")


def test_what_cannot_be_written_to_is_known_before(tmp_path, monkeypatch):
    disk.check_writable(tmp_path / "new" / "run", "output_dir")
    # Root may write everywhere.
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(PermissionError, match="`output_dir` cannot"):
        disk.check_writable(Path(tmp_path) / "new", "output_dir")
