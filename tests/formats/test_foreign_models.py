"""Models of other tools: what is kept, what is left out and told."""

import json
import shutil

import h5py
import ml_dtypes
import numpy as np
import pytest

from keras_sdft import formats
from keras_sdft.cli import main
from keras_sdft.formats.checkpoint import without_extras
from keras_sdft.formats.losses import losses
from keras_sdft.formats.recognise import find_snapshot
from keras_sdft.formats.safetensors_files import Tensor
from keras_sdft.formats.safetensors_files import open_tensors
from keras_sdft.formats.safetensors_files import read_header
from keras_sdft.formats.safetensors_files import write
from keras_sdft.models import StableDiffusion
from keras_sdft.models import describe
from keras_sdft.models import resolve
from keras_sdft.models.exported import write_export
from keras_sdft.models.tokenizer import Tokenizer
from keras_sdft.models.weight_files import check_weights
from keras_sdft.models.weight_files import weight_shapes
from keras_sdft.models.weight_names import component_rows
from keras_sdft.weight_variants import STEMS
from tests.formats.reference import GOLDEN
from tests.formats.reference import full_size_file
from tests.formats.reference import single_file_shapes


@pytest.fixture
def folder(tmp_path):
    return shutil.copytree(GOLDEN / "sd1", tmp_path / "sd1")


@pytest.fixture
def second(tmp_path):
    return shutil.copytree(GOLDEN / "sd2", tmp_path / "sd2")


def change(path, remove=(), **values):
    config = json.loads(path.read_text()) | values
    path.write_text(
        json.dumps({k: v for k, v in config.items() if k not in remove})
    )


def of_array(array):
    return Tensor(array.shape, "F32", lambda: array)


def rewrite(path, edit):
    tensors = {
        key: of_array(tensor.read())
        for key, tensor in open_tensors(path).items()
    }
    metadata = read_header(path).metadata
    write(path, edit(tensors), metadata=metadata)


def scheduler_of(folder):
    return json.loads((folder / "scheduler/scheduler_config.json").read_text())


# === The scheduler ===


def test_a_scheduler_is_kept_and_followed(folder, tmp_path):
    """One step of a distilled model must begin at timestep 999."""
    file = folder / "scheduler" / "scheduler_config.json"
    config = {
        "_class_name": "EulerDiscreteScheduler",
        "timestep_spacing": "trailing",
        "a_setting_of_its_own": 3,
    }
    change(file, **config)
    spec = formats.load(folder).spec
    assert (spec.spacing, spec.steps_offset) == ("trailing", 1)
    again = tmp_path / "again"
    formats.convert(folder, again, "diffusers")
    assert scheduler_of(again) == scheduler_of(folder)
    index = json.loads((again / "model_index.json").read_text())
    assert index["scheduler"] == ["diffusers", "EulerDiscreteScheduler"]
    single = tmp_path / "single.safetensors"
    formats.convert(folder, single, "ldm")
    assert formats.load(single).spec == spec
    change(file, timestep_spacing="sideways")
    with pytest.raises(ValueError, match="timestep_spacing='sideways'"):
        formats.load(folder)


@pytest.mark.parametrize(
    "name, spacing", [("PNDMScheduler", "leading"), ("LMSDiscrete", "linspace")]
)
def test_spacing_that_is_not_declared(name, spacing, folder):
    file = folder / "scheduler" / "scheduler_config.json"
    change(file, remove=["timestep_spacing"], _class_name=name)
    assert formats.load(folder).spec.spacing == spacing


def test_generation_begins_where_the_spacing_says(make_micro):
    import dataclasses

    model, visited = make_micro(), []
    model.spec = dataclasses.replace(model.spec, timestep_spacing="trailing")
    network = model.diffusion_model

    class Spy:
        def predict_on_batch(self, inputs):
            visited.append(np.asarray(inputs["timestep_embedding"]))
            return network.predict_on_batch(inputs)

    model.diffusion_model = Spy()
    context = np.zeros((1, 77, model.spec.diffusion_model.context_width))
    model.generate_image(context, num_steps=1, seed=0)
    last = visited[-1]
    model.spec = dataclasses.replace(model.spec, timestep_spacing="leading")
    model.generate_image(context, num_steps=1, seed=0)
    assert np.abs(visited[-1] - last).max() > 0.1


