"""What cannot be read is named as what it is, and nothing else happens."""

import json
import pickle
import shutil

import numpy as np
import pytest

from keras_sdft import formats
from keras_sdft.formats.recognise import recognise
from keras_sdft.formats.safetensors_files import Tensor
from keras_sdft.formats.safetensors_files import open_tensors
from keras_sdft.formats.safetensors_files import read_header
from keras_sdft.formats.safetensors_files import write
from keras_sdft.models import StableDiffusion
from keras_sdft.models import resolve

UNET = "model.diffusion_model."


def zeros(*shape):
    return Tensor(shape, "F32", lambda: np.zeros(shape, "float32"))


def constant(array):
    return Tensor(array.shape, "F32", lambda: array)


@pytest.fixture
def pipeline(saved, tmp_path):
    """A copy of the pipeline folder to spoil."""
    return shutil.copytree(saved["diffusers"], tmp_path / "pipeline")


def change(path, **values):
    config = json.loads(path.read_text())
    path.write_text(json.dumps(config | values))


def rewrite(path, edit):
    """Writes a weight file again, its dict of tensors edited in place."""
    # Read now: the file is about to be replaced.
    tensors = {
        key: constant(tensor.read())
        for key, tensor in open_tensors(path).items()
    }
    metadata = read_header(path).metadata
    edit(tensors)
    write(path, tensors, metadata=metadata)


@pytest.mark.parametrize("cut", [1, 1000, 0.5, 0.999])
def test_truncated_files(cut, saved, tmp_path):
    content = saved["ldm"].read_bytes()
    size = int(len(content) * cut) if isinstance(cut, float) else cut
    path = tmp_path / "cut.safetensors"
    path.write_bytes(content[:size])
    with pytest.raises(ValueError, match="truncated"):
        StableDiffusion.from_preset(path)


@pytest.mark.parametrize("name", ["model.ckpt", "model.bin", "model"])
def test_pickles_are_refused_unread(name, tmp_path):
    path = tmp_path / name
    path.write_bytes(pickle.dumps({"state_dict": {}}))
    with pytest.raises(ValueError, match="execute code.*save_file"):
        formats.detect(path)


def test_torch_files_are_refused_under_any_name(tmp_path):
    path = tmp_path / "model.weights"
    path.write_bytes(b"PK\x03\x04" + bytes(100))
    with pytest.raises(ValueError, match="pickle"):
        formats.load(path)


def test_pickles_under_the_name_of_safetensors(tmp_path):
    path = tmp_path / "model.safetensors"
    for content in (pickle.dumps({"state_dict": {}}), b"PK\x03\x04" * 9):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="execute code"):
            formats.detect(path)


FOREIGN = {
    "a LoRA": "unet.a.to_q.lora_A.weight",
    "a Stable Diffusion XL": "conditioner.embedders.1.model.ln_final.weight",
    "a Flux": "double_blocks.0.img_attn.qkv.weight",
    "a Stable Diffusion 3": "joint_blocks.0.x_block.attn.qkv.weight",
    "a ControlNet": "control_model.input_blocks.0.0.weight",
    "an embedding": "emb_params",
    "a U-Net alone": "down_blocks.0.resnets.0.time_emb_proj.weight",
    "no Stable Diffusion": "fc.weight",
}


@pytest.mark.parametrize(
    "what, key",
    [
        ("a Stable Diffusion XL", "conditioner.embedders.0.model.weight"),
        ("a Stable Diffusion XL", f"{UNET}label_emb.0.0.weight"),
    ],
)
def test_other_models_with_our_first_key_are_named(what, key, tmp_path):
    path = tmp_path / "other.safetensors"
    first = f"{UNET}input_blocks.0.0.weight"
    write(path, {key: zeros(2, 2), first: zeros(320, 4, 3, 3)})
    with pytest.raises(ValueError, match=what):
        formats.load(path)


@pytest.mark.parametrize("what, key", FOREIGN.items(), ids=list(FOREIGN))
def test_other_models_are_named(what, key, tmp_path):
    path = tmp_path / "other.safetensors"
    write(path, {key: zeros(2, 2)})
    with pytest.raises(ValueError, match=what):
        formats.detect(path)


def test_kohya_loras_are_named(tmp_path):
    path = tmp_path / "lora.safetensors"
    write(path, {"lora_unet_a.lora_down.weight": zeros(4, 8)})
    with pytest.raises(ValueError, match="is a LoRA. Expected a whole text"):
        resolve(path)


@pytest.mark.parametrize(
    "name", ["pytorch_lora_weights.safetensors", "adapter_config.json"]
)
def test_folders_of_loras_are_named(name, tmp_path):
    (tmp_path / name).write_bytes(b"{}")
    with pytest.raises(ValueError, match="is a LoRA. Expected the whole"):
        formats.detect(tmp_path)


