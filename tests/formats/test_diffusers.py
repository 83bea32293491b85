"""Pipeline folders as they have been written over the years."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from keras_sdft import formats
from keras_sdft.formats.safetensors_files import Tensor
from keras_sdft.formats.safetensors_files import open_tensors
from keras_sdft.formats.safetensors_files import write
from keras_sdft.weight_variants import STEMS

GOLDEN = Path(__file__).parent / "golden"


@pytest.fixture
def folder(tmp_path):
    return shutil.copytree(GOLDEN / "sd1", tmp_path / "sd1")


def in_memory(path):
    return {
        key: Tensor(tensor.shape, "F32", lambda array=array: array)
        for key, tensor in open_tensors(path).items()
        for array in [tensor.read()]
    }


def assert_equals_golden(checkpoint):
    wanted = formats.load(GOLDEN / "sd1")
    assert checkpoint.spec == wanted.spec
    for component, tensors in wanted.components.items():
        for key, tensor in tensors.items():
            found = checkpoint.components[component][key].read()
            np.testing.assert_array_equal(found, tensor.read(), err_msg=key)


def test_both_prefixes_of_the_text_encoder(folder):
    path = folder / "text_encoder" / "model.safetensors"
    tensors = in_memory(path)
    assert not any(key.startswith("text_model.") for key in tensors)
    renamed = {f"text_model.{key}": tensor for key, tensor in tensors.items()}
    ids = np.arange(77, dtype="float32")[None]
    renamed["text_model.embeddings.position_ids"] = Tensor(
        (1, 77), "I64", lambda: ids
    )
    write(path, renamed)
    assert_equals_golden(formats.load(folder))


@pytest.mark.parametrize("shape", ["matrix", "convolution"])
def test_both_spellings_of_the_middle_attention(shape, folder):
    path = folder / "vae" / "diffusion_pytorch_model.safetensors"
    old = {"to_q": "query", "to_k": "key", "to_v": "value"}
    tensors = {}
    for key, tensor in in_memory(path).items():
        array = tensor.read()
        for new, name in (*old.items(), ("to_out.0", "proj_attn")):
            if f"attentions.0.{new}." in key:
                key = key.replace(f".{new}.", f".{name}.")
                if shape == "convolution" and array.ndim == 2:
                    array = array[:, :, None, None]
        tensors[key] = Tensor(array.shape, "F32", lambda array=array: array)
    assert sum("proj_attn" in key for key in tensors) == 4
    write(path, tensors)
    assert_equals_golden(formats.load(folder))


@pytest.mark.parametrize("variant", [None, "fp16"])
def test_shards(variant, folder):
    stem = "diffusion_pytorch_model"
    path = folder / "unet" / f"{stem}.safetensors"
    tensors = in_memory(path)
    path.unlink()
    middle, names = f".{variant}" if variant else "", sorted(tensors)
    weight_map = {}
    for number, part in enumerate((names[:100], names[100:]), 1):
        file = f"{stem}{middle}-0000{number}-of-00002.safetensors"
        write(path.with_name(file), {name: tensors[name] for name in part})
        weight_map |= dict.fromkeys(part, file)
    index = path.with_name(f"{stem}.safetensors.index{middle}.json")
    index.write_text(json.dumps({"weight_map": weight_map}))
    assert_equals_golden(formats.load(folder))


def test_variants(folder):
    for name, stem in STEMS.items():
        path = folder / name / f"{stem}.safetensors"
        shutil.copy(path, path.with_name(f"{stem}.fp16.safetensors"))
        path.rename(path.with_name(f"{stem}.non_ema.safetensors"))
    assert_equals_golden(formats.load(folder, variant="fp16"))
    with pytest.raises(ValueError, match=r"\['fp16', 'non_ema'\].*None"):
        formats.load(folder)
    with pytest.raises(ValueError, match="variant='fp8'"):
        formats.load(folder, variant="fp8")


def test_a_lone_variant_is_taken(folder):
    path = folder / "unet" / "diffusion_pytorch_model.safetensors"
    path.rename(path.with_name("diffusion_pytorch_model.fp16.safetensors"))
    assert_equals_golden(formats.load(folder))


def test_a_fast_tokenizers_file_alone(folder):
    """transformers 5 writes `tokenizer.json` and neither of the others."""
    tokenizer = folder / "tokenizer"
    merges = (tokenizer / "merges.txt").read_text().split("\n")[1:-1]
    vocabulary = json.loads((tokenizer / "vocab.json").read_text())
    pairs = [merge.split() for merge in merges]
    model = {"type": "BPE", "vocab": vocabulary, "merges": pairs}
    (tokenizer / "tokenizer.json").write_text(json.dumps({"model": model}))
    (tokenizer / "merges.txt").unlink()
    (tokenizer / "vocab.json").unlink()
    wanted = formats.load(GOLDEN / "sd1").make_tokenizer(77, "end")
    found = formats.load(folder).make_tokenizer(77, "end")
    assert found.encode("A red heart!") == wanted.encode("A red heart!")


def test_everything_a_pipeline_needs_is_written(tmp_path):
    path = tmp_path / "again"
    formats.convert(GOLDEN / "sd2", path, "diffusers")
    assert {p.relative_to(path).as_posix() for p in path.rglob("*.*")} == {
        "README.md",
        "model_index.json",
        "scheduler/scheduler_config.json",
        "text_encoder/config.json",
        "text_encoder/model.safetensors",
        "tokenizer/merges.txt",
        "tokenizer/special_tokens_map.json",
        "tokenizer/tokenizer_config.json",
        "tokenizer/vocab.json",
        "unet/config.json",
        "unet/diffusion_pytorch_model.safetensors",
        "vae/config.json",
        "vae/diffusion_pytorch_model.safetensors",
    }
    scheduler = path / "scheduler" / "scheduler_config.json"
    assert json.loads(scheduler.read_text())["prediction_type"] == (
        "v_prediction"
    )
    special = path / "tokenizer" / "special_tokens_map.json"
    assert json.loads(special.read_text())["pad_token"] == "!"
    keys = open_tensors(path / "text_encoder" / "model.safetensors")
    assert all(key.startswith("text_model.") for key in keys)