def test_an_export_keeps_the_scheduler_of_its_origin(folder, tmp_path):
    file = folder / "scheduler" / "scheduler_config.json"
    change(file, _class_name="DDIMScheduler", clip_sample=False)
    model = StableDiffusion.from_preset(folder, 64, 64)
    export = write_export(tmp_path / "export", model)
    formats.convert(export, tmp_path / "again", "diffusers")
    assert scheduler_of(tmp_path / "again") == scheduler_of(folder)


def test_what_is_not_declared_is_asked_for_in_folders_too(second):
    file = second / "scheduler" / "scheduler_config.json"
    change(file, remove=["prediction_type"])
    with pytest.raises(ValueError, match="--prediction_type v_prediction"):
        formats.load(second)
    given = formats.load(second, prediction_type="v_prediction")
    assert given.spec.prediction_type == "v_prediction"
    assert describe(second)["prediction_type"] == "not declared, give it"


# === Vocabularies ===


def more_rows(tensors):
    key = "embeddings.token_embedding.weight"
    rows = tensors[key].read()
    return tensors | {key: of_array(np.concatenate([rows, rows[:1] + 1]))}


@pytest.fixture
def with_token(folder):
    rewrite(folder / "text_encoder" / "model.safetensors", more_rows)
    change(folder / "text_encoder" / "config.json", vocab_size=601)
    return folder


@pytest.mark.parametrize("where", ["added_tokens", "decoder", "vocab"])
def test_added_tokens_are_read_and_written(where, with_token, tmp_path):
    tokenizer = with_token / "tokenizer"
    if where == "added_tokens":
        (tokenizer / "added_tokens.json").write_text('{"<cat-toy>": 600}')
    elif where == "decoder":
        listed = {"600": {"content": "<cat-toy>"}}
        change(tokenizer / "tokenizer_config.json", added_tokens_decoder=listed)
    else:
        change(tokenizer / "vocab.json", **{"<cat-toy>": 600})
    ids = formats.load(with_token).make_tokenizer(77, "end").encode("<cat-toy>")
    assert ids[1:-1] == [600]
    formats.convert(with_token, tmp_path / "a", "keras_cv")
    formats.convert(tmp_path / "a", tmp_path / "b", "diffusers")
    again = formats.load(tmp_path / "b")
    assert again.make_tokenizer(77, "end").encode("<cat-toy>") == ids
    assert again.spec == formats.load(with_token).spec
    with pytest.raises(ValueError, match="1 added tokens.*would be lost"):
        formats.convert(with_token, tmp_path / "x.safetensors", "ldm")


def test_tokens_and_rows_must_be_as_many(with_token):
    with pytest.raises(ValueError, match="has 600 tokens.*beside it 601"):
        formats.load(with_token)
    file = with_token / "tokenizer" / "added_tokens.json"
    file.write_text('{"<cat-toy>": 602}')
    with pytest.raises(ValueError, match=r"<cat-toy>.*\[602\].*from 600 up"):
        formats.load(with_token)


def test_a_single_file_with_more_rows_is_refused(tmp_path):
    key = "cond_stage_model.transformer.text_model.embeddings.token_embedding"
    shapes = single_file_shapes("sd1.4") | {f"{key}.weight": (49409, 768)}
    path = full_size_file(tmp_path / "x.safetensors", shapes)
    with pytest.raises(ValueError, match="49409 tokens, CLIP's vocabulary"):
        resolve(path)


def test_a_vocabulary_of_another_model(folder, tmp_path):
    single = tmp_path / "single.safetensors"
    formats.convert(folder, single, "ldm")
    model = StableDiffusion.from_preset("tiny")
    other = StableDiffusion(64, 64, spec=resolve(single).spec, base="tiny")
    assert len(model.tokenizer.encoder) == 2048
    with pytest.raises(ValueError, match="2048 tokens.*embedding 600 rows"):
        _ = other.tokenizer


def test_bombs_are_refused_by_their_budget(tmp_path, monkeypatch):
    import gzip

    from keras_sdft import parsing
    from keras_sdft.formats import tokenizer_files

    path = tmp_path / "merges.txt.gz"
    path.write_bytes(gzip.compress(b"a b\n" * 5_000_000, 9))
    assert path.stat().st_size < 100_000
    with pytest.raises(ValueError, match="merges.*budget of 16,000,000 bytes"):
        Tokenizer(path)
    (tmp_path / "merges.txt").write_text("a b\n" * 200_001)
    with pytest.raises(ValueError, match="merges.txt.*budget of 200,000"):
        tokenizer_files.read_merges(tmp_path)
    path = tmp_path / "x.safetensors"
    header = b"[" + b"[]," * 250_000 + b"[]]"
    path.write_bytes(len(header).to_bytes(8, "little") + header)
    with pytest.raises(ValueError, match="x.safetensors.*budget of 200,000"):
        read_header(path)
    monkeypatch.setattr(parsing, "MAX_JSON_BYTES", 9)
    (tmp_path / "x.json").write_text("{" + " " * 20 + "}")
    with pytest.raises(ValueError, match="x.json.*budget of 9 bytes"):
        parsing.read_json(tmp_path / "x.json", 9)