@pytest.mark.parametrize("channels, kind", [(9, "inpainting"), (8, "editing")])
def test_unets_with_more_inputs(channels, kind, pipeline, tmp_path):
    path = tmp_path / "inpainting.safetensors"
    write(path, {f"{UNET}input_blocks.0.0.weight": zeros(64, channels, 3, 3)})
    with pytest.raises(ValueError, match=f"{kind}.*{channels} channels"):
        formats.load(path)
    change(pipeline / "unet" / "config.json", in_channels=channels)
    with pytest.raises(ValueError, match=f"{kind}.*{channels} channels"):
        formats.load(pipeline)


@pytest.mark.parametrize(
    "name",
    [
        "StableDiffusionXLPipeline",
        "FluxPipeline",
        "StableDiffusion3Pipeline",
        "StableDiffusionInpaintPipeline",
    ],
)
def test_other_pipelines_are_named(name, pipeline):
    change(pipeline / "model_index.json", _class_name=name)
    with pytest.raises(ValueError, match=f"is a {name}"):
        formats.load(pipeline)


@pytest.mark.parametrize(
    "file, field, value",
    [
        ("unet", "addition_embed_type", "text_time"),
        ("unet", "transformer_layers_per_block", 2),
        ("unet", "block_out_channels", [64, "96", 160, 192]),
        ("unet", "block_out_channels", [10**12] * 4),
        ("unet", "layers_per_block", 1 << 20),
        ("unet", "attention_head_dim", 7),
        ("unet", "attention_head_dim", [4, 4]),
        ("unet", "layers_per_block", True),
        ("unet", "norm_num_groups", 0),
        ("unet", "down_block_types", ["DownBlock2D"] * 4),
        ("vae", "scaling_factor", "big"),
        ("vae", "use_quant_conv", False),
        ("vae", "layers_per_block", 1 << 20),
        ("vae", "down_block_types", ["DownEncoderBlock2D"] * 3),
        ("text_encoder", "hidden_act", "relu"),
        ("text_encoder", "intermediate_size", 100),
        ("text_encoder", "num_hidden_layers", None),
        ("text_encoder", "num_hidden_layers", 1 << 20),
        ("text_encoder", "num_attention_heads", 7),
        ("scheduler", "prediction_type", "sample"),
        ("scheduler", "beta_schedule", "linear"),
        ("scheduler", "rescale_betas_zero_snr", True),
    ],
)
def test_configurations_of_other_models(file, field, value, pipeline):
    name = "scheduler_config.json" if file == "scheduler" else "config.json"
    change(pipeline / file / name, **{field: value})
    # Counts that are only too large are named by the spec's own words.
    ours = {"layers_per_block": "blocks", "num_hidden_layers": "depth"}
    words = {"text_time": "XL", 1 << 20: ours.get(field, field)}
    if field == "num_attention_heads":
        field = "num_heads"
    expected = field if isinstance(value, list) else words.get(value, field)
    with pytest.raises(ValueError, match=expected):
        formats.load(pipeline)


@pytest.mark.parametrize("text", ["", "[1]", "{", "[" * 100000, "\udcff"])
def test_damaged_json(text, pipeline):
    data = text.encode("utf-8", "surrogateescape")
    (pipeline / "unet" / "config.json").write_bytes(data)
    with pytest.raises(ValueError, match="config.json"):
        formats.load(pipeline)


def test_missing_and_unexpected_keys_are_counted(pipeline):
    def edit(tensors):
        for index in range(7):
            tensors[f"mid_block.extra.{index}"] = zeros(1)
        for key in [k for k in tensors if "attn2.to_q" in k][:6]:
            del tensors[key]

    weights = pipeline / "unet" / "diffusion_pytorch_model.safetensors"
    rewrite(weights, edit)
    with pytest.raises(ValueError) as caught:
        formats.load(pipeline)
    message = str(caught.value)
    assert "6 missing (" in message and "7 unexpected (" in message
    assert "extra.4, ..." in message and "extra.5" not in message


def test_shapes_must_fit(pipeline):
    def edit(tensors):
        tensors["conv_in.bias"] = zeros(65)

    rewrite(pipeline / "unet" / "diffusion_pytorch_model.safetensors", edit)
    with pytest.raises(ValueError, match=r"conv_in.bias \(65,\), expected"):
        formats.load(pipeline)


def test_unexpected_keys_of_single_files(saved, tmp_path):
    def edit(tensors):
        tensors[f"{UNET}surprise"] = zeros(1)
        # These are known and left alone.
        tensors["alphas_cumprod"] = zeros(1000)
        tensors["model_ema.num_updates"] = zeros()

    path = shutil.copy(saved["ldm"], tmp_path / "more.safetensors")
    rewrite(path, edit)
    with pytest.raises(ValueError, match=r"1 unexpected .*surprise\)"):
        formats.load(path)


def integers(path, key):
    """Turns one weight of a file into integers, in the header only."""
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    table = json.loads(content[8 : 8 + length])
    table[key]["dtype"] = "I32"
    text = json.dumps(table, separators=(",", ":")).encode()
    path.write_bytes(
        len(text).to_bytes(8, "little") + text + content[8 + length :]
    )


def test_wrong_dtypes(pipeline):
    file = pipeline / "vae" / "diffusion_pytorch_model.safetensors"
    integers(file, "quant_conv.bias")
    with pytest.raises(ValueError, match="another dtype.*quant_conv.bias I32"):
        formats.load(pipeline)


