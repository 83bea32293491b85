"""Single files: original keys, and what they do not say."""

import json
from pathlib import Path

import numpy as np
import pytest

from keras_sdft import formats
from keras_sdft.formats import ldm
from keras_sdft.formats.ldm_names import original_keys
from keras_sdft.formats.ldm_sizes import spec_from_sizes
from keras_sdft.formats.safetensors_files import Tensor
from keras_sdft.formats.safetensors_files import open_tensors
from keras_sdft.formats.safetensors_files import read_header
from keras_sdft.formats.safetensors_files import write
from keras_sdft.models import PRESETS
from keras_sdft.models.prediction_types import known_prediction_type
from tests.formats.reference import GOLDEN
from tests.formats.reference import full_size_file
from tests.formats.reference import single_file_shapes
from tests.formats.reference import transformers_shapes

UNET = "model.diffusion_model."


def of_shape(shape):
    return Tensor(shape, "F32", lambda: np.zeros(shape, "float32"))


def full_size(name, **more):
    """The keys and shapes of a published model, no weights."""
    shapes = single_file_shapes(name) | more
    return {key: of_shape(shape) for key, shape in shapes.items()}


@pytest.fixture(params=["sd1", "sd2"])
def single(request, tmp_path):
    path = tmp_path / "single.safetensors"
    formats.convert(GOLDEN / request.param, path, "ldm")
    return GOLDEN / request.param, path


def test_weights_and_conventions_survive(single):
    folder, path = single
    wanted, found = formats.load(folder), formats.load(path)
    assert found.spec == wanted.spec
    for component, tensors in wanted.components.items():
        for key, tensor in tensors.items():
            array = found.components[component][key].read()
            np.testing.assert_array_equal(array, tensor.read(), err_msg=key)


def test_some_keys_by_hand():
    keys = original_keys(PRESETS["sd1.4"].spec)
    assert sum(map(len, keys.values())) == 686 + 248 + 196
    hand = {
        "conv_in.weight": "input_blocks.0.0.weight",
        "time_embedding.linear_2.bias": "time_embed.2.bias",
        "down_blocks.2.resnets.1.conv_shortcut.weight": None,
        "down_blocks.1.resnets.0.conv_shortcut.weight": (
            "input_blocks.4.0.skip_connection.weight"
        ),
        "down_blocks.2.downsamplers.0.conv.bias": "input_blocks.9.0.op.bias",
        "mid_block.resnets.1.norm2.bias": "middle_block.2.out_layers.0.bias",
        "up_blocks.0.upsamplers.0.conv.weight": "output_blocks.2.1.conv.weight",
        "up_blocks.2.upsamplers.0.conv.weight": "output_blocks.8.2.conv.weight",
        "up_blocks.3.attentions.2.transformer_blocks.0.ff.net.0.proj.bias": (
            "output_blocks.11.1.transformer_blocks.0.ff.net.0.proj.bias"
        ),
        "conv_norm_out.bias": "out.0.bias",
    }
    for key, original in hand.items():
        expected = None if original is None else UNET + original
        assert keys["unet"].get(key) == expected
    stage = "first_stage_model."
    vae = {
        "decoder.up_blocks.0.resnets.1.conv1.bias": (
            "decoder.up.3.block.1.conv1"
        ),
        "encoder.mid_block.attentions.0.to_out.0.bias": (
            "encoder.mid.attn_1.proj_out"
        ),
        "encoder.down_blocks.1.resnets.0.conv_shortcut.bias": (
            "encoder.down.1.block.0.nin_shortcut"
        ),
        "quant_conv.bias": "quant_conv",
    }
    for key, original in vae.items():
        assert keys["vae"][key] == f"{stage}{original}.bias"
    text = original_keys(PRESETS["sd2.1-base"].spec)["text_encoder"]
    stem = "cond_stage_model.model.transformer.resblocks.3."
    layer = "text_model.encoder.layers.3."
    assert text[f"{layer}self_attn.k_proj.weight"] == (
        f"{stem}attn.in_proj_weight",
        1,
    )
    assert text[f"{layer}mlp.fc2.bias"] == f"{stem}mlp.c_proj.bias"


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_no_two_weights_share_a_key(name):
    keys = original_keys(PRESETS[name].spec)
    all_keys = [value for table in keys.values() for value in table.values()]
    assert len(all_keys) == len(set(all_keys))


