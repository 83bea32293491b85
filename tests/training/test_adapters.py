"""Adapters as what learns: the frozen base, groups, exports, restarts."""

import numpy as np
import pytest
import tensorflow as tf
from safetensors.numpy import load_file

from keras_sdft import StableDiffusion
from keras_sdft import adapters
from keras_sdft.formats import lora_files
from keras_sdft.training import AdamW
from keras_sdft.training import Trainer
from tests.formats.reference import GOLDEN


@pytest.fixture(scope="module")
def tiny():
    """The embedded model, for what needs words or an export to build on."""
    return StableDiffusion.from_preset("tiny", 64, 64)


@pytest.fixture
def unloaded(tiny):
    """`tiny`, and nothing of what a test attached to it afterwards."""
    from keras_sdft.models import adapted

    yield tiny
    for network in (tiny.diffusion_model, tiny.text_encoder):
        for layer in network._flatten_layers():
            for adapter in adapted.adapters_of(layer):
                adapted.detach(layer, adapter)
        adapted.forget_graphs(network)
    tiny.tokenizer.remove_tokens(list(tiny.tokenizer.added_tokens))
    tiny._adapters = None


def fit(trainer, dataset, steps=2, graph=False):
    trainer.compile(AdamW(1e-2), run_eagerly=not graph)
    return trainer.fit(dataset.take(steps), verbose=0).history["loss"]


def captioned(sd, captions):
    generator = np.random.default_rng(0)
    count = len(captions)
    batch = {
        "images": generator.uniform(-1, 1, (count, 64, 64, 3)),
        "token_ids": sd.tokenizer(captions),
        "example_weight": np.ones(count),
    }
    dtypes = {"token_ids": "int32"}
    stacked = {
        name: np.stack([value] * 2).astype(dtypes.get(name, "float32"))
        for name, value in batch.items()
    }
    return tf.data.Dataset.from_tensor_slices(stacked)


def state_of(model):
    return [np.array(w) for w in model.get_weights()]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"text_encoder": True, "dropout": 0.3, "targets": "linear"},
        {"targets": "all", "use_dora": True},
        {"learning_rate": 1e-2, "up_learning_rate": 4e-2},
    ],
    ids=["attention", "text encoder and dropout", "dora", "lora+"],
)
def test_only_adapters_change(make_micro, make_dataset, options):
    sd = make_micro()
    before = state_of(sd.diffusion_model) + state_of(sd.text_encoder)
    lora = adapters.LoRA(2, **options)
    trainer = Trainer(sd, train=lora)
    first = [np.array(v) for v in lora.variables]
    fit(trainer, make_dataset(2))
    after = state_of(sd.diffusion_model) + state_of(sd.text_encoder)
    for old, new in zip(before, after, strict=True):
        np.testing.assert_array_equal(old, new)
    changed = [
        not np.array_equal(old, np.array(new))
        for old, new in zip(first, lora.variables, strict=True)
    ]
    assert np.mean(changed) > 0.9
    # Only adapters are in the optimizer, by which memory is estimated too.
    optimizer = trainer.optimizer
    learned = sum(int(np.prod(v.shape)) for v in lora.variables)
    state = sum(int(np.prod(v.shape)) for v in optimizer.variables)
    assert state <= 2 * learned + 8


def test_a_graph_with_accumulation_average_and_remat(make_micro, make_dataset):
    losses = []
    for graph in (False, True):
        options = {"gradient_accumulation_steps": 2, "ema_decay": 0.9}
        sd = make_micro(remat=graph)
        trainer = Trainer(
            sd, train=adapters.LoRA(2), **(options if graph else {})
        )
        losses.append(fit(trainer, make_dataset(3), 3, graph=graph))
    np.testing.assert_allclose(*losses, rtol=1e-4)


def test_losses_with_a_frozen_base_in_fewer_bits(make_micro, make_dataset):
    losses, exported = {}, []
    for dtype in ("float32", "bfloat16", "int8"):
        sd = make_micro(remat=True)
        lora = adapters.LoRA(2, text_encoder=True, frozen_dtype=dtype)
        trainer = Trainer(sd, train=lora)
        losses[dtype] = fit(trainer, make_dataset(3), 3, graph=True)
        exported.append([v.dtype for v in lora.variables])
    np.testing.assert_allclose(losses["bfloat16"], losses["float32"], rtol=4e-3)
    np.testing.assert_allclose(losses["int8"], losses["float32"], rtol=2e-2)
    assert losses["int8"] != losses["bfloat16"] != losses["float32"]
    assert exported[0] == exported[2] and set(exported[2]) == {"float32"}


