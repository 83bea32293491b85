"""The U-Net that predicts noise: any size, KerasCV's weights.

Must not know losses, what a timestep means, or files.
"""

from typing import Any

import keras
from keras import layers

from keras_sdft import checks
from keras_sdft.models.dtypes import dtype_policy_scope
from keras_sdft.models.kernels import gate
from keras_sdft.models.spec import DiffusionModelSpec
from keras_sdft.models.unet.blocks import ResBlock
from keras_sdft.models.unet.blocks import SpatialTransformer
from keras_sdft.models.unet.layers import Dense
from keras_sdft.models.unet.layers import GroupNormalization
from keras_sdft.models.unet.layers import PaddedConv2D
from keras_sdft.models.unet.layers import Upsample
from keras_sdft.models.unet.layers import kernels_begin_with

NUMERICS = ("exact", "keras_cv")


class DiffusionModel(keras.Model):
    """Predicts the noise in latents, given a timestep and a text context.

    Weights pass to and from `keras_cv.models.stable_diffusion.DiffusionModel`
    with `get_weights`/`set_weights` and through the files of either.

    Args:
        spec: A `DiffusionModelSpec`. Defaults to Stable Diffusion 1.x.
        numerics: `"exact"` computes what the original model computes (GELU
            by the error function, epsilon 1e-6 before transformers);
            `"keras_cv"` what KerasCV computes (GELU by tanh, 1e-5).
        remat: Boolean, whether blocks recompute their activations in the
            backward pass, which trades time for memory.
        max_length: Integer, number of context positions, or `None` for any.
        kernel_initializer: What Keras initializer draws the first kernels;
            `"zeros"` is fastest where weights follow.
        dtype: A dtype policy or its name, for example `"mixed_bfloat16"`.
        name: String, the model's name.

    Input shape:
        A dict of `latent (B, h, w, 4)` with `h` and `w` multiples of 8
        (pixels / 8), `timestep_embedding (B, widths[0])` and
        `context (B, 77, context_width)`.

    Output shape:
        `(B, h, w, 4)`.

    References:
        Rombach et al., 2022, section 3.3 and appendix E.2.1.
    """

    def __init__(
        self,
        spec: DiffusionModelSpec | None = None,
        *,
        numerics: str = "exact",
        remat: bool = False,
        max_length: int | None = 77,
        kernel_initializer: Any = "glorot_uniform",
        dtype: Any = None,
        name: str | None = None,
    ):
        spec = spec or DiffusionModelSpec()
        _check_spec(spec, numerics)
        with dtype_policy_scope(dtype), kernels_begin_with(kernel_initializer):
            inputs = {
                "latent": layers.Input(
                    (None, None, spec.latent_channels), name="latent"
                ),
                "timestep_embedding": layers.Input(
                    (spec.timestep_width,), name="timestep_embedding"
                ),
                "context": layers.Input(
                    (max_length, spec.context_width), name="context"
                ),
            }
            outputs = _UNetBuilder(spec, numerics, remat).build(inputs)
            super().__init__(list(inputs.values()), outputs, name=name)
        self.spec = spec
        self.numerics = numerics

    def get_config(self) -> dict[str, Any]:
        # A functional model's own configuration would list every layer;
        # the spec says the same in a line.
        raise NotImplementedError(
            "Save a diffusion model's weights with `save_weights` and "
            "rebuild it from its spec."
        )


class _UNetBuilder:
    """Lays out the graph in KerasCV's order, on which weight order rests."""

    def __init__(self, spec: DiffusionModelSpec, numerics: str, remat: bool):
        self.spec = spec
        self.numerics = numerics
        self.remat = remat
        self.traced = _traced_blocks()

    def build(self, inputs: dict[str, Any]) -> Any:
        spec = self.spec
        self.context = inputs["context"]
        self.embedding = self._time_mlp(inputs["timestep_embedding"])
        x = PaddedConv2D(spec.widths[0], 3)(inputs["latent"])
        skips = [x]
        bottom = len(spec.widths) - 1
        for level in range(bottom + 1):
            for _ in range(spec.blocks):
                x = self._block(x, level, attention=level < bottom)
                skips.append(x)
            if level < bottom:
                x = PaddedConv2D(spec.widths[level], 3, strides=2)(x)
                skips.append(x)
        x = self._block(x, bottom, attention=True)
        x = self._block(x, bottom, attention=False)
        for level in reversed(range(bottom + 1)):
            for _ in range(spec.blocks + 1):
                x = layers.Concatenate()([x, skips.pop()])
                x = self._block(x, level, attention=level < bottom)
            if level > 0:
                x = Upsample(spec.widths[level])(x)
        x = GroupNormalization(spec.groups, epsilon=1e-5, swish=True)(x)
        return PaddedConv2D(spec.latent_channels, 3)(x)

    def _time_mlp(self, x: Any) -> Any:
        width = 4 * self.spec.widths[0]
        x = Dense(width)(x)
        x = layers.Activation("swish")(x)
        return Dense(width)(x)

    def _block(self, x: Any, level: int, attention: bool) -> Any:
        spec, width = self.spec, self.spec.widths[level]
        block = ResBlock(
            width, groups=spec.groups, remat=self.remat, traced=self.traced
        )
        x = block([x, self.embedding])
        if not attention:
            return x
        heads = spec.num_heads[level]
        transformer = SpatialTransformer(
            heads,
            width // heads,
            fully_connected=spec.linear_projection,
            groups=spec.groups,
            numerics=self.numerics,
            remat=self.remat,
            traced=self.traced,
        )
        return transformer([x, self.context])


def _traced_blocks() -> Any:
    """Returns what blocks of equal shapes share, where it pays."""
    if not gate.traces_blocks():
        return None
    from keras_sdft.models.kernels.tracing import TracedBlocks

    return TracedBlocks()


def _check_spec(spec: DiffusionModelSpec, numerics: str) -> None:
    checks.one_of("numerics", numerics, NUMERICS)
    if len(spec.num_heads) != len(spec.widths):
        raise ValueError(
            "`num_heads` must have one entry for each of `widths`. "
            f"Received: num_heads={spec.num_heads}, widths={spec.widths}."
        )
    for width, heads in zip(spec.widths, spec.num_heads, strict=True):
        if width % heads or width % spec.groups:
            raise ValueError(
                "Each width must be a multiple of its number of heads and "
                f"of `groups`. Received: width={width}, heads={heads}, "
                f"groups={spec.groups}."
            )
