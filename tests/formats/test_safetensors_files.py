"""The container: right files read right, wrong ones refused, whatever."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file
from safetensors.numpy import save_file

from keras_sdft.formats.safetensors_files import Tensor
from keras_sdft.formats.safetensors_files import open_tensors
from keras_sdft.formats.safetensors_files import read_header
from keras_sdft.formats.safetensors_files import write


def raw(path, table, data=b"", length=None):
    text = table if isinstance(table, bytes) else json.dumps(table).encode()
    size = len(text) if length is None else length
    path.write_bytes(size.to_bytes(8, "little") + text + data)
    return path


def entry(dtype="F32", shape=(2,), offsets=(0, 8)):
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


@pytest.mark.parametrize("dtype", ["float32", "float16", "float64"])
def test_reads_what_the_formats_own_library_writes(dtype, tmp_path):
    arrays = {
        "a": np.arange(6, dtype=dtype).reshape(2, 3),
        "b": np.array(1.5, dtype),
        "empty": np.zeros((0, 3), dtype),
    }
    save_file(arrays, tmp_path / "x.safetensors", {"key": "value"})
    tensors = open_tensors(tmp_path / "x.safetensors")
    assert read_header(tmp_path / "x.safetensors").metadata == {"key": "value"}
    for name, array in arrays.items():
        read = tensors[name].read()
        assert read.dtype == np.float32 and read.shape == array.shape
        np.testing.assert_array_equal(read, array)


def test_the_formats_own_library_reads_what_is_written(tmp_path):
    path = tmp_path / "x.safetensors"
    array = np.random.default_rng(0).normal(size=(3, 5)).astype("float32")
    turned = Tensor((5, 3), "F32", lambda: array.T)
    write(path, {"a": turned, "b": Tensor((3, 5), "F32", lambda: array)})
    found = load_file(path)
    np.testing.assert_array_equal(found["a"], array.T)
    np.testing.assert_array_equal(found["b"], array)
    assert read_header(path).metadata["format"] == "pt"


def test_bfloat16_is_read_by_hand_computed_bits(tmp_path):
    # 0x3F80 is 1.0, 0xC040 is -3.0.
    path = raw(
        tmp_path / "x.safetensors",
        {"a": entry("BF16", [2], [0, 4])},
        bytes([0x80, 0x3F, 0x40, 0xC0]),
    )
    np.testing.assert_array_equal(open_tensors(path)["a"].read(), [1.0, -3.0])


WRONG = {
    "no length": b"",
    "short length": b"\x01\x00",
    "nothing follows": (8).to_bytes(8, "little"),
    "huge length": (2**63).to_bytes(8, "little") + b"{}",
    "length beyond the file": (99).to_bytes(8, "little") + b"{}",
    "length of zero": bytes(16),
    "text": b"Once upon a time there was a file",
    "deep nesting": (90000).to_bytes(8, "little") + b"[" * 90000,
    "bad UTF-8": (2).to_bytes(8, "little") + b"\xff\xff",
}


@pytest.mark.parametrize("content", WRONG.values(), ids=list(WRONG))
def test_what_is_no_header(content, tmp_path):
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="is damaged"):
        read_header(path)


TABLES = {
    "list": [],
    "entry": {"a": 3},
    "no dtype": {"a": {"shape": [2], "data_offsets": [0, 8]}},
    "unknown dtype": {"a": entry("F99")},
    "dtype no text": {"a": entry(["F32"])},
    "negative side": {"a": entry(shape=[-2])},
    "float side": {"a": entry(shape=[2.0])},
    "boolean side": {"a": entry(shape=[True, 2])},
    "enormous shape": {"a": entry(shape=[2**62, 2**62], offsets=[0, 8])},
    "enormous number": {"a": entry(shape=[10**400])},
    "many sides": {"a": entry(shape=[1] * 100000 + [2])},
    "backwards": {"a": entry(offsets=[8, 0])},
    "beyond the end": {"a": entry(offsets=[8, 16])},
    "three offsets": {"a": entry(offsets=[0, 4, 8])},
    "overlap": {"a": entry(), "b": entry()},
    "gap": {"a": entry(shape=[1], offsets=[4, 8])},
    "trailing bytes": {"a": entry(shape=[1], offsets=[0, 4])},
    "metadata no text": {"__metadata__": {"a": 1}},
    "metadata no table": {"__metadata__": "x"},
}


@pytest.mark.parametrize("table", TABLES.values(), ids=list(TABLES))
def test_headers_that_lie(table, tmp_path):
    path = raw(tmp_path / "x.safetensors", table, bytes(8))
    with pytest.raises(ValueError, match="is damaged"):
        read_header(path)


def test_random_damage_is_refused_or_harmless(tmp_path):
    """A thousand files with flipped bytes, cuts and insertions."""
    path = tmp_path / "x.safetensors"
    arrays = {f"layer.{i}.weight": np.ones((2, 3), "float32") for i in range(4)}
    save_file(arrays, path, {"format": "pt"})
    good = path.read_bytes()
    random = np.random.default_rng(0)
    refused = 0
    for _ in range(1000):
        content = bytearray(good)
        for _ in range(random.integers(1, 4)):
            place = int(random.integers(len(content)))
            match random.integers(3):
                case 0:
                    content[place] = int(random.integers(256))
                case 1:
                    del content[place : place + int(random.integers(1, 30))]
                case _:
                    content[place:place] = random.bytes(3)
            if not content:
                break
        path.write_bytes(content)
        try:
            for tensor in open_tensors(path).values():
                assert tensor.read().nbytes <= 4 * len(good)
        except ValueError:
            refused += 1
    assert refused > 500
