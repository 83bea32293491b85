import dataclasses

import numpy as np
import pytest

from keras_sdft.models import AutoencoderSpec
from keras_sdft.models import TextEncoderSpec
from keras_sdft.models import keras_cv_parts as parts

NARROW = AutoencoderSpec(
    encoder_widths=(8, 8, 16, 16),
    encoder_blocks=1,
    decoder_widths=(8, 8, 16, 16),
    decoder_blocks=1,
    groups=4,
)


@pytest.fixture(scope="module")
def encoder():
    return parts.build_image_encoder(NARROW)


def test_encoder_gives_latents_of_an_eighth(encoder):
    images = np.zeros((2, 64, 128, 3), "float32")
    assert encoder(images).shape == (2, 8, 16, 4)


def test_moments_share_the_encoders_weights_and_end_before_the_mean(encoder):
    moments = parts.moments_model(encoder)
    assert [id(w) for w in moments.weights] == [id(w) for w in encoder.weights]
    images = np.random.default_rng(0).uniform(-1, 1, (1, 64, 64, 3))
    mean = np.asarray(moments(images))[..., :4]
    np.testing.assert_allclose(
        mean * NARROW.latent_scale, encoder(images), rtol=1e-6
    )


def test_decoder_undoes_the_size():
    decoder = parts.build_decoder(NARROW, 64, 128)
    assert decoder(np.zeros((1, 8, 16, 4), "float32")).shape == (1, 64, 128, 3)


def test_text_encoder_is_causal():
    spec = TextEncoderSpec(vocabulary_size=50, width=8, depth=2, num_heads=2)
    encoder = parts.build_text_encoder(spec)
    tokens = np.arange(77, dtype="int32")[None] % 50
    changed = tokens.copy()
    changed[0, 40:] = 7
    positions = np.arange(77, dtype="int32")[None]
    before, after = (
        np.asarray(encoder({"tokens": t, "positions": positions}))
        for t in (tokens, changed)
    )
    np.testing.assert_array_equal(before[:, :40], after[:, :40])
    assert abs(before[:, 40:] - after[:, 40:]).max() > 1e-3


@pytest.mark.slow
def test_narrow_layout_is_that_of_keras_cv_at_full_widths():
    """The same shapes in the same order, so the layout is the same."""
    # Any other latent scale takes the path of narrow models.
    spec = dataclasses.replace(AutoencoderSpec(), latent_scale=1.0)
    text = dataclasses.replace(TextEncoderSpec(), vocabulary_size=49407)
    shapes = [
        [tuple(w.shape) for w in model.weights]
        for model in (
            parts.build_image_encoder(AutoencoderSpec()),
            parts.build_image_encoder(spec),
            parts.build_text_encoder(TextEncoderSpec()),
            parts.build_text_encoder(text),
        )
    ]
    assert shapes[0] == shapes[1]
    assert shapes[2][1:] == shapes[3][1:]