def test_parts_that_do_not_belong_together(pipeline):
    change(pipeline / "unet" / "config.json", cross_attention_dim=96)
    with pytest.raises(ValueError, match="text encoder has width 128"):
        formats.load(pipeline)


def test_folders_without_safetensors(pipeline):
    weights = pipeline / "unet" / "diffusion_pytorch_model.safetensors"
    weights.rename(weights.with_suffix(".bin"))
    with pytest.raises(ValueError, match="pickles.*safe_serialization"):
        formats.load(pipeline)
    shutil.rmtree(pipeline / "unet")
    with pytest.raises(ValueError, match=r"no \['unet'\]"):
        formats.load(pipeline)


def test_single_components_are_told_from_pipelines(pipeline):
    with pytest.raises(ValueError, match="one component"):
        formats.detect(pipeline / "unet")
    (pipeline / "model_index.json").unlink()
    with pytest.raises(ValueError, match="without model_index.json"):
        formats.detect(pipeline)


def test_vocabularies_that_contradict_themselves(pipeline):
    vocabulary = pipeline / "tokenizer" / "vocab.json"
    change(vocabulary, **{"<|endoftext|>": 5})
    model = StableDiffusion.from_preset(pipeline)
    with pytest.raises(ValueError, match="1 tokens have other ids"):
        _ = model.tokenizer


def test_index_files_must_stay_inside(pipeline, tmp_path):
    weights = pipeline / "unet" / "diffusion_pytorch_model.safetensors"
    weights.rename(tmp_path / "outside.safetensors")
    index = pipeline / "unet" / f"{weights.name}.index.json"
    index.write_text(
        json.dumps({"weight_map": {"a": "../../outside.safetensors"}})
    )
    with pytest.raises(ValueError, match="not in its folder"):
        formats.load(pipeline)


@pytest.mark.parametrize("name", sorted(formats.FORMATS))
def test_outputs_that_exist(name, saved, tmp_path):
    checkpoint = formats.load(saved["ldm"])
    path = tmp_path / "there.safetensors"
    path.mkdir()
    (path / "precious.txt").write_text("x")
    for overwrite in (False, True):
        with pytest.raises(FileExistsError):
            formats.save(checkpoint, path, name, overwrite=overwrite)
    assert [p.name for p in tmp_path.iterdir()] == ["there.safetensors"]
    assert (path / "precious.txt").read_text() == "x"


@pytest.mark.parametrize("name", ["diffusers", "ldm"])
def test_earlier_outputs_are_replaced_when_asked(name, saved, tmp_path):
    checkpoint = formats.load(saved["ldm"])
    path = tmp_path / "twice.safetensors"
    formats.save(checkpoint, path, name)
    with pytest.raises(FileExistsError, match="--overwrite"):
        formats.save(checkpoint, path, name)
    formats.save(checkpoint, path, name, overwrite=True)
    assert formats.load(path).spec == checkpoint.spec
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("name", ["diffusers", "ldm"])
def test_a_failed_write_leaves_nothing(name, saved, tmp_path):
    checkpoint = formats.load(saved["ldm"])

    def fail():
        raise OSError("disk full")

    key = "conv_out.bias"
    tensor = checkpoint.components["unet"][key]
    checkpoint.components["unet"][key] = Tensor(tensor.shape, "F32", fail)
    with pytest.raises(OSError, match="disk full"):
        formats.save(checkpoint, tmp_path / "x.safetensors", name)
    assert list(tmp_path.iterdir()) == []


def test_values_beyond_float16_are_not_made_infinite(tmp_path):
    tensor = Tensor((1,), "F32", lambda: np.array([1e5], "float32"))
    with pytest.raises(ValueError, match="'a' has values beyond float16"):
        write(tmp_path / "x.safetensors", {"a": tensor}, "float16")
    assert list(tmp_path.iterdir()) == []


def test_single_files_have_their_ending(saved, tmp_path):
    with pytest.raises(ValueError, match="must end in '.safetensors'"):
        formats.convert(saved["ldm"], tmp_path / "x.ckpt", "ldm")


def test_keras_paths_are_left_to_keras(saved):
    assert recognise(saved["keras_cv"]) is None
    file = saved["keras_cv"] / "text_encoder.weights.h5"
    assert recognise(file) is None


def test_options_of_other_formats_are_refused(saved):
    with pytest.raises(ValueError, match="averages for `ema`"):
        formats.load(saved["diffusers"], ema=True)
    with pytest.raises(ValueError, match="has variants"):
        formats.load(saved["ldm"], variant="fp16")
    with pytest.raises(ValueError, match=r"variants \[None\]"):
        formats.load(saved["diffusers"], variant="fp16")


def test_exports_that_build_upon_themselves(saved, tmp_path):
    path = shutil.copytree(saved["keras_cv"], tmp_path / "loop")
    change(path / "keras_sdft.json", origin=str(path))
    with pytest.raises(ValueError, match="builds upon it"):
        resolve(path)
