"""All figures in the output of a run or a conversion, as arrays by name."""

import csv
import re
from pathlib import Path

import numpy as np

# Figures that depend on the clock.
TIMES = re.compile(r"second|time|memory|per_s")


def read(directory):
    """Returns a dict of arrays: all that a directory's files hold."""
    found = {}
    for path in sorted(directory.rglob("*")):
        where = path.relative_to(directory).as_posix()
        if path.name == "history.csv":
            found |= history(path)
        elif path.name.startswith("events.out"):
            found |= scalars(path, Path(where).parent)
        elif path.suffix == ".h5":
            found |= weights(path, where)
        elif path.suffix == ".safetensors":
            found |= tensors(path, where)
        elif path.suffix == ".png":
            found[f"image:{where}"] = pixels(path)
        elif path.is_file() and not where.startswith("run/"):
            data = np.frombuffer(path.read_bytes(), np.uint8)
            found[f"file:{where}"] = data
    return found


def history(path):
    """Returns the columns of a history.csv, without those of the clock."""
    with open(path, newline="") as file:
        rows = list(csv.DictReader(file))
    return {
        f"history:{name}": np.array([float(row[name] or "nan") for row in rows])
        for name in rows[0]
        if not TIMES.search(name)
    }


def scalars(path, folder):
    """Returns the scalars of a TensorBoard file, in the order of steps."""
    from tensorboard.util import tensor_util

    values = {}
    for event in events(path):
        for value in event.summary.value:
            if value.HasField("tensor") and not TIMES.search(value.tag):
                array = tensor_util.make_ndarray(value.tensor)
                if array.dtype.kind == "f":
                    values.setdefault(value.tag, []).append(array)
    return {f"scalar:{folder}/{k}": np.stack(v) for k, v in values.items()}


def events(path):
    """Yields the events of a TensorBoard file, without TensorFlow."""
    from tensorboard.compat.proto import event_pb2

    data, at = path.read_bytes(), 0
    # Eight bytes of length and four of its checksum; the event; its checksum.
    while at < len(data):
        size = int.from_bytes(data[at : at + 8], "little")
        yield event_pb2.Event.FromString(data[at + 12 : at + 12 + size])
        at += size + 16


def weights(path, where):
    """Returns the datasets of an HDF5 file."""
    import h5py

    found = {}

    def keep(name, item):
        if isinstance(item, h5py.Dataset):
            found[f"weights:{where}:{name}"] = item[()]

    with h5py.File(path) as file:
        file.visititems(keep)
    return found


def tensors(path, where):
    """Returns the tensors of a safetensors file, and its metadata."""
    import safetensors

    with safetensors.safe_open(path, framework="numpy") as file:
        told = str(sorted((file.metadata() or {}).items())).encode()
        found = {
            f"weights:{where}:{k}": file.get_tensor(k) for k in file.keys()
        }
    found[f"file:{where}, metadata"] = np.frombuffer(told, np.uint8)
    return found


def pixels(path):
    from PIL import Image

    with Image.open(path) as image:
        return np.asarray(image)
