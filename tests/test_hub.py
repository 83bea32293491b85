"""What is asked of the Hub, and what is told where it gives nothing."""

import pytest
from huggingface_hub import constants
from PIL import Image

from keras_sdft import data
from keras_sdft import hub
from keras_sdft.hub_files import choose
from keras_sdft.hub_files import parse
from tests.hub_server import commit_of

# As models of the field have them: more than is needed.
PIPELINE = """
.gitattributes README.md model_index.json v1-5-pruned.safetensors
v1-5-pruned.ckpt v1-inference.yaml
feature_extractor/preprocessor_config.json
safety_checker/config.json safety_checker/model.safetensors
scheduler/scheduler_config.json
text_encoder/config.json text_encoder/model.safetensors
text_encoder/model.fp16.safetensors text_encoder/pytorch_model.bin
tokenizer/merges.txt tokenizer/special_tokens_map.json
tokenizer/tokenizer_config.json tokenizer/vocab.json
unet/config.json unet/diffusion_pytorch_model.bin
unet/diffusion_pytorch_model.fp16.safetensors
unet/diffusion_pytorch_model.non_ema.safetensors
unet/diffusion_pytorch_model-00001-of-00002.safetensors
unet/diffusion_pytorch_model-00002-of-00002.safetensors
unet/diffusion_pytorch_model.safetensors.index.json
vae/config.json vae/diffusion_pytorch_model.fp16.safetensors
""".split()
NEEDED = """
README.md model_index.json scheduler/scheduler_config.json
text_encoder/config.json text_encoder/model.safetensors
tokenizer/merges.txt tokenizer/special_tokens_map.json
tokenizer/tokenizer_config.json tokenizer/vocab.json
unet/config.json
unet/diffusion_pytorch_model-00001-of-00002.safetensors
unet/diffusion_pytorch_model-00002-of-00002.safetensors
unet/diffusion_pytorch_model.safetensors.index.json
vae/config.json vae/diffusion_pytorch_model.fp16.safetensors
""".split()


def chosen(names, text="hf://me/it", kind="model", variant=None):
    return choose(names, parse(text, kind, variant))


def test_what_is_needed_of_a_model_and_no_more():
    assert sorted(chosen(PIPELINE)) == sorted(NEEDED)
    inside = [f"sub/{name}" for name in PIPELINE]
    assert sorted(chosen(inside, "hf://me/it/sub")) == sorted(
        f"sub/{name}" for name in NEEDED
    )
    vae = [n for n in NEEDED if n.startswith("vae/")]
    assert set(vae) < set(chosen(PIPELINE, kind="vae"))
    assert not any(
        n.startswith("unet/diff") for n in chosen(PIPELINE, kind="vae")
    )
    one = "v1-5-pruned.safetensors"
    assert chosen(PIPELINE, f"hf://me/it@main/{one}") == [one]
    export = ["keras_sdft.json", "diffusion_model.weights.h5", "image_0.png"]
    assert sorted(chosen(export)) == sorted(export[:2])
    lora = ["a.safetensors", "pytorch_lora_weights.safetensors", "README.md"]
    assert chosen(lora, kind="lora") == lora[1:2]
    assert chosen(lora, kind="embedding") == lora[:1]
    assert chosen(
        ["config.json", "diffusion_pytorch_model.safetensors"], kind="vae"
    )[1:] == ["diffusion_pytorch_model.safetensors"]
    images = ["train/0.PNG", "train/metadata.jsonl", "x.py", "README.md"]
    assert chosen(images, kind="data") == images[:2]


