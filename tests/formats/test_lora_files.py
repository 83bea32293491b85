"""LoRA and embedding files against diffusers' and peft's, without torch.

The files of `golden/*/lora` were written by `benchmarks/parity_lora.py
--golden`; diffusers reads ours there.
"""

import json
import shutil
from types import SimpleNamespace
from unittest import mock

import numpy as np
import pytest
from safetensors.numpy import load_file
from safetensors.numpy import save_file

from benchmarks import parity_lora
from keras_sdft import StableDiffusion
from keras_sdft import adapters
from keras_sdft import formats
from keras_sdft.formats import embedding_files
from keras_sdft.formats import lora_files
from tests.formats.reference import ARCHITECTURES
from tests.formats.reference import GOLDEN

ENDINGS = {"diffusers": "", "kohya": "_kohya"}


@pytest.fixture(scope="module", params=ARCHITECTURES)
def golden(request):
    folder = GOLDEN / request.param
    model = StableDiffusion.from_preset(folder, 64, 64)
    return folder, model, parity_lora.read_inputs(folder / "reference.npz")


def golden_file(folder, case, dialect="diffusers"):
    return folder / "lora" / f"{case}{ENDINGS[dialect]}.safetensors"


def spec_of(architecture):
    return StableDiffusion.from_preset(GOLDEN / architecture, 64, 64).spec


@pytest.mark.parametrize("case", parity_lora.CASES)
def test_theirs_give_their_outputs(golden, case):
    folder, model, inputs = golden
    expected = np.load(folder / "lora" / f"{case}.npz")
    found = [
        lora_files.read(golden_file(folder, case, dialect), model.spec)
        for dialect in ENDINGS
    ]
    attached = adapters.attach_weights(model, found[0])
    outputs = parity_lora.outputs(model, inputs)
    attached.remove()
    assert max(parity_lora.errors(outputs, expected)) < 5e-6
    # The other dialect holds the same.
    assert_equal(*found)


def test_ten_steps_of_adamw_are_those_of_peft(golden):
    folder, model, inputs = golden
    case = {"sd1": "dora", "sd2": "attention"}[folder.name]
    start = golden_file(folder, case)
    expected = folder / "lora" / f"{case}_trained.safetensors"
    losses, wrong, moved = parity_lora.trained(model, inputs, start, expected)
    theirs = json.loads((folder / "lora" / f"{case}_losses.json").read_text())
    np.testing.assert_allclose(losses, theirs, rtol=1e-5)
    # Measured 6e-6 and below.
    assert wrong < 1e-4 < 1e-3 < moved


def test_an_embedding_is_what_diffusers_reads(golden):
    folder, model, _ = golden
    for dialect in embedding_files.DIALECTS:
        path = folder / "lora" / f"embedding_{dialect}.safetensors"
        expected = np.load(path.with_suffix(".npz"))
        found = parity_lora.embedded(model, path)
        np.testing.assert_array_equal(found["ids"], expected["ids"])
        error = np.linalg.norm(found["text"] - expected["text"])
        assert error < 1e-5 * np.linalg.norm(expected["text"])


def test_a_model_is_not_written_with_a_word_that_it_does_not_hold(
    golden, tmp_path
):
    folder, model, _ = golden
    tokens = model.load_embedding(
        folder / "lora" / "embedding_diffusers.safetensors"
    )
    for name, format in (("a", "diffusers"), ("b", "keras_cv")):
        with pytest.raises(ValueError, match="new words, which are files of"):
            formats.save(model, tmp_path / name, format)
    with pytest.raises(ValueError, match="new words, which are files of"):
        formats.save(model, tmp_path / "c.safetensors", "ldm")
    model.unload_adapters(tokens)
    formats.save(model, tmp_path / "a", "diffusers")
    StableDiffusion.from_preset(tmp_path / "a", 64, 64)


def assert_equal(one, other):
    assert {c: set(m) for c, m in one.items()} == {
        c: set(m) for c, m in other.items()
    }
    for component, layers in one.items():
        for module, weights in layers.items():
            second = other[component][module]
            scaled = (w.up * w.alpha / w.rank for w in (weights, second))
            np.testing.assert_allclose(*scaled, rtol=1e-6)
            np.testing.assert_array_equal(weights.down, second.down)
            assert (weights.magnitude is None) == (second.magnitude is None)


@pytest.mark.parametrize("dialect", lora_files.DIALECTS)
@pytest.mark.parametrize("case", ["convolutions", "dora"])
def test_written_is_read_again(tmp_path, dialect, case):
    spec = spec_of("sd1")
    given = lora_files.read(golden_file(GOLDEN / "sd1", case), spec)
    path = tmp_path / "lora.safetensors"
    lora_files.write(path, given, spec, dialect, metadata={"ss_steps": "7"})
    assert_equal(lora_files.read(path, spec), given)
    told = lora_files.describe(path)
    assert told["dialect"] == dialect
    assert told["metadata"]["ss_steps"] == "7"
    assert told["metadata"]["ss_base_model_version"] == "sd_v1"
    assert told["ranks"] == [2]


def test_the_lora_of_a_run_becomes_kohyas(tmp_path, caplog):
    spec = spec_of("sd1")
    path = golden_file(GOLDEN / "sd1", "dora")
    presets = {"sd1": SimpleNamespace(spec=spec)}
    run, output = tmp_path / "run", tmp_path / "lora.safetensors"
    (run / "weights").mkdir(parents=True)
    with pytest.raises(ValueError, match="Name a `.safetensors` file, or a"):
        formats.convert(run, output, "kohya")
    shutil.copy(path, run / "weights" / lora_files.FILE)
    with mock.patch.dict(lora_files.PRESETS, presets, clear=True):
        formats.convert(run, output, "kohya")
    assert lora_files.describe(output)["dialect"] == "kohya"
    assert_equal(lora_files.read(output, spec), lora_files.read(path, spec))
    # Of peft's magnitudes.
    assert "`keras-sdft merge`" in caplog.text