def test_attention_is_a_convolution_in_the_original(single):
    _, path = single
    header = read_header(path)
    key = "first_stage_model.decoder.mid.attn_1.q.weight"
    assert header.tensors[key][1] == (8, 8, 1, 1)
    assert header.metadata["format"] == "pt"
    assert "modelspec.architecture" in header.metadata


@pytest.mark.parametrize("name", ["sd1.4", "sd2.1-base"])
def test_published_sizes_are_read_off_the_shapes(name):
    tensors = full_size(name)
    spec, wanted = spec_from_sizes(Path("x"), tensors), PRESETS[name].spec
    assert spec.diffusion_model == wanted.diffusion_model
    assert spec.text_encoder == wanted.text_encoder
    assert spec.autoencoder == wanted.autoencoder


def test_a_whole_open_clip_has_a_layer_that_is_not_run():
    stem = "cond_stage_model.model."
    last = {
        f"{stem}transformer.resblocks.23.ln_1.weight": (1024,),
        f"{stem}text_projection": (1024, 1024),
    }
    tensors = full_size("sd2.1-base", **last)
    assert spec_from_sizes(Path("x"), tensors).text_encoder.depth == 23


def without_metadata(path, more=(), **metadata):
    tensors = {
        key: Tensor(tensor.shape, "F32", lambda array=array: array)
        for key, tensor in open_tensors(path).items()
        for array in [tensor.read()]
    }
    write(path, tensors | dict(more), metadata=metadata)


def test_prediction_must_be_given_where_it_cannot_be_known(tmp_path):
    path = tmp_path / "single.safetensors"
    formats.convert(GOLDEN / "sd2", path, "ldm")
    spec, tensors = formats.load(path).spec, open_tensors(path)
    assert ldm.declarations(path, spec, tensors, {}) is None
    with pytest.raises(ValueError, match="--prediction_type"):
        known_prediction_type(path, spec, None, None)
    assert known_prediction_type(path, spec, None, "epsilon") == "epsilon"
    with pytest.raises(ValueError, match="must be one of.*'sample'"):
        formats.load(path, prediction_type="sample")


def test_averages_are_ignored_or_chosen(tmp_path):
    path = tmp_path / "single.safetensors"
    formats.convert(GOLDEN / "sd1", path, "ldm")
    tensors = {
        key: Tensor(tensor.shape, "F32", lambda array=array: array)
        for key, tensor in open_tensors(path).items()
        for array in [tensor.read()]
    }
    averages = {
        "model_ema." + key.removeprefix("model.").replace(".", ""): Tensor(
            tensor.shape, "F32", lambda tensor=tensor: tensor.read() + 1
        )
        for key, tensor in tensors.items()
        if key.startswith(UNET)
    }
    metadata = read_header(path).metadata
    with pytest.raises(ValueError, match="without `ema`"):
        formats.load(path, ema=True)
    write(path, tensors | averages, metadata=metadata)
    plain, average = formats.load(path), formats.load(path, ema=True)
    for component, more in (("unet", 1), ("vae", 0)):
        for key, tensor in plain.components[component].items():
            np.testing.assert_array_equal(
                average.components[component][key].read(), tensor.read() + more
            )


def test_damaged_metadata(tmp_path):
    path = tmp_path / "single.safetensors"
    formats.convert(GOLDEN / "sd1", path, "ldm")
    without_metadata(path, **{ldm.SPEC: '{"name": 3, "colour": 1}'})
    with pytest.raises(ValueError, match="metadata.*damaged"):
        formats.load(path)
    # As many steps as the number says would take an hour.
    spec = PRESETS["sd1.4"].spec.to_dict()
    spec["text_encoder"]["depth"] = 10**9
    without_metadata(path, **{ldm.SPEC: json.dumps(spec)})
    with pytest.raises(ValueError, match="metadata.*depth=1000000000"):
        formats.load(path)


