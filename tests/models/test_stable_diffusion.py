import dataclasses

import keras
import keras_cv
import numpy as np
import pytest
import tensorflow as tf
from safetensors.numpy import load_file

from keras_sdft.models import PRESETS
from keras_sdft.models import NonFiniteImage
from keras_sdft.models import StableDiffusion
from keras_sdft.models import StableDiffusionSpec
from keras_sdft.models import packaged
from keras_sdft.models import presets
from keras_sdft.models.generation import guided_prediction
from keras_sdft.models.stable_diffusion import PARTS


@pytest.fixture(scope="module")
def model(make_micro):
    """One for all tests that leave it as it is."""
    return make_micro()


def test_is_a_keras_cv_model(model):
    assert isinstance(model, keras_cv.models.StableDiffusion)


def test_generates_the_same_images_from_the_same_seed(model):
    first, second, other = (
        model.text_to_image("a heart", num_steps=2, seed=seed)
        for seed in (1, 1, 2)
    )
    assert first.shape == (1, 64, 64, 3) and first.dtype == np.uint8
    np.testing.assert_array_equal(first, second)
    assert (first != other).any()


def test_batched_guidance_equals_two_calls(model):
    context = np.asarray(model.encode_text("a heart"))
    empty = np.asarray(model.encode_text(""))
    latents = np.random.default_rng(0).normal(size=(1, 8, 8, 4))
    latents = latents.astype("float32")

    def predict(text, scale):
        network = model.diffusion_model
        function = guided_prediction(network, 16, text, empty, scale)
        return np.asarray(function(latents, np.array([500])))

    away, towards = predict(empty, 1.0), predict(context, 1.0)
    expected = away + 4.0 * (towards - away)
    guided = predict(context, 4.0)
    np.testing.assert_allclose(guided, expected, rtol=1e-4, atol=1e-5)


def test_negative_prompts_must_fit_the_prompts(model):
    with pytest.raises(ValueError, match="2 for 3 images"):
        model.text_to_image(["a", "b", "c"], ["d", "e"], num_steps=1)


def test_a_list_of_prompts_generates_each(model):
    images = model.text_to_image(
        ["a heart", "a star"], batch_size=2, num_steps=1, seed=0
    )
    assert images.shape == (4, 64, 64, 3)


def test_noise_by_hand_or_by_seed_but_not_both(model):
    context = model.encode_text("a heart")
    noise = np.zeros((8, 8, 4), "float32")
    images = model.generate_image(
        context, batch_size=2, num_steps=1, diffusion_noise=noise
    )
    # A batch's examples may differ in the last bit of a product.
    difference = images[0].astype(int) - images[1].astype(int)
    assert abs(difference).max() <= 1
    with pytest.raises(ValueError, match="not both"):
        model.generate_image(context, diffusion_noise=noise, seed=0)
    with pytest.raises(ValueError, match="diffusion_noise.*shape"):
        model.generate_image(context, diffusion_noise=noise[:4])
    with pytest.raises(ValueError, match="diffusion_noise.*finite"):
        model.generate_image(context, diffusion_noise=noise * np.nan)
    with pytest.raises(ValueError, match="encoded_text.*finite"):
        model.generate_image(np.asarray(context) * np.inf)
    with pytest.raises(ValueError, match=r"shape \(prompts, 77, 16\).*76, 16"):
        model.generate_image(context[:, 1:])


def test_long_prompts_are_cut_with_a_warning(model, caplog):
    model.encode_text("heart " * 75 + "castle")
    assert "78 tokens; only the first 77 are used" in caplog.text
    assert "without its end: 'castle '" in caplog.text


def test_the_syntax_of_other_tools_is_told(model, caplog):
    model.encode_text("a (red:1.3) heart <lora:style:0.8>, 2:1 (big)")
    assert "'(red:1.3)' in a prompt is read as text" in caplog.text
    assert "'<lora:style:0.8>'" in caplog.text
    assert len(caplog.records) == 2
    model.encode_text("a (red) heart at 12:30")
    assert len(caplog.records) == 2


def test_each_seed_of_a_list_gives_its_image(model):
    both = model.text_to_image(
        "a heart", batch_size=2, num_steps=2, seed=[1, 7]
    )
    for image, seed in zip(both, (1, 7), strict=True):
        alone = model.text_to_image("a heart", num_steps=2, seed=seed)[0]
        # A batch's examples may differ in the last bit of a product.
        assert abs(image.astype(int) - alone.astype(int)).max() <= 1
    with pytest.raises(ValueError, match="one for each of 2 images"):
        model.text_to_image("a heart", batch_size=2, seed=[1])


