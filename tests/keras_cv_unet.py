"""KerasCV's U-Net at any width, laid out as KerasCV lays it out.

KerasCV fixes the widths of its `DiffusionModel`. This is the same graph of
the same private blocks with the widths as an argument, so that the fast
tests compare with KerasCV too; a slow test compares at full size with
KerasCV's own class.
"""

import keras
from keras_cv.src.models.stable_diffusion import diffusion_model as kcv
from keras_cv.src.models.stable_diffusion.padded_conv2d import PaddedConv2D


def narrow_keras_cv_unet(spec, size):
    context = keras.layers.Input((77, spec.context_width), name="context")
    t_embed = keras.layers.Input(
        (spec.timestep_width,), name="timestep_embedding"
    )
    latent = keras.layers.Input((size, size, 4), name="latent")
    t_emb = keras.layers.Dense(4 * spec.widths[0])(t_embed)
    t_emb = keras.layers.Activation("swish")(t_emb)
    t_emb = keras.layers.Dense(4 * spec.widths[0])(t_emb)

    def block(x, level, attention):
        width, heads = spec.widths[level], spec.num_heads[level]
        x = with_groups(kcv.ResBlock(width), spec)([x, t_emb])
        if not attention:
            return x
        transformer = kcv.SpatialTransformer(
            heads, width // heads, fully_connected=spec.linear_projection
        )
        return with_groups(transformer, spec)([x, context])

    x = PaddedConv2D(spec.widths[0], kernel_size=3, padding=1)(latent)
    outputs = [x]
    last = len(spec.widths) - 1
    for level in range(last + 1):
        for _ in range(spec.blocks):
            x = block(x, level, level < last)
            outputs.append(x)
        if level < last:
            x = PaddedConv2D(spec.widths[level], 3, strides=2, padding=1)(x)
            outputs.append(x)
    x = block(x, last, True)
    x = block(x, last, False)
    for level in reversed(range(last + 1)):
        for _ in range(spec.blocks + 1):
            x = keras.layers.Concatenate()([x, outputs.pop()])
            x = block(x, level, level < last)
        if level > 0:
            x = kcv.Upsample(spec.widths[level])(x)
    norm = keras.layers.GroupNormalization(epsilon=1e-5)
    x = with_groups(norm, spec)(x)
    x = keras.layers.Activation("swish")(x)
    x = PaddedConv2D(4, kernel_size=3, padding=1)(x)
    return keras.Model([latent, t_embed, context], x)


def with_groups(layer, spec):
    for inner in layer._flatten_layers():
        if isinstance(inner, keras.layers.GroupNormalization):
            inner.groups = spec.groups
    return layer
