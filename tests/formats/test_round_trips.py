"""Every format into every other, bit for bit."""

import shutil
import subprocess
import sys

import numpy as np
import pytest

import keras_sdft
from keras_sdft import formats
from keras_sdft.formats import keras_cv
from keras_sdft.models import ModelCard
from keras_sdft.models import StableDiffusion

ALL = sorted(formats.FORMATS)
PAIRS = [(a, b) for a in ALL for b in ALL if a != b]


@pytest.mark.parametrize("name", ALL)
def test_a_model_comes_back_whole(name, tiny, saved, assert_same_weights):
    model = StableDiffusion.from_preset(saved[name])
    assert model.spec == tiny.spec
    assert_same_weights(model, tiny)
    prompt = "A red heart, in ink style!"
    np.testing.assert_array_equal(
        model.tokenizer([prompt]), tiny.tokenizer([prompt])
    )


def tensors_of(checkpoint):
    return {
        f"{component}/{key}": tensor.read()
        for component, tensors in checkpoint.components.items()
        for key, tensor in tensors.items()
    }


@pytest.mark.parametrize("source, target", PAIRS)
def test_every_pair_is_bit_equal(source, target, tiny, saved, tmp_path):
    path = tmp_path / "converted.safetensors"
    formats.convert(saved[source], path, target)
    assert formats.detect(path) == target
    checkpoint = formats.load(path)
    assert checkpoint.spec == tiny.spec
    found, wanted = (
        tensors_of(checkpoint),
        tensors_of(formats.load(saved["ldm"])),
    )
    assert set(found) == set(wanted)
    for key, array in wanted.items():
        np.testing.assert_array_equal(found[key], array, err_msg=key)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("name", ["diffusers", "ldm"])
def test_half_precision_rounds_once(name, dtype, saved, tmp_path):
    first = tmp_path / "first.safetensors"
    formats.convert(saved[name], first, name, dtype)
    half, full = formats.load(first), formats.load(saved[name])
    words = {"float16": "F16", "bfloat16": "BF16"}
    bound = {"float16": 2.0**-11, "bfloat16": 2.0**-8}[dtype]
    for component, tensors in half.components.items():
        for key, tensor in tensors.items():
            assert tensor.dtype == words[dtype]
            exact = full.components[component][key].read()
            np.testing.assert_allclose(
                tensor.read(), exact, rtol=bound, atol=1e-7
            )
    second = tmp_path / "second.safetensors"
    formats.convert(first, second, name, dtype)
    assert tensors_of(formats.load(second)).keys() == tensors_of(half).keys()
    for key, array in tensors_of(formats.load(second)).items():
        np.testing.assert_array_equal(array, tensors_of(half)[key])
        break


def test_keras_files_are_float32(tiny, tmp_path):
    with pytest.raises(ValueError, match="float32"):
        formats.save(tiny, tmp_path / "k", "keras_cv", "float16")


@pytest.mark.parametrize("name", ["diffusers", "ldm"])
def test_an_export_builds_upon_the_model_it_was_made_from(
    name, tiny, saved, tmp_path, assert_same_weights
):
    """Exports hold the diffusion model; the rest comes from the origin."""
    from keras_sdft.models.exported import write_export

    model = StableDiffusion.from_preset(saved[name])
    export = write_export(tmp_path / "export", model)
    again = StableDiffusion.from_preset(export)
    assert_same_weights(again, tiny)
    assert again.origin == str(saved[name].resolve())


def test_an_export_whose_origin_is_gone_says_so(saved, tmp_path):
    from keras_sdft.models.exported import write_export

    copy = tmp_path / "moved.safetensors"
    copy.write_bytes(saved["ldm"].read_bytes())
    model = StableDiffusion.from_preset(copy)
    export = write_export(tmp_path / "export", model)
    copy.unlink()
    with pytest.raises(ValueError, match="moved.safetensors.*not there"):
        StableDiffusion.from_preset(export)


@pytest.mark.parametrize("name", ["diffusers", "ldm"])
def test_a_description_reads_no_weights(name, saved, tiny):
    description = keras_sdft.models.describe(saved[name])
    assert description["kind"] == formats.FORMATS[name].kind
    assert description["prediction_type"] == "epsilon"
    for part in keras_cv.NETWORKS:
        told = description["parts"][part]
        assert told["parameters"] == getattr(tiny, part).count_params()
        assert told["dtype"] == "float32"


def test_names_of_formats_and_dtypes_are_checked(tiny, tmp_path):
    with pytest.raises(ValueError, match="Did you mean 'diffusers'"):
        formats.save(tiny, tmp_path / "x", "difusers")
    with pytest.raises(ValueError, match="Did you mean 'float16'"):
        formats.save(tiny, tmp_path / "x", "diffusers", "float61")
    with pytest.raises(FileNotFoundError):
        formats.detect(tmp_path / "nothing")


@pytest.mark.parametrize("name", ["diffusers", "ldm"])
def test_how_the_library_is_imported_decides_nothing(name, saved):
    code = "import sys; from keras_sdft.models import resolve; "
    code += "print(resolve(sys.argv[1]).kind)"
    found = subprocess.run(
        [sys.executable, "-c", code, str(saved[name])],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert found.stdout.strip() == formats.FORMATS[name].kind, found.stderr


def test_a_card_goes_along_to_another_format(saved, tmp_path):
    source = tmp_path / "source"
    shutil.copytree(saved["keras_cv"], source)
    ModelCard(license="mit", details={"images": 3}).write(source)
    target = tmp_path / "pipeline"
    formats.convert(source, target, "diffusers")
    text = (target / "README.md").read_text(encoding="utf-8")
    for part in ("license: mit", "library_name: diffusers", "| images | 3 |"):
        assert part in text
    formats.convert(source, target, "diffusers", overwrite=True)
    # Somebody has changed it: the folder is theirs.
    (target / "README.md").write_text("mine", encoding="utf-8")
    with pytest.raises(FileExistsError, match="README.md"):
        formats.convert(source, target, "diffusers", overwrite=True)
