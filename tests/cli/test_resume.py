import json
import types

import pytest
import yaml

from keras_sdft.cli.command_line import parse
from keras_sdft.cli.parser import UsageError
from keras_sdft.cli.resume import check_steps
from keras_sdft.cli.resume import find_checkpoint
from keras_sdft.cli.resume import open_run
from keras_sdft.cli.resume import start_of
from keras_sdft.cli.run import resolved
from keras_sdft.runs import RunDirectory


@pytest.fixture
def saved(tmp_path):
    """A run that was interrupted, and what it saved."""
    given = ["--model=tiny", "--data=photos", "--num_train_epochs=3"]
    path = tmp_path / "run"
    options = parse(["train", f"--output_dir={path}", "--seed=5", *given])[1]
    with RunDirectory(path, "train") as run:
        run.begin()
        run.write_config(resolved(options, {}), "config")
        run.update(state="interrupted", step=7)
    return path


def test_a_run_goes_on_with_its_own_flags(saved):
    _, options = parse(["train", "--resume", str(saved)])
    assert (options.seed, options.num_train_epochs) == (5, 3)
    assert (options.output_dir, options.resume) == (str(saved), str(saved))
    _, longer = parse(["train", f"--resume={saved}", "--max_train_steps", "9"])
    assert (longer.max_train_steps, longer.num_train_epochs) == (9, None)


def test_a_run_moved_elsewhere_goes_on_there(saved, tmp_path):
    moved = saved.rename(tmp_path / "moved")
    _, options = parse(["train", "--resume", str(moved)])
    assert options.output_dir == str(moved)


def test_what_is_no_run_is_refused(tmp_path):
    with pytest.raises(UsageError, match="no run.json and config.yaml"):
        parse(["train", "--resume", str(tmp_path)])


def test_another_command_or_training_is_refused(saved):
    _, options = parse(["train", "--resume", str(saved)])
    with pytest.raises(ValueError, match="was begun by `train`: `keras-sdft"):
        open_run("dreambooth", options, {}, {})
    _, changed = parse(["train", f"--resume={saved}", "--learning_rate=1"])
    with open_run("train", changed, {}, {}) as run:
        with pytest.raises(ValueError, match="`learning_rate` was None, and"):
            find_checkpoint(changed, run, resolved(changed, {}))
        now = resolved(options, {})
        with pytest.raises(ValueError, match="has no checkpoint.*Begin it"):
            find_checkpoint(options, run, now)
    config = yaml.safe_load((saved / "config.yaml").read_text())
    assert config == now
    record = json.loads((saved / "run.json").read_text())
    assert (record["state"], record["step"]) == ("interrupted", 7)


def test_where_the_data_begins():
    data = types.SimpleNamespace(steps=12, steps_per_epoch=5)
    found = (None, {"position": [7, 1, 2]})
    assert start_of(None, data) == (0, 0)
    assert start_of(found, data) == (1, 2)
    # All is trained, and the end of the epoch is still to come.
    assert start_of((None, {"position": [12, 2, 2]}), data) == (2, 5)
    check_steps(found, 7)
    with pytest.raises(ValueError, match="at step 7 already, beyond the 6"):
        check_steps(found, 6)