def test_guidance_up_to_one_is_the_prompt_alone(model, monkeypatch, caplog):
    expected = model.text_to_image(
        "a heart", guidance_scale=1, num_steps=2, seed=0
    )
    calls = []
    predict = model.diffusion_model.predict_on_batch
    monkeypatch.setattr(
        model.diffusion_model,
        "predict_on_batch",
        lambda batch: calls.append(len(batch["latent"])) or predict(batch),
    )
    for scale in (0, 0.5):
        found = model.text_to_image(
            "a heart", guidance_scale=scale, num_steps=2, seed=0
        )
        np.testing.assert_array_equal(found, expected)
    assert calls == [1] * 4
    model.text_to_image("a", "b", guidance_scale=1, num_steps=1)
    assert "`negative_prompt` has no effect" in caplog.text
    # KerasCV's name of the same.
    model.text_to_image(
        "a heart", num_steps=1, unconditional_guidance_scale=0.0
    )
    assert calls[4:] == [1, 1]


def test_steps_and_guidance_default_to_those_of_the_spec(model, monkeypatch):
    asked = {"num_steps": 2, "guidance_scale": 3.0}
    expected = model.text_to_image("a heart", seed=0, **asked)
    others = model.text_to_image("a heart", seed=0, num_steps=2)
    assert (others != expected).any()
    spec = dataclasses.replace(model.spec, **asked)
    monkeypatch.setattr(model, "spec", spec)
    found = model.text_to_image("a heart", seed=0)
    np.testing.assert_array_equal(found, expected)
    found = model.generate_image(model.encode_text("a heart"), seed=0)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    ("name", "own", "quick"),
    [("tiny", (25, 5.0), 25), ("sd1.4", (50, 7.5), 25), ("few", (4, 7.5), 4)],
)
def test_none_is_the_models_own(name, own, quick):
    few = StableDiffusionSpec(name="few", num_steps=4)
    spec = few if name == "few" else PRESETS[name].spec
    assert tuple(spec.sampling().values()) == own
    assert spec.sampling(quick=True)["num_steps"] == quick
    assert tuple(spec.sampling(60, 0.0, quick=True).values()) == (60, 0.0)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"num_steps": 2.5}, "`num_steps` must be an integer"),
        ({"num_steps": 0}, "`num_steps`"),
        ({"batch_size": 0}, "`batch_size`"),
        ({"batch_size": True}, "`batch_size`"),
        ({"guidance_scale": float("nan")}, "`guidance_scale`.*finite"),
        ({"unconditional_guidance_scale": -1.0}, "`guidance_scale`"),
        ({"guidance_rescale": 1.5}, "`guidance_rescale`"),
        ({"seed": -1}, "`seed`"),
        ({"seed": [1, -1], "batch_size": 2}, "`seed`"),
        ({"seed": "1"}, "`seed`"),
        ({"sampler": "dpmpp_2n"}, "Did you mean 'dpmpp_2m'"),
    ],
)
def test_bad_options_are_refused(options, message):
    model = StableDiffusion.from_preset("tiny")
    with pytest.raises(ValueError, match=message):
        model.text_to_image("a heart", **options)
    assert not model.is_built("text_encoder")


def test_a_second_order_sampler_is_nearer_after_few_steps(model):

    def images(sampler, steps):
        found = model.text_to_image(
            "a heart", num_steps=steps, seed=0, sampler=sampler
        )
        return found.astype("float32")

    exact = images("ddim", 100)
    errors = [abs(images(s, 8) - exact).mean() for s in ("dpmpp_2m", "ddim")]
    assert errors[0] < errors[1]


@pytest.mark.parametrize("part", ["diffusion_model", "decoder"])
def test_an_image_that_is_not_finite_is_an_error(make_micro, part):
    model = make_micro()
    weights = getattr(model, part).weights
    weights[0].assign(np.full(weights[0].shape, np.nan))
    with pytest.raises(NonFiniteImage, match="became NaN or inf.*bfloat16"):
        model.text_to_image("a heart", num_steps=1)


