import keras
import keras_cv
import numpy as np
import pytest
from safetensors.numpy import load_file

from keras_sdft.models import PRESETS
from keras_sdft.models import StableDiffusion
from keras_sdft.models import StableDiffusionSpec
from keras_sdft.models import packaged
from keras_sdft.models import presets
from keras_sdft.models.generation import guided_prediction
from keras_sdft.models.stable_diffusion import PARTS


def test_is_a_keras_cv_model(make_micro):
    assert isinstance(make_micro(), keras_cv.models.StableDiffusion)


def test_draws_the_same_images_from_the_same_seed(make_micro):
    model = make_micro()
    first, second, other = (
        model.text_to_image("a heart", num_steps=2, seed=seed)
        for seed in (1, 1, 2)
    )
    assert first.shape == (1, 64, 64, 3) and first.dtype == np.uint8
    np.testing.assert_array_equal(first, second)
    assert (first != other).any()


def test_batched_guidance_equals_two_calls(make_micro):
    model = make_micro()
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


def test_negative_prompts_must_fit_the_prompts(make_micro):
    with pytest.raises(ValueError, match="2 for 3 images"):
        make_micro().text_to_image(["a", "b", "c"], ["d", "e"], num_steps=1)


def test_a_list_of_prompts_draws_each(make_micro):
    model = make_micro()
    images = model.text_to_image(
        ["a heart", "a star"], batch_size=2, num_steps=1, seed=0
    )
    assert images.shape == (4, 64, 64, 3)


def test_noise_by_hand_or_by_seed_but_not_both(make_micro):
    model = make_micro()
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


def test_long_prompts_are_cut_with_a_warning(make_micro, caplog):
    make_micro().encode_text("heart " * 100)
    assert "only the first 77" in caplog.text


@pytest.mark.parametrize("prompt", [[], 3, ["a", 3]])
def test_prompts_that_are_no_text_are_refused(make_micro, prompt):
    with pytest.raises((ValueError, TypeError)):
        make_micro().encode_text(prompt)


def test_sizes_must_be_multiples_of_64():
    with pytest.raises(ValueError, match=r"Nearest valid: \(128, 192\)"):
        StableDiffusion.from_preset("tiny", height=120, width=200)


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
