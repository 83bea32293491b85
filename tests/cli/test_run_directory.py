import os

import pytest
import yaml

from keras_sdft.cli.run_directory import RunDirectory


@pytest.fixture
def data(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "a.png").write_bytes(b"mine")
    return folder


def make_run(path):
    path.mkdir()
    (path / "config.yaml").write_text("model: tiny\n")
    (path / "weights").mkdir()
    (path / "weights" / "old.h5").write_bytes(b"old")
    return path


def snapshot(folder):
    return sorted(
        os.path.relpath(os.path.join(root, name), folder)
        for root, folders, files in os.walk(folder)
        for name in folders + files
    )


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_new_or_empty_directory_is_made(tmp_path, data, overwrite):
    run = RunDirectory(tmp_path / "new" / "run")
    run.check({"data": str(data)}, overwrite)
    assert not (tmp_path / "new").exists()
    run.create()
    assert run.path.is_dir()
    run.check({"data": str(data)}, overwrite)


def test_an_earlier_run_is_kept_unless_told_otherwise(tmp_path, data):
    path = make_run(tmp_path / "run")
    before = snapshot(tmp_path)
    with pytest.raises(FileExistsError, match="--overwrite"):
        RunDirectory(path).check({"data": str(data)}, overwrite=False)
    assert snapshot(tmp_path) == before


def test_an_earlier_run_is_replaced_when_told(tmp_path, data):
    run = RunDirectory(make_run(tmp_path / "run"))
    run.check({"data": str(data)}, overwrite=True)
    assert (run.weights / "old.h5").exists()
    run.create()
    assert snapshot(run.path) == []


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_folder_that_is_no_run_is_never_replaced(tmp_path, data, overwrite):
    path = tmp_path / "photos"
    path.mkdir()
    (path / "weights").write_text("mine")
    with pytest.raises(FileExistsError, match="never replaced"):
        RunDirectory(path).check({"data": str(data)}, overwrite)
    assert (path / "weights").read_text() == "mine"


def test_a_run_with_other_files_is_not_replaced(tmp_path, data):
    path = make_run(tmp_path / "run")
    (path / "thesis.tex").write_text("mine")
    with pytest.raises(FileExistsError, match="thesis.tex"):
        RunDirectory(path).check({"data": str(data)}, overwrite=True)
    assert (path / "thesis.tex").read_text() == "mine"


def test_a_link_in_a_run_is_removed_and_not_followed(tmp_path, data):
    path = make_run(tmp_path / "run")
    (path / "logs").symlink_to(data, target_is_directory=True)
    run = RunDirectory(path)
    run.check({"data": None}, overwrite=True)
    run.create()
    assert snapshot(path) == []
    assert (data / "a.png").read_bytes() == b"mine"


def test_a_file_is_no_directory(tmp_path):
    path = tmp_path / "file"
    path.write_text("mine")
    with pytest.raises(NotADirectoryError):
        RunDirectory(path).check({}, overwrite=True)


@pytest.mark.parametrize("flag", ["data", "validation_data"])
@pytest.mark.parametrize("inside", ["", "run", "deep/run"])
def test_data_is_not_written_into(data, flag, inside):
    run = RunDirectory(data / inside)
    with pytest.raises(ValueError, match=f"`output_dir` and `{flag}`"):
        run.check({flag: str(data)}, overwrite=True)
    assert snapshot(data) == ["a.png"]


@pytest.mark.parametrize("flag", ["data", "model", "validation_data"])
def test_what_is_read_is_not_replaced(tmp_path, flag):
    path = make_run(tmp_path / "run")
    for source in (path, path / "weights", path / "weights" / "old.h5"):
        with pytest.raises(ValueError, match="must not contain one another"):
            RunDirectory(path).check({flag: str(source)}, overwrite=True)
    assert (path / "weights" / "old.h5").exists()


def test_a_link_to_the_data_is_seen_through(tmp_path, data):
    link = tmp_path / "link"
    link.symlink_to(data, target_is_directory=True)
    with pytest.raises(ValueError, match="must not contain one another"):
        RunDirectory(link / "run").check({"data": str(data)}, False)


def test_what_lies_apart_is_allowed(tmp_path, data):
    old = make_run(tmp_path / "old")
    table = tmp_path / "captions.csv"
    table.write_text("file_name,text\n")
    run = RunDirectory(tmp_path / "run")
    run.check(
        {"data": str(table), "model": str(old), "validation_data": "mnist"},
        overwrite=False,
    )
    RunDirectory(old / "second").check({"model": str(old)}, False)


def test_config_is_yaml_with_a_comment(tmp_path):
    run = RunDirectory(tmp_path / "run")
    run.create()
    values = {"model": "tiny", "learning_rate": 1e-5, "prompts": ["cœur"]}
    run.write_config(values, "about this file")
    text = run.config.read_text(encoding="utf-8")
    assert text.startswith("# about this file\nmodel: tiny\n")
    assert "cœur" in text
    assert yaml.safe_load(text) == values