# === Weights ===


def poison(tensors):
    key = sorted(k for k in tensors if k.endswith("conv_in.weight"))[0]
    array = tensors[key].read().copy()
    array.flat[3] = np.nan
    return tensors | {key: of_array(array)}


def test_weights_that_are_not_finite_are_named(folder, tmp_path, capsys):
    file = folder / "unet" / "diffusion_pytorch_model.safetensors"
    rewrite(file, poison)
    output = tmp_path / "x.safetensors"
    command = ["convert", "--model", str(folder), "--output", str(output)]
    assert main([*command, "--format", "ldm"]) == 2
    told = capsys.readouterr().err
    assert "conv_in.weight" in told and "1 values that are NaN" in told
    assert not output.exists()
    with pytest.raises(ValueError, match="conv_in.weight"):
        _ = StableDiffusion.from_preset(folder, 64, 64).diffusion_model
    assert describe(folder)["damage"] is None
    assert "conv_in.weight" in describe(folder, True)["damage"][0]
    main(["inspect", str(folder)])
    assert "conv_in.weight" in capsys.readouterr().out


def test_keras_weights_that_are_not_finite_are_named(saved, tmp_path):
    path = shutil.copytree(saved["keras_cv"], tmp_path / "keras")
    file = path / "decoder.weights.h5"
    name = next(k for k in weight_shapes(file) if k.endswith("vars/0"))
    with h5py.File(file, "a") as opened:
        opened[name][...] = np.inf
    assert name in describe(path, True)["damage"][0]
    with pytest.raises(ValueError, match="decoder.weights.h5.*NaN or infinite"):
        _ = StableDiffusion.from_preset(path).decoder


def test_keras_weights_that_refer_to_other_files(tmp_path):
    path = tmp_path / "w.weights.h5"
    for link in (h5py.ExternalLink("/etc/passwd", "x"), h5py.SoftLink("/a")):
        with h5py.File(path, "w") as file:
            file["weights"] = link
        with pytest.raises(ValueError, match="refers to another place"):
            weight_shapes(path)
    with h5py.File(path, "w") as file:
        for number in range(20_001):
            file.create_group(str(number))
    with pytest.raises(ValueError, match="budget of 20,000 entries"):
        check_weights(path)
    with h5py.File(path, "w") as file:
        file.create_dataset("x", (10**12,), "f4", chunks=(10,))[0] = 1
    with pytest.raises(ValueError, match="budget: the weight 'x'"):
        check_weights(path)


@pytest.mark.parametrize(
    "word, dtype",
    [("F8_E4M3", ml_dtypes.float8_e4m3fn), ("F8_E5M2", ml_dtypes.float8_e5m2)],
)
def test_float8_is_read(word, dtype, tmp_path):
    array = np.array([1.0, -0.5, 3.0, 0.0], dtype)
    table = {"a": {"dtype": word, "shape": [4], "data_offsets": [0, 4]}}
    text = json.dumps(table).encode()
    path = tmp_path / "x.safetensors"
    path.write_bytes(len(text).to_bytes(8, "little") + text + array.tobytes())
    tensor = open_tensors(path)["a"]
    np.testing.assert_array_equal(tensor.read(), array.astype("float32"))
    rows = [r for r in component_rows("unet", resolve("tiny").spec)][:1]
    kept, _ = without_extras("unet", {rows[0].theirs: tensor}, rows)
    assert kept[rows[0].theirs].dtype == word


def test_a_whole_clip_and_fewer_layers(folder, caplog):
    config = json.loads((folder / "text_encoder/config.json").read_text())
    depth = config["num_hidden_layers"]

    def whole(tensors):
        more = {
            "logit_scale": of_array(np.ones((), "float32")),
            "text_projection.weight": of_array(np.ones((2, 2), "float32")),
            "vision_model.embeddings.x": of_array(np.ones(3, "float32")),
        }
        return tensors | more

    rewrite(folder / "text_encoder" / "model.safetensors", whole)
    change(
        folder / "text_encoder" / "config.json",
        text_config={**config, "num_hidden_layers": depth - 1},
    )
    found = formats.load(folder)
    assert found.spec.text_encoder.depth == depth - 1
    assert "vision_model.embeddings.x" in caplog.text
    assert f"runs {depth - 1} layers" in caplog.text


