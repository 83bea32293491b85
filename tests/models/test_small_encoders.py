"""Our narrow networks against KerasCV's blocks on the same weights."""

import keras
import numpy as np
import pytest
from keras_cv.src.models.stable_diffusion import attention_block
from keras_cv.src.models.stable_diffusion import padded_conv2d
from keras_cv.src.models.stable_diffusion import resnet_block
from keras_cv.src.models.stable_diffusion import text_encoder

from keras_sdft.models import AutoencoderSpec
from keras_sdft.models import TextEncoderSpec
from keras_sdft.models import small_encoders

ATTENTION = attention_block.AttentionBlock
CONVOLUTION = padded_conv2d.PaddedConv2D
RESNET = resnet_block.ResnetBlock

AUTOENCODER = AutoencoderSpec(
    encoder_widths=(8, 8, 16, 16),
    encoder_blocks=2,
    decoder_widths=(8, 8, 16, 16),
    decoder_blocks=2,
    groups=4,
)


def keras_cv_text_encoder(spec):
    tokens = keras.layers.Input((spec.max_length,), dtype="int32")
    positions = keras.layers.Input((spec.max_length,), dtype="int32")
    x = text_encoder.CLIPEmbedding(
        spec.vocabulary_size, spec.width, spec.max_length
    )([tokens, positions])
    activations = {
        "quick_gelu": text_encoder.quick_gelu,
        "gelu": keras.ops.gelu,
    }
    for _ in range(spec.depth):
        x = text_encoder.CLIPEncoderLayer(
            spec.width, spec.num_heads, activations[spec.activation]
        )(x)
    x = keras.layers.LayerNormalization(epsilon=1e-5)(x)
    return keras.Model([tokens, positions], x)


def keras_cv_image_encoder(spec):
    stack = [keras.layers.Input((None, None, 3))]
    stack.append(CONVOLUTION(spec.encoder_widths[0], 3, padding=1))
    for level, width in enumerate(spec.encoder_widths):
        stack += [RESNET(width) for _ in range(spec.encoder_blocks)]
        if level < len(spec.encoder_widths) - 1:
            far = ((0, 1), (0, 1))
            stack.append(CONVOLUTION(width, 3, padding=far, strides=2))
    stack += keras_cv_middle(spec.encoder_widths[-1])
    stack += keras_cv_exit(8)
    stack.append(CONVOLUTION(8, 1))
    scale = spec.latent_scale
    stack.append(keras.layers.Lambda(lambda x: x[..., :4] * scale))
    return with_groups(stack, spec.groups)


def keras_cv_decoder(spec):
    stack = [
        keras.layers.Input((8, 16, 4)),
        keras.layers.Rescaling(1.0 / spec.latent_scale),
        CONVOLUTION(4, 1),
        CONVOLUTION(spec.decoder_widths[-1], 3, padding=1),
        *keras_cv_middle(spec.decoder_widths[-1]),
    ]
    for level in (3, 2, 1, 0):
        width = spec.decoder_widths[level]
        stack += [RESNET(width) for _ in range(spec.decoder_blocks)]
        if level:
            stack.append(keras.layers.UpSampling2D(2))
            stack.append(CONVOLUTION(width, 3, padding=1))
    return with_groups([*stack, *keras_cv_exit(3)], spec.groups)


def keras_cv_middle(width):
    return [RESNET(width), ATTENTION(width), RESNET(width)]


def keras_cv_exit(channels):
    return [
        keras.layers.GroupNormalization(epsilon=1e-5),
        keras.layers.Activation("swish"),
        CONVOLUTION(channels, 3, padding=1),
    ]


def with_groups(stack, groups):
    # KerasCV's blocks fix 32 groups; the number is read at build time.
    for layer in stack:
        if isinstance(layer, keras.layers.Layer):
            for inner in layer._flatten_layers():
                if isinstance(inner, keras.layers.GroupNormalization):
                    inner.groups = groups
    return keras.Sequential(stack)


def text_inputs():
    generator = np.random.default_rng(0)
    tokens = generator.integers(0, 50, (3, 77)).astype("int32")
    positions = np.tile(np.arange(77, dtype="int32"), (3, 1))
    return [tokens, positions]


def text_case(activation):
    spec = TextEncoderSpec(50, 8, 2, 2, activation)
    ours = small_encoders.build_text_encoder(spec)
    return ours, keras_cv_text_encoder(spec), text_inputs()


def encoder_case():
    images = np.random.default_rng(0).uniform(-1, 1, (2, 64, 128, 3))
    ours = small_encoders.build_image_encoder(AUTOENCODER)
    theirs = keras_cv_image_encoder(AUTOENCODER)
    return ours, theirs, images.astype("float32")


def decoder_case():
    latents = np.random.default_rng(0).normal(size=(2, 8, 16, 4))
    ours = small_encoders.build_decoder(AUTOENCODER, 64, 128)
    return ours, keras_cv_decoder(AUTOENCODER), latents.astype("float32")


CASES = {
    "text encoder": lambda: text_case("quick_gelu"),
    "text encoder, gelu": lambda: text_case("gelu"),
    "image encoder": encoder_case,
    "decoder": decoder_case,
}


@pytest.fixture(params=CASES, scope="module")
def case(request, perturb):
    ours, theirs, inputs = CASES[request.param]()
    perturb(theirs)
    return ours, theirs, inputs


def test_weights_are_in_keras_cvs_order(case):
    ours, theirs, _ = case
    layout = [
        [(weight.name, tuple(weight.shape)) for weight in model.weights]
        for model in (ours, theirs)
    ]
    assert layout[0] == layout[1]


def test_same_weights_give_the_same_numbers(case):
    ours, theirs, inputs = case
    ours.set_weights(theirs.get_weights())
    expected = np.asarray(theirs(inputs))
    np.testing.assert_allclose(
        ours(inputs), expected, atol=2e-5 * abs(expected).max()
    )


def test_weight_files_of_keras_cvs_blocks_load(case, tmp_path):
    ours, theirs, _ = case
    theirs.save_weights(tmp_path / "theirs.weights.h5")
    ours.set_weights([np.zeros(w.shape, "float32") for w in ours.weights])
    ours.load_weights(tmp_path / "theirs.weights.h5")
    for weight, expected in zip(ours.weights, theirs.weights, strict=True):
        np.testing.assert_array_equal(weight, expected)


def test_decoder_takes_any_size_when_told_none():
    decoder = small_encoders.build_decoder(AUTOENCODER)
    for height, width in ((8, 8), (16, 24)):
        latents = np.zeros((1, height, width, 4), "float32")
        assert decoder(latents).shape == (1, 8 * height, 8 * width, 3)