def test_the_files_of_one_variant_are_needed():
    unet = "unet/diffusion_pytorch_model"
    names = [
        *PIPELINE,
        f"{unet}.bf16-00001-of-00001.safetensors",
        f"{unet}.safetensors.index.bf16.json",
        "text_encoder/model-00001-of-00001.bf16.safetensors",
        "text_encoder/model.safetensors.index.bf16.json",
    ]

    def weights(variant):
        found = chosen(names, variant=variant)
        return sorted(n for n in found if "model." in n or "model-" in n)

    assert weights("fp16") == [
        "text_encoder/model.fp16.safetensors",
        f"{unet}.fp16.safetensors",
        "vae/diffusion_pytorch_model.fp16.safetensors",
    ]
    # The autoencoder has none, and another one of its own.
    assert weights("bf16") == [
        "text_encoder/model-00001-of-00001.bf16.safetensors",
        "text_encoder/model.safetensors.index.bf16.json",
        f"{unet}.bf16-00001-of-00001.safetensors",
        f"{unet}.safetensors.index.bf16.json",
        "vae/diffusion_pytorch_model.fp16.safetensors",
    ]
    with pytest.raises(ValueError, match=r"The model .*\[None, 'bf16', 'fp"):
        weights("fp8")
    only = [n for n in names if n.startswith("unet/")]
    only = [n for n in names if n not in only or "fp16" in n or "non_ema" in n]
    with pytest.raises(ValueError, match=r"unet .*\['fp16', 'non_ema'\]"):
        chosen(only)
    with pytest.raises(ValueError, match="Only a diffusers folder has varian"):
        chosen(["a.safetensors"], variant="fp16")


@pytest.mark.parametrize(
    "names, text, kind, told",
    [
        (["a.ckpt", "README.md"], "hf://me/it", "model", "pickles alone"),
        (["unet/config.json", "unet/diffusion_pytorch_model.bin",
          "vae/config.json", "vae/diffusion_pytorch_model.bin",
          "model_index.json"], "hf://me/it", "model", "vae/diffusion_py"),
        (["a.ckpt"], "hf://me/it/a.ckpt", "model", "pickles alone"),
        (["a.safetensors", "b.safetensors"], "hf://me/it@v1", "lora",
         "Name one of them: hf://me/it@v1/a.safetensors, hf://me/it@v1/b"),
        (["a.safetensors"], "hf://me/it/b.safetensors", "lora",
         "There is no 'b.safetensors'"),
        (["all.zip"], "hf://me/it", "data", "Archives"),
        (["README.md"], "hf://me/it", "model", "no weights"),
    ],
)  # fmt: skip
def test_a_repository_without_them_is_told(names, text, kind, told):
    with pytest.raises(ValueError, match=told):
        chosen(names, text, kind)


def test_addresses_are_read_as_they_are_written():
    for text in (
        "hf://me/it",
        "hf://me/it@v1.0",
        "hf://me/it@refs/pr/3/unet/a.safetensors",
        "hf://a-b/c.d_e/sub/file.png",
    ):
        assert str(parse(text, "model")) == text
    found = parse("hf://datasets/me/it@refs/convert/parquet", "data")
    assert (found.repo, found.revision) == ("me/it", "refs/convert/parquet")
    for text in (
        "hf://it",
        "hf://",
        "hf://me/it@",
        "hf:///me/it",
        "hf://a b/c",
    ):
        with pytest.raises(ValueError, match="Expected hf://owner/name"):
            parse(text, "model")
    with pytest.raises(ValueError, match="is a data set"):
        parse("hf://datasets/me/it", "model")
    assert hub.local("photos", "data") == "photos" == hub.pinned("photos")


@pytest.fixture
def dogs(tmp_path, hub_server):
    """A data set of two captioned images, and what is no part of one."""
    folder = tmp_path / "dogs"
    (folder / "train").mkdir(parents=True)
    for number in range(2):
        image = Image.new("RGB", (64, 64), (100 * number, 0, 0))
        image.save(folder / "train" / f"{number}.png")
        (folder / "train" / f"{number}.txt").write_text(f"dog {number}")
    (folder / "dogs.py").write_text("raise SystemExit")
    hub_server.repos["datasets/me/dogs"] = folder
    return hub_server