def test_a_variant_falls_back_for_each_component(folder, caplog):
    for name in ("unet", "text_encoder"):
        stem = STEMS[name]
        path = folder / name / f"{stem}.safetensors"
        shutil.copy(path, path.with_name(f"{stem}.fp16.safetensors"))
    formats.load(folder, variant="fp16")
    assert "vae" in caplog.text and "no weights of the variant" in caplog.text
    assert "unet" not in caplog.text


def test_what_a_conversion_leaves_out_is_told(folder, tmp_path, caplog):
    kind = ["stable_diffusion", "StableDiffusionSafetyChecker"]
    change(folder / "model_index.json", safety_checker=kind)
    change(folder / "vae" / "config.json", scaling_factor=0.2)
    formats.convert(folder, tmp_path / "x.safetensors", "ldm")
    for words in ("safety checker", "latent scale 0.2", "PNDMScheduler"):
        assert words in caplog.text
    assert formats.load(tmp_path / "x.safetensors").spec == (
        formats.load(folder).spec
    )


def test_clip_skip_is_told_to_readers_of_single_files():
    import dataclasses

    checkpoint = formats.load("tiny")
    text = dataclasses.replace(
        checkpoint.spec.text_encoder, width=768, depth=11
    )
    spec = dataclasses.replace(checkpoint.spec, text_encoder=text)
    checkpoint = dataclasses.replace(checkpoint, spec=spec)
    assert "set clip skip 2" in losses(checkpoint, "ldm")[0]
    assert losses(checkpoint, "diffusers") == []
    # Or the layers are there, and are not run.
    text = dataclasses.replace(text, depth=12)
    for skip, told in ((1, []), (2, ["Clip skip 2"])):
        whole = dataclasses.replace(spec, text_encoder=text, clip_skip=skip)
        found = losses(dataclasses.replace(checkpoint, spec=whole), "ldm")
        assert [line[:11] for line in found] == told


# === Another autoencoder ===


@pytest.mark.parametrize("kind", ["folder", "pipeline", "single", "bare"])
def test_another_autoencoder(kind, folder, second, tmp_path):
    stem = "first_stage_model."
    other = second / "vae" if kind == "folder" else second
    rewrite(
        second / "vae" / "diffusion_pytorch_model.safetensors",
        lambda tensors: {k: of_array(t.read() + 1) for k, t in tensors.items()},
    )
    if kind in ("single", "bare"):
        other = tmp_path / "vae.safetensors"
        formats.convert(second, other, "ldm")
    if kind == "bare":
        rewrite(
            other,
            lambda tensors: {
                key.removeprefix(stem): tensor
                for key, tensor in tensors.items()
                if key.startswith(stem)
            },
        )
    model = StableDiffusion.from_preset(folder, 64, 64, vae=other)
    wanted = StableDiffusion.from_preset(second, 64, 64)
    own = StableDiffusion.from_preset(folder, 64, 64)
    same, differs = [
        all(
            np.array_equal(x, y)
            for x, y in zip(
                model.decoder.get_weights(),
                reference.decoder.get_weights(),
                strict=True,
            )
        )
        for reference in (wanted, own)
    ]
    assert same and not differs
    again = StableDiffusion.from_preset(write_export(tmp_path / "e", model))
    assert again.vae == model.vae == str(other.resolve())
    assert again.spec.autoencoder == model.spec.autoencoder
    single = tmp_path / "x.safetensors"
    formats.convert(folder, single, "ldm", vae=other)
    np.testing.assert_array_equal(
        formats.load(single).components["vae"]["quant_conv.bias"].read(),
        formats.load(second).components["vae"]["quant_conv.bias"].read(),
    )


def test_no_autoencoder(folder, tmp_path):
    with pytest.raises(FileNotFoundError, match="no autoencoder .*nowhere"):
        resolve("tiny", vae=tmp_path / "nowhere")
    (tmp_path / "x.safetensors").write_bytes(b"text")
    with pytest.raises(ValueError, match="x.safetensors"):
        resolve("tiny", vae=tmp_path / "x.safetensors")


# === What a path is ===


