import numpy as np

from keras_sdft.encoding import encode_captions
from keras_sdft.encoding import encode_images
from keras_sdft.encoding import sample_latents


def test_latents_by_hand():
    mean, log_variance = 3.0, np.log(4.0)
    moments = np.array([[[[mean, log_variance]]]], "float32")
    noise = np.array([[[[0.5]]]], "float32")
    latents = sample_latents(moments, noise, latent_scale=0.1)
    np.testing.assert_allclose(np.ravel(latents), [(3 + 2 * 0.5) * 0.1])


def test_a_variance_beyond_bounds_stays_finite():
    moments = np.array([[[[0.0, 1e6]]], [[[0.0, -1e6]]]], "float32")
    latents = np.asarray(sample_latents(moments, np.ones((2, 1, 1, 1)), 1.0))
    np.testing.assert_allclose(
        np.ravel(latents), [np.exp(10), np.exp(-15)], rtol=1e-5
    )


def test_given_encodings_are_used_as_they_are(make_micro, make_batch):
    model, batch = make_micro(), make_batch()
    moments = encode_images(model, batch)
    context = encode_captions(model, batch)
    assert moments.shape == (4, 8, 8, 8) and context.shape == (4, 77, 16)
    given = {"moments": moments, "context": context}
    assert encode_images(model, given) is moments
    assert encode_captions(model, given) is context


def test_context_is_that_of_generation(make_micro):
    model = make_micro()
    token_ids = model.tokenizer(["a heart", "a star"])
    context = encode_captions(model, {"token_ids": token_ids})
    expected = model.encode_text(["a heart", "a star"])
    np.testing.assert_allclose(context, expected, rtol=1e-5, atol=1e-6)
