"""Folders of caches: listed, and pruned by age and size."""

import io
import os
import time

import pyarrow
import pytest
from PIL import Image
from pyarrow import parquet

from keras_sdft import devices
from keras_sdft import files
from keras_sdft.cli import main
from keras_sdft.data import read_examples
from keras_sdft.data.sources import parquet as parquet_source
from keras_sdft.encoding.store import State
from keras_sdft.runs import find_caches
from keras_sdft.runs import prune_caches


@pytest.fixture(autouse=True)
def unpacked(tmp_path, monkeypatch):
    """The folder of unpacked parquet files; of this test alone."""
    monkeypatch.setattr(devices, "COMPILED", str(tmp_path / "compiled"))
    monkeypatch.setattr(parquet_source, "FOLDER", str(tmp_path / "unpacked"))
    return tmp_path / "unpacked"


@pytest.fixture
def folder(tmp_path):
    """Three caches of about 1, 2 and 4 kB, used 1, 10 and 100 days ago."""
    folder = tmp_path / "keras_sdft_cache"
    for name, size, days in (("a", 1, 1), ("b", 2, 10), ("c", 4, 100)):
        for part in (folder / name, folder / name / "validation"):
            part.mkdir(parents=True)
            State({}, complete=True).write(str(part))
            (part / "moments-8x8.rows").write_bytes(bytes(500 * size))
            (part / "lock").write_text("id 1 on here")
            for path in part.iterdir():
                when = time.time() - 86_400 * days
                os.utime(path, (when, when))
    (folder / "notes").mkdir()
    (folder / "notes" / "a.rows").write_text("mine")
    (folder / "notes" / "cache.json").write_text('{"cache": 1}')
    return folder


def names(folder):
    return [one.path.name for one in find_caches(folder)]


def test_caches_are_found_by_their_state(folder):
    a, b, c = find_caches(folder)
    assert [one.path.name for one in (a, b, c)] == ["a", "b", "c"]
    assert 1000 < a.num_bytes < 2000 < b.num_bytes < 3500 < c.num_bytes
    assert [round(one.days) for one in (a, b, c)] == [1, 10, 100]
    assert find_caches(folder / "missing") == []


def test_the_oldest_go_until_the_rest_fits(folder):
    assert prune_caches(folder) == []
    # The second does not fit beside the first, and the third does.
    sizes = [one.num_bytes for one in find_caches(folder)]
    removed = prune_caches(folder, max_bytes=sizes[0] + sizes[1])
    assert [one.path.name for one in removed] == ["c"]
    assert not (folder / "c").exists()
    removed = prune_caches(folder, max_days=5)
    assert [one.path.name for one in removed] == ["b"]
    assert names(folder) == ["a"]
    assert (folder / "notes" / "a.rows").read_text() == "mine"


def test_what_is_used_stays_and_so_do_files_of_others(folder):
    (folder / "c" / "mine.txt").write_text("mine")
    with files.Lock(folder / "b" / "lock", "fills"):
        removed = prune_caches(folder, max_bytes=0, keep=[folder / "a"])
    assert [one.path.name for one in removed] == ["c"]
    assert os.listdir(folder / "c") == ["mine.txt"]
    assert names(folder) == ["b", "a"]


def test_the_command_lists_prunes_and_clears(folder, capsys, monkeypatch):
    monkeypatch.chdir(folder.parent)
    assert main(["cache"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4 and str(folder.name) in lines[0]
    assert lines[1].split() == ["keras_sdft_cache/a", "1.4", "kB", "1", "days"]
    assert main(["cache", str(folder), "--max_days", "50"]) == 0
    assert f"removed {folder}/c" in capsys.readouterr().out
    assert names(folder) == ["a", "b"]
    assert main(["cache", str(folder), "--clear"]) == 0
    assert names(folder) == []
    assert main(["cache", "elsewhere"]) == 2
    assert "elsewhere" in capsys.readouterr().err


def test_programs_that_jax_compiled_are_listed_and_cleared(
    tmp_path, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    compiled = tmp_path / "compiled"
    compiled.mkdir()
    for name, size in (("jit_step-0a-cache", 4000), ("jit_step-0a-atime", 8)):
        (compiled / name).write_bytes(bytes(size))
    (compiled / "mine.txt").write_text("mine")
    assert main(["cache"]) == 0
    where, found = capsys.readouterr().out.splitlines()
    assert where == f"{tmp_path}: 4.0 kB; unused for"
    assert found.split() == [str(compiled), "4.0", "kB", "0", "days"]
    assert main(["cache", "--clear"]) == 0
    assert [path.name for path in compiled.iterdir()] == ["mine.txt"]


@pytest.mark.parametrize("own", [None, "elsewhere"])
def test_jax_is_told_where_to_keep_what_it_compiles(own, monkeypatch):
    directory, size = (
        f"JAX_COMPILATION_CACHE_{name}" for name in ("DIR", "MAX_SIZE")
    )
    environment = {directory: own} if own else {}
    monkeypatch.setattr(os, "environ", environment)
    devices.keep_compiled()
    assert environment[directory] == (own or devices.COMPILED)
    assert (size in environment) is not bool(own)


def test_images_of_parquet_files_are_listed_and_cleared(
    tmp_path, unpacked, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    assert main(["cache"]) == 0
    assert "There is no keras_sdft_cache here" in capsys.readouterr().out
    file = io.BytesIO()
    Image.new("RGB", (64, 64)).save(file, "PNG")
    columns = {"image": [file.getvalue()] * 3, "text": ["one", "two", "three"]}
    parquet.write_table(pyarrow.table(columns), "train.parquet")
    examples = read_examples("train.parquet")
    image, (made,) = examples[0].image, unpacked.iterdir()
    changed = os.stat(image).st_mtime_ns
    (made / "mine.txt").write_text("mine")
    (unpacked / ".left.there-1-0.new").mkdir()
    # What a process reads stays, this one's.
    assert main(["cache", "--clear"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 and lines[0].startswith(f"{unpacked}: ")
    assert lines[1].startswith(f"  {made} ") and lines[1].endswith(", in use")
    assert os.path.exists(image) and os.listdir(unpacked) == [made.name]
    files._marked.clear()
    when = time.time() - 86_400 * 40
    for name in parquet_source.unpacked_files(made):
        os.utime(made / name, (when, when))
    (found,) = find_caches(unpacked)
    assert (round(found.days), found.is_busy) == (40, False)
    assert found.num_bytes == sum(
        p.stat().st_size for p in made.iterdir() if p.name != "mine.txt"
    )
    assert main(["cache", "--max_days=30"]) == 0
    assert f"removed {made} (" in capsys.readouterr().out
    assert os.listdir(made) == ["mine.txt"]
    # It is unpacked anew, and for a cache of it as it was.
    again = read_examples("train.parquet")
    assert [each.captions for each in again] == [("one",), ("two",), ("three",)]
    assert again[0].image == image and os.stat(image).st_mtime_ns == changed
    assert (made / "mine.txt").read_text() == "mine"