def test_the_export_is_what_diffusers_reads_and_loads_here(unloaded, tmp_path):
    sd = unloaded
    lora = adapters.LoRA(2, text_encoder=True)
    trainer = Trainer(sd, train=lora)
    fit(trainer, captioned(sd, ["a cat", "a dog"]), 1)
    trainer.export(tmp_path / "run")
    names = sorted(path.name for path in (tmp_path / "run").iterdir())
    assert names == ["README.md", "keras_sdft.json", lora_files.FILE]
    keys = load_file(tmp_path / "run" / lora_files.FILE)
    assert len(keys) == 2 * len(lora.variables) / 2
    tokens = sd.tokenizer(["a cat"])
    expected = np.asarray(sd.encode_tokens(tokens))
    again = StableDiffusion.from_preset(tmp_path / "run", 64, 64)
    found = np.asarray(again.encode_tokens(tokens))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    with pytest.raises(ValueError, match="merge_adapters"):
        Trainer(again)
    again.set_adapters({})
    base = np.asarray(again.encode_tokens(tokens))
    assert not np.allclose(base, expected, atol=1e-4)
    again.set_adapters({"pytorch_lora_weights": 1.0})
    again.merge_adapters()
    merged = np.asarray(again.encode_tokens(tokens))
    np.testing.assert_allclose(merged, expected, rtol=1e-4, atol=1e-4)


def test_only_the_new_tokens_rows_learn(unloaded, tmp_path):
    sd = unloaded
    tokens = [
        adapters.TextualInversion("<one>", init="cat"),
        adapters.TextualInversion("<two>", init="red heart", vectors=2),
    ]
    before = state_of(sd.text_encoder) + state_of(sd.diffusion_model)
    lora = adapters.LoRA(2)
    trainer = Trainer(sd, train=[*tokens, lora])
    rows = [np.array(token.attached.rows) for token in tokens]
    cat = sd.tokenizer.encode("cat")[1]
    layer = tokens[0].attached._layer
    np.testing.assert_array_equal(rows[0][0], layer.embeddings[cat])
    ids = sd.tokenizer.encode("a <two> or <one>")
    assert len(ids) == len(sd.tokenizer.encode("a or")) + 3
    fit(trainer, captioned(sd, ["a <one>", "a <two>"]), 2)
    after = state_of(sd.text_encoder) + state_of(sd.diffusion_model)
    for old, new in zip(before, after, strict=True):
        np.testing.assert_array_equal(old, new)
    for old, token in zip(rows, tokens, strict=True):
        assert not np.array_equal(old, np.array(token.attached.rows))
    trainer.export(tmp_path / "run")
    context = sd.encode_tokens(sd.tokenizer(["a <two>"]))
    again = StableDiffusion.from_preset(tmp_path / "run", 64, 64)
    found = again.encode_tokens(again.tokenizer(["a <two>"]))
    np.testing.assert_allclose(found, context, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("text_encoder", [False, True])
def test_the_prior_is_what_the_frozen_base_predicts(
    make_micro, make_dataset, text_encoder
):
    def held_to_the_base(batch):
        rows = tf.constant([0.0, 1.0, 0.0, 1.0])
        return {**batch, "prior": rows, "base_target": rows}

    lora = adapters.LoRA(2, text_encoder=text_encoder)
    trainer = Trainer(make_micro(), train=lora)
    dataset = make_dataset(1).map(held_to_the_base)
    trainer.compile(AdamW(1e-2), run_eagerly=True)
    # The base itself does not learn, so that it stays what is compared with.
    first, second = (trainer.fit(dataset, verbose=0).history for _ in range(2))
    np.testing.assert_allclose(first["prior_loss"], 0, atol=1e-9)
    assert second["prior_loss"][0] > 1e-6
    assert first["instance_loss"][0] > 0.1
    with pytest.raises(ValueError, match="diffusion_model.*change the base"):
        other = Trainer(make_micro())
        other.compile()
        other.fit(dataset)


@pytest.mark.parametrize(
    ("token", "message"),
    [("cat", "a word of the vocabulary"), ("", "must be a string")],
)
def test_tokens_that_cannot_be_added_are_named(unloaded, token, message):
    with pytest.raises(ValueError, match=message):
        Trainer(unloaded, train=adapters.TextualInversion(token))


def test_tokens_that_contain_one_another_are_refused(unloaded):
    first = adapters.TextualInversion("<cat>")
    second = adapters.TextualInversion("<cat>s")
    with pytest.raises(ValueError, match="contain one another"):
        Trainer(unloaded, train=[first, second])


def test_adapters_of_a_layer_that_clip_skip_leaves_out_stay():
    sd = StableDiffusion.from_preset(GOLDEN / "sd1", 64, 64, clip_skip=2)
    lora = adapters.LoRA(2, text_encoder=True)
    trainer = Trainer(sd, train=lora)
    last = lora.attached.layers["text_encoder"][
        "text_model.encoder.layers.1.self_attn.q_proj"
    ]
    before = np.array(last.up)
    captions = captioned(sd, ["hello", "world"])
    assert np.isfinite(fit(trainer, captions, 1)).all()
    np.testing.assert_array_equal(last.up, before)
    first = lora.attached.layers["text_encoder"][
        "text_model.encoder.layers.0.self_attn.q_proj"
    ]
    assert np.any(np.array(first.up))


def test_cached_contexts_are_refused_where_the_text_encoder_is_adapted(
    make_micro, make_dataset
):
    sd = make_micro()
    trainer = Trainer(sd, train=adapters.LoRA(2, text_encoder=True))
    trainer.compile()
    spec = dict(make_dataset(1).element_spec)
    spec["context"] = tf.TensorSpec((4, 77, 16), "float32")
    del spec["token_ids"]
    with pytest.raises(ValueError, match="context"):
        trainer.memory_estimate(spec)