def test_clip_skip_takes_an_earlier_layer():
    full = StableDiffusion.from_preset("tiny")
    skipped = StableDiffusion.from_preset("tiny", clip_skip=2)
    assert skipped.spec.clip_skip == 2
    sources = full.encoder_sources()["text_encoder"]
    assert skipped.encoder_sources()["text_encoder"] != sources
    network = full.text_encoder
    layers = [la for la in network.layers if hasattr(la, "clip_attn")]
    before = keras.Model(network.inputs, layers[-2].output)
    inputs = {
        "tokens": full.tokenizer(["a heart"]),
        "positions": np.arange(77)[None],
    }
    expected = network.layers[-1](before.predict_on_batch(inputs))
    found = skipped.text_encoder.predict_on_batch(inputs)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    # Nothing is lost of the file, and what is skipped learns nothing.
    assert len(skipped.text_encoder.weights) == len(network.weights)
    trainable = len(network.trainable_weights)
    assert len(skipped.text_encoder.trainable_weights) == trainable - 16


def test_every_weight_that_learns_has_a_gradient_with_clip_skip():
    network = StableDiffusion.from_preset("tiny", clip_skip=2).text_encoder
    tokens = np.arange(77)[None]
    with tf.GradientTape() as tape:
        context = network({"tokens": tokens, "positions": tokens})
        loss = tf.reduce_sum(context**2)
    gradients = tape.gradient(loss, network.trainable_variables)
    assert all(gradient is not None for gradient in gradients)


def test_clip_skip_must_leave_a_layer():
    for wrong in (0, 5, 1.5):
        with pytest.raises(ValueError, match=r"`clip_skip`.* in \[1, 4\]"):
            StableDiffusion.from_preset("tiny", clip_skip=wrong)


@pytest.mark.parametrize("prompt", [[], 3, ["a", 3]])
def test_prompts_that_are_no_text_are_refused(model, prompt):
    with pytest.raises((ValueError, TypeError)):
        model.encode_text(prompt)


def test_sizes_must_be_multiples_of_64():
    with pytest.raises(ValueError, match="height=120. Nearest valid: 128"):
        StableDiffusion.from_preset("tiny", height=120, width=200)
    with pytest.raises(ValueError, match="width=0. Nearest valid: 64"):
        StableDiffusion.from_preset("tiny", width=0)


def test_random_weights_are_the_same_for_the_same_seed():
    a, b, c = (
        StableDiffusion(
            128, 128, base="tiny", random_weights=True, seed=seed
        ).text_encoder
        for seed in (0, 0, 1)
    )
    for x, y in zip(a.get_weights(), b.get_weights(), strict=True):
        np.testing.assert_array_equal(x, y)
    assert any(
        (x != y).any()
        for x, y in zip(a.get_weights(), c.get_weights(), strict=True)
    )


@pytest.mark.parametrize("part", PARTS)
def test_tiny_has_the_packaged_weights(part):
    network = getattr(StableDiffusion.from_preset("tiny"), part)
    stored = load_file(packaged.file_of(PRESETS["tiny"].weights, part))
    assert len(stored) == len(network.weights)
    for name, weight in zip(sorted(stored), network.weights, strict=True):
        np.testing.assert_array_equal(
            stored[name].astype("float32"), np.asarray(weight)
        )


def test_misspelt_presets_offer_the_nearest():
    with pytest.raises(ValueError, match="Did you mean 'sd2.1-base'"):
        StableDiffusion.from_preset("sd2.1")


def test_spec_goes_through_plain_numbers():
    for preset in PRESETS.values():
        config = preset.spec.to_dict()
        assert StableDiffusionSpec.from_dict(config) == preset.spec
    with pytest.raises(ValueError, match="colour"):
        StableDiffusionSpec.from_dict({"name": "x", "colour": 1})


def test_without_network_the_error_says_what_to_do(monkeypatch):
    def offline(**kwargs):
        raise OSError("no network")

    monkeypatch.setattr(keras.utils, "get_file", offline)
    with pytest.raises(FileNotFoundError) as caught:
        StableDiffusion.from_preset("sd1.4")
    message = str(caught.value)
    source = PRESETS["sd1.4"].sources["image_encoder"]
    for part in (source.file_name, source.address, "weights_directory"):
        assert part in message


def test_local_copies_are_found_by_their_published_names(tmp_path):
    sources = PRESETS["sd1.4"].sources
    with pytest.raises(FileNotFoundError, match="vae_encoder.h5"):
        StableDiffusion.from_preset("sd1.4", weights_directory=tmp_path)
    for source in sources.values():
        (tmp_path / source.file_name).write_bytes(b"")
    for source in sources.values():
        found = presets.fetch(source, tmp_path)
        assert found == tmp_path / source.file_name


def test_published_hashes_are_whole():
    for preset in PRESETS.values():
        for source in preset.sources.values():
            assert len(source.file_hash) == 64 and int(source.file_hash, 16)