def test_keys_are_those_that_diffusers_wrote(tmp_path):
    spec = spec_of("sd1")
    for case in parity_lora.CASES:
        kohya = golden_file(GOLDEN / "sd1", case, "kohya")
        given = lora_files.read(kohya, spec)
        path = tmp_path / "ours.safetensors"
        lora_files.write(path, given, spec, "kohya")
        ours, theirs = load_file(path), load_file(kohya)
        assert {k: v.shape for k, v in ours.items()} == {
            k: v.shape for k, v in theirs.items()
        }


SPELLINGS = {
    "peft": lambda key: key,
    "peft with an adapter's name": lambda key: key.replace(
        ".weight", ".default.weight"
    ),
    "diffusers before 0.22": lambda key: (
        key.replace(".to_out.0.", ".to_out.")
        .replace(".to_", ".processor.to_")
        .replace(".lora_A.", "_lora.down.")
        .replace(".lora_B.", "_lora.up.")
    ),
    "no prefix": lambda key: key.removeprefix("unet."),
}


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_other_spellings_are_read(tmp_path, spelling):
    spec = spec_of("sd1")
    theirs = load_file(golden_file(GOLDEN / "sd1", "attention"))
    renamed = {
        SPELLINGS[spelling](key): value
        for key, value in theirs.items()
        if key.startswith("unet.")
    }
    save_file(renamed, tmp_path / "lora.safetensors")
    found = lora_files.read(tmp_path / "lora.safetensors", spec)
    plain = lora_files.read(golden_file(GOLDEN / "sd1", "attention"), spec)
    assert_equal(found, {"unet": plain["unet"]})


def changed(tmp_path, change):
    tensors = load_file(golden_file(GOLDEN / "sd1", "alpha", "kohya"))
    tensors = change(tensors) or tensors
    save_file(tensors, tmp_path / "bad.safetensors")
    return tmp_path / "bad.safetensors"


KEY = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn2_to_k"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: {"lora_te1_x.lora_down.weight": t[f"{KEY}.alpha"]}, "SDXL"),
        (lambda t: {"a.hada_w1_a": t[f"{KEY}.alpha"]}, "a LoHa"),
        (lambda t: {"emb_params": np.ones((2, 8), "f4")}, "an embedding"),
        (lambda t: {"<cat>": np.ones((2, 8), "f4")}, "as embeddings do"),
        (
            lambda t: t.update(left=np.ones(1, "f4"), over=np.ones(1, "f4")),
            "2 keys that are no LoRA",
        ),
        (
            lambda t: t.update({f"{KEY}.alpha": np.zeros((), "f4")}),
            "must be > 0",
        ),
        (
            lambda t: t.update(
                {f"{KEY}.lora_up.weight": np.full((16, 3), np.nan, "f4")}
            ),
            "NaN or infinite",
        ),
        (
            lambda t: t.update(
                {f"{KEY}.lora_down.weight": np.ones((3, 768), "f4")}
            ),
            "768 inputs.*a LoRA for SD 1.x",
        ),
        (
            lambda t: t.update(
                {f"{KEY}.lora_down.weight": np.ones((2, 32), "f4")}
            ),
            "must share a rank",
        ),
        (lambda t: t.pop(f"{KEY}.lora_up.weight") is None, "lacks"),
    ],
)
def test_bad_files_are_named(tmp_path, change, message):
    path = changed(tmp_path, lambda t: change(t) or None)
    with pytest.raises(ValueError, match=message) as caught:
        lora_files.read(path, spec_of("sd1"))
    assert str(path) in str(caught.value)


def test_embeddings_are_read_as_they_are_written(tmp_path):
    vectors = np.arange(16, dtype="float32").reshape(2, 8)
    path = tmp_path / "toy.safetensors"
    embedding_files.write(path, {"<toy>": vectors})
    ((token, found),) = embedding_files.read(path).items()
    assert token == "<toy>"
    np.testing.assert_array_equal(found, vectors)
    embedding_files.write(path, {"<toy>": vectors}, "a1111")
    assert set(load_file(path)) == {"emb_params"}
    assert set(embedding_files.read(path)) == {"toy"}
    assert set(embedding_files.read(path, "<t>")) == {"<t>"}
    with pytest.raises(ValueError, match="one token each"):
        embedding_files.write(path, {"a": vectors, "b": vectors}, "a1111")


@pytest.mark.parametrize(
    ("name", "tensors", "message"),
    [
        ("a.pt", {"x": np.ones((1, 8), "f4")}, "is a pickle"),
        ("a.safetensors", {"clip_l": np.ones((1, 8), "f4")}, "for SDXL"),
        ("a.safetensors", {"x": np.ones((1, 8, 2), "f4")}, "has shape"),
        ("a.safetensors", {"x": np.full((1, 8), np.inf, "f4")}, "infinite"),
    ],
)
def test_bad_embeddings_are_named(tmp_path, name, tensors, message):
    save_file(tensors, tmp_path / name)
    with pytest.raises(ValueError, match=message):
        embedding_files.read(tmp_path / name)
    lora = tmp_path / "lora.safetensors"
    shutil.copy(golden_file(GOLDEN / "sd1", "attention"), lora)
    with pytest.raises(ValueError, match="is a LoRA"):
        embedding_files.read(lora)