@pytest.mark.parametrize(
    "word, meaning",
    [
        ("v", "v_prediction"),
        ("v_prediction", "v_prediction"),
        ("V-Prediction", "v_prediction"),
        ("vpred", "v_prediction"),
        ("epsilon", "epsilon"),
        ("eps", "epsilon"),
    ],
)
def test_predictions_in_other_spellings(word, meaning):
    spec, metadata = PRESETS["sd1.4"].spec, {ldm.PREDICTION_TYPE: word}
    assert ldm.declarations(Path("x"), spec, {}, metadata) == meaning


@pytest.mark.parametrize(
    "metadata, words",
    [
        ({ldm.PREDICTION_TYPE: "sample"}, "'sample'. Expected 'epsilon' or"),
        (
            {
                ldm.PREDICTION_TYPE: "epsilon",
                "modelspec.architecture": "stable-diffusion-v2-768-v",
            },
            "contradicts itself",
        ),
        ({ldm.SPEC: "", ldm.PREDICTION_TYPE: "v"}, "contradicts itself"),
        ({"modelspec.architecture": "stable-diffusion-v1"}, "width 1024"),
    ],
)
def test_metadata_that_contradicts_itself(metadata, words):
    spec = PRESETS["sd2.1-base"].spec
    with pytest.raises(ValueError, match=words):
        ldm.declarations(Path("x"), spec, {}, metadata)
    marked = {ldm.PREDICTION_TYPE: "eps"}
    with pytest.raises(ValueError, match="the weight 'v_pred'"):
        ldm.declarations(Path("x"), spec, {"v_pred": None}, marked)


def test_the_mark_of_zero_terminal_snr(tmp_path):
    path = tmp_path / "single.safetensors"
    formats.convert(GOLDEN / "sd2", path, "ldm")
    metadata = read_header(path).metadata
    without_metadata(path, {"ztsnr": of_shape(())}, **metadata)
    assert formats.load(path).spec.zero_terminal_snr
    formats.convert(GOLDEN / "sd1", path, "ldm", overwrite=True)
    metadata = read_header(path).metadata
    without_metadata(path, {"ztsnr": of_shape(())}, **metadata)
    with pytest.raises(ValueError, match="zero terminal SNR.*'epsilon'"):
        formats.load(path)


@pytest.mark.parametrize("layers", [23, 24])
def test_sd_2_with_the_keys_of_transformers(layers, tmp_path):
    """The text encoder's sizes tell, not how its keys are spelled."""
    shapes = transformers_shapes("sd2.1-base", layers)
    path = full_size_file(tmp_path / "x.safetensors", shapes)
    spec = formats.load(path, prediction_type="v_prediction").spec
    wanted = PRESETS["sd2.1-base"].spec
    assert spec.text_encoder == wanted.text_encoder
    assert (spec.pad_token, spec.resolution) == (0, 768)
    with pytest.raises(ValueError, match="--prediction_type v_prediction"):
        formats.load(path)


def test_text_keys_without_their_first_part(tmp_path):
    stem = "cond_stage_model.transformer."
    shapes = {
        key.replace(f"{stem}text_model.", stem): shape
        for key, shape in single_file_shapes("sd1.4").items()
    }
    path = full_size_file(tmp_path / "x.safetensors", shapes)
    wanted = PRESETS["sd1.4"].spec
    assert formats.load(path).spec.text_encoder == wanted.text_encoder


def test_the_declared_resolution_is_read(tmp_path):
    shapes = single_file_shapes("sd1.4")
    for text, side in (("768x768", 768), ("512x768", 576), ("odd", 512)):
        path = full_size_file(
            tmp_path / "x.safetensors",
            shapes,
            **{"modelspec.resolution": text},
        )
        assert formats.load(path).spec.resolution == side


def test_weights_beside_the_model_are_left_out_with_a_warning(
    single, tmp_path, caplog
):
    _, path = single
    metadata = read_header(path).metadata
    more = {"global_step": of_shape(()), "helper.weight": of_shape((2,))}
    without_metadata(path, more, **metadata)
    formats.load(path)
    assert "2 weights" in caplog.text and "global_step" in caplog.text
