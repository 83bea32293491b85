import h5py
import numpy as np
import pytest
import safetensors.numpy
from PIL import Image
from tensorboard.compat.proto import event_pb2
from tensorboard.summary.writer import event_file_writer
from tensorboard.util import tensor_util

from benchmarks import same


def write_output(directory, *, loss="0.5", scalar=0.5, weight=1.0, pixel=0):
    """Writes one file of each kind that a run or a conversion leaves."""
    run = directory / "run"
    run.mkdir(parents=True)
    (run / "history.csv").write_text(
        f"epoch,loss,images_per_second\n1,{loss},{np.random.random()}\n"
    )
    (run / "config.yaml").write_text(f"output_dir: {directory}")
    writer = event_file_writer.EventFileWriter(str(run / "logs"))
    event = event_pb2.Event(step=1)
    value = event.summary.value.add(tag="batch_loss")
    value.tensor.CopyFrom(tensor_util.make_tensor_proto(np.float32(scalar)))
    writer.add_event(event)
    writer.close()
    with h5py.File(run / "unet.weights.h5", "w") as file:
        file["layers/dense/vars/0"] = np.full(3, weight, "float32")
    safetensors.numpy.save_file(
        {"kernel": np.full(3, weight, "float32")}, directory / "a.safetensors"
    )
    Image.fromarray(np.full((4, 4, 3), pixel, np.uint8)).save(
        directory / "image.png"
    )
    (directory / "model_index.json").write_text("{}")
    return directory


def test_equal_output_is_the_same_whatever_the_clock_said(tmp_path):
    base = write_output(tmp_path / "base")
    here = write_output(tmp_path / "here")
    assert same.compare(base, here) == "same: 8 figures"


@pytest.mark.parametrize(
    "change, told",
    [
        ({"loss": "0.75"}, "history:loss by 0.25"),
        ({"scalar": 0.75}, "batch_loss by 0.25"),
        ({"weight": np.nextafter(np.float32(1), 2)}, "vars/0 by 1.19e-07"),
        ({"pixel": 1}, "image.png by 1"),
    ],
)
def test_each_kind_of_figure_is_told_when_it_moved(tmp_path, change, told):
    base = write_output(tmp_path / "base")
    here = write_output(tmp_path / "here", **change)
    line = same.compare(base, here)
    assert line.startswith("moved") and told in line


def test_missing_files_moved(tmp_path):
    base = write_output(tmp_path / "base")
    here = write_output(tmp_path / "here")
    (here / "model_index.json").unlink()
    assert "model_index.json by inf" in same.compare(base, here)
    assert "failed" in same.compare(base, tmp_path / "nowhere")
