import json
import types

import pytest
import yaml

from keras_sdft import runs
from keras_sdft.cli import run as run_module
from keras_sdft.cli import train
from keras_sdft.cli.command_line import parse
from keras_sdft.cli.run import resolved
from keras_sdft.cli.train import Captioned
from keras_sdft.runs import RunData
from keras_sdft.runs import RunDirectory
from keras_sdft.runs import find_checkpoint


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
    with pytest.raises(ValueError, match="no run.json and config.yaml"):
        parse(["train", "--resume", str(tmp_path)])


def test_another_command_or_training_is_refused(saved):
    _, options = parse(["train", "--resume", str(saved)])
    with pytest.raises(ValueError, match="was begun by `train`: `keras-sdft"):
        RunDirectory.resume(saved, "dreambooth")
    _, changed = parse(["train", f"--resume={saved}", "--learning_rate=1"])
    with RunDirectory.resume(saved, "train") as run:
        with pytest.raises(ValueError, match="`learning_rate` was None, and"):
            find_checkpoint(run, resolved(changed, {}))
        now = resolved(options, {})
        with pytest.raises(ValueError, match="has no checkpoint.*Begin it"):
            find_checkpoint(run, now)
    config = yaml.safe_load((saved / "config.yaml").read_text())
    assert config == now
    record = json.loads((saved / "run.json").read_text())
    assert (record["state"], record["step"]) == ("interrupted", 7)


class Stop(Exception):
    """Everything before the trainer is made."""


@pytest.mark.parametrize(
    ("position", "starts"),
    [
        ((7, 1, 2), [(1, 2)]),
        # All is trained, and the end of the epoch is still to come.
        ((12, 2, 2), [(2, 2), (2, 5)]),
        ((12, 2, 5), [(2, 5)]),
        ((13, 2, 3), [(2, 3)]),
    ],
)
def test_where_the_data_begins(saved, monkeypatch, position, starts):
    found = []

    class Photos(Captioned):
        def load(self):
            found.append(self.start)
            return RunData(None, None, None, 1, 5, 12)

    def make_trainer(*arguments):
        raise Stop

    checkpoint = (None, {"position": position})
    monkeypatch.setattr(runs, "find_checkpoint", lambda *_: checkpoint)
    sd = types.SimpleNamespace(img_height=64)
    monkeypatch.setattr(run_module, "load_for_training", lambda options: sd)
    monkeypatch.setattr(run_module, "make_trainer", make_trainer)
    monkeypatch.setattr(runs, "unknown_words", lambda *_: None)
    monkeypatch.setattr(Photos, "check", lambda *_: None)
    _, options = parse(["train", "--resume", str(saved), "--no_cache"])
    beyond = pytest.raises(ValueError, match="step 13 already, beyond the 12")
    with beyond if position[0] == 13 else pytest.raises(Stop):
        run_module.run(train.COMMAND, Photos, options)
    assert found == starts