def test_a_hubs_cache_points_to_its_snapshot(folder, tmp_path):
    root = tmp_path / "hub" / "models--someone--model"
    for name in ("abc", "def"):
        (root / "snapshots" / name).mkdir(parents=True)
    with pytest.raises(ValueError, match="snapshots.*'abc', 'def'"):
        resolve(root)
    (root / "refs").mkdir()
    (root / "refs" / "main").write_text("abc")
    shutil.copytree(folder, root / "snapshots" / "abc", dirs_exist_ok=True)
    assert find_snapshot(root).name == "abc"
    assert formats.load(root).spec == formats.load(folder).spec
    with pytest.raises(ValueError, match="cache of 1 models.*models--someone"):
        resolve(root.parent)


KINDS = {
    "an autoencoder alone": {"encoder.down.0.block.0.conv1.weight": (2, 2)},
    "a text encoder alone": {"token_embedding.weight": (9, 9)},
    "a U-Net alone": {"input_blocks.0.0.weight": (9, 4, 3, 3)},
    "an unCLIP model": {
        "model.diffusion_model.input_blocks.0.0.weight": (9, 4, 3, 3),
        "model.diffusion_model.label_emb.0.0.weight": (2, 2),
        "noise_augmentor.data_mean": (1,),
    },
    "an inpainting model": {
        "model.diffusion_model.input_blocks.0.0.weight": (9, 9, 3, 3)
    },
    "a depth model": {
        "model.diffusion_model.input_blocks.0.0.weight": (9, 5, 3, 3)
    },
    "a checkpoint with no autoencoder": {
        "model.diffusion_model.input_blocks.0.0.weight": (9, 4, 3, 3),
        "cond_stage_model.model.ln_final.weight": (2,),
    },
    "an embedding": {"<cat-toy>": (2, 768)},
    "an OFT adapter": {"unet.oft_blocks": (2, 2)},
    "an IP-Adapter": {"ip_adapter.1.to_k": (2, 2)},
}


@pytest.mark.parametrize("what", KINDS)
def test_files_are_named_as_what_they_are(what, tmp_path):
    path = tmp_path / "x.safetensors"
    shapes = KINDS[what]
    write(path, {k: of_array(np.zeros(s, "f4")) for k, s in shapes.items()})
    with pytest.raises(ValueError, match=f"is {what}"):
        formats.detect(path)


def test_folders_are_named_as_what_they_are(folder, tmp_path):
    for name, words in (
        ("vae", "autoencoder alone"),
        ("unet", "U-Net alone"),
        ("text_encoder", "text encoder alone"),
    ):
        with pytest.raises(ValueError, match=f"one component.*{words}"):
            resolve(folder / name)
    for name, words in (
        ("StableUnCLIPPipeline", "an unCLIP model"),
        ("StableDiffusionDepth2ImgPipeline", "a depth model"),
    ):
        change(folder / "model_index.json", _class_name=name)
        with pytest.raises(ValueError, match=words):
            resolve(folder)
    shutil.copy(
        folder / "vae" / "diffusion_pytorch_model.safetensors",
        tmp_path / "one.safetensors",
    )
    shutil.rmtree(folder)
    with pytest.raises(ValueError, match="holds the files.*one.safetensors"):
        resolve(tmp_path)
    (tmp_path / "x.gguf").write_bytes(b"GGUF" + bytes(99))
    with pytest.raises(ValueError, match="is a GGUF file"):
        resolve(tmp_path / "x.gguf")


# === Exports ===


@pytest.mark.parametrize(
    "values, words",
    [
        ({"trained_parts": ["evil"]}, r"the parts \['evil'\]"),
        ({"files": {"../evil": "x"}, "trained_parts": []}, "evil"),
        ({"files": {"decoder": "../x"}, "trained_parts": []}, "names the file"),
        ({"files": {"decoder": 3}, "trained_parts": []}, "names the file"),
        ({"files": 3}, "keras_sdft.json"),
        ({"base": "evil"}, "keras_sdft.json.*evil"),
        ({"base": {}}, "keras_sdft.json"),
        ({"spec": {"diffusion_model": 3}}, "keras_sdft.json"),
        ({"format_version": [1]}, "format version"),
        ({"origin": "\0"}, "not there"),
        ({"vae": {"a": 1}}, "not there"),
    ],
)
def test_fields_of_an_export_are_not_trusted(values, words, saved, tmp_path):
    path = tmp_path / "export"
    path.mkdir()
    for file in saved["keras_cv"].iterdir():
        (path / file.name).symlink_to(file)
    (path / "keras_sdft.json").unlink()
    text = (saved["keras_cv"] / "keras_sdft.json").read_text()
    config = json.loads(text) | values
    (path / "keras_sdft.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=words):
        resolve(path)