def test_data_are_fetched_once_and_read_without_a_network(
    dogs, monkeypatch, caplog
):
    examples = data.read_examples("hf://me/dogs")
    assert [each.captions for each in examples] == [("dog 0",), ("dog 1",)]
    assert sorted(dogs.asked) == [
        *("train/0.png", "train/0.txt", "train/1.png", "train/1.txt"),
    ]
    commit = commit_of("datasets/me/dogs")
    pinned = hub.pinned("hf://me/dogs", "data")
    assert pinned == f"hf://me/dogs@{commit}"
    where = hub.local(pinned, "data")
    assert where.endswith(commit) and where == hub.local("hf://me/dogs", "data")
    dogs.stop()
    hub.forget()
    assert hub.local("hf://me/dogs", "data") == where
    assert commit in caplog.text and "could not be reached" in caplog.text
    hub.forget()
    caplog.clear()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert hub.local("hf://me/dogs", "data") == where and not caplog.text
    assert len(dogs.asked) == 4


def test_half_a_data_set_is_not_taken_for_the_whole(dogs, monkeypatch):
    from pathlib import Path

    where = Path(hub.local("hf://me/dogs", "data"))
    (where / "train" / "1.png").unlink()
    hub.forget()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(FileNotFoundError, match="not whole in this machine"):
        hub.local("hf://me/dogs", "data")


def test_what_the_hub_refuses_is_told_by_name(dogs, tmp_path):
    with pytest.raises(ValueError, match="no data set 'me/cats'.*hf auth"):
        hub.local("hf://me/cats", "data")
    with pytest.raises(ValueError, match="no model 'me/dogs'"):
        hub.pinned("hf://me/dogs")
    with pytest.raises(ValueError, match="no revision 'v9'"):
        hub.pinned("hf://me/dogs@v9", "data")
    dogs.gated.add("datasets/me/dogs")
    with pytest.raises(PermissionError, match="is gated: .*hf auth login"):
        hub.local("hf://me/dogs", "data")


def test_without_a_network_it_says_what_to_download(hub_server, monkeypatch):
    hub_server.stop()
    with pytest.raises(FileNotFoundError) as told:
        hub.local("hf://me/it@v1")
    assert (
        "`hf download me/it --revision v1 --include '*.json' --include '*.txt'"
        in str(told.value)
    )
    assert "copy the folder 'it'" in str(told.value)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(
        FileNotFoundError, match="HF_HUB_OFFLINE is set"
    ) as told:
        hub.local("hf://me/dogs", "data")
    assert "`hf download me/dogs --repo-type dataset --local-dir dogs`" in str(
        told.value
    )


def test_two_commits_in_the_cache_are_not_guessed_between(
    hub_server, monkeypatch, tmp_path
):
    for commit in ("a" * 40, "b" * 40):
        snapshot = f"hub_cache/models--me--it/snapshots/{commit}"
        (tmp_path / snapshot).mkdir(parents=True)
        (tmp_path / snapshot / "it.safetensors").write_bytes(b"")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ValueError, match=f"name one .*@{'a' * 40}"):
        hub.local("hf://me/it")
    found = hub.local(f"hf://me/it@{'b' * 40}")
    assert found.endswith(f"{'b' * 40}/it.safetensors")
    (tmp_path / "hub_cache/models--me--it/refs").mkdir()
    (tmp_path / "hub_cache/models--me--it/refs/main").write_text("a" * 40)
    assert "a" * 40 in hub.local("hf://me/it")


def test_a_full_disk_is_told_as_such(dogs, monkeypatch):
    import errno

    import huggingface_hub

    def fail(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device", "/cache")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    with pytest.raises(OSError, match="No space left on device: '/cache'"):
        hub.local("hf://me/dogs", "data")


def test_without_the_package_it_says_what_to_install(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ValueError, match=r'`pip install "\.\[hub\]"`'):
        hub.local("hf://me/it")
