"""Which weight is which: our networks' weights and diffusers' keys, as rows.

diffusers' keys are the hub that every dialect is mapped to. A row pairs the
path of a weight in our networks (and in KerasCV's: the attribute names are
the same) with its key and shape in a diffusers file. Must not know files.
"""

import collections
import dataclasses
import functools
from typing import Any

from keras_sdft.models.spec import AutoencoderSpec
from keras_sdft.models.spec import DiffusionModelSpec
from keras_sdft.models.spec import StableDiffusionSpec
from keras_sdft.models.spec import TextEncoderSpec

COMPONENTS = ("text_encoder", "unet", "vae")
# The networks of ours that each component of diffusers holds.
NETWORKS = {
    "text_encoder": ("text_encoder",),
    "unet": ("diffusion_model",),
    "vae": ("image_encoder", "decoder"),
}


@dataclasses.dataclass(frozen=True)
class Row:
    """One weight, in both worlds.

    Attributes:
        network: Our network, for example `"diffusion_model"`.
        ours: Path of the weight in it: a layer's class and number among
            those of its class, then attributes
            (`"ResBlock[3].entry_flow.0.gamma"`). `None` for a weight that
            their layout has and ours lacks.
        theirs: Its key in diffusers' file.
        shape: Its shape there.
        fill: The value of a weight that ours lacks.
    """

    network: str
    ours: str | None
    theirs: str
    shape: tuple[int, ...]
    fill: float = 0.0


# Kinds of layers: (our leaf, their leaf, shape in terms of inputs, outputs).
_NORM = (("gamma", "weight", "o"), ("beta", "bias", "o"))
_MATRIX = (("kernel", "weight", "oi"),)
_DENSE = (*_MATRIX, ("bias", "bias", "o"))
_CONV1 = (("kernel", "weight", "oi11"), ("bias", "bias", "o"))
_CONV3 = (("kernel", "weight", "oi33"), ("bias", "bias", "o"))
_EMBEDDING = (("embeddings", "weight", "io"),)

# Blocks: (our layer, their layer, kind, inputs, outputs), sizes by name.
_RESNET = (
    ("entry_flow.0", "norm1", _NORM, "in", "in"),
    ("entry_flow.2.conv2d", "conv1", _CONV3, "in", "out"),
    ("embedding_flow.1", "time_emb_proj", _DENSE, "time", "out"),
    ("exit_flow.0", "norm2", _NORM, "out", "out"),
    ("exit_flow.2.conv2d", "conv2", _CONV3, "out", "out"),
)
_RESNET_SHORTCUT = (
    ("residual_projection.conv2d", "conv_shortcut", _CONV1, "in", "out"),
)
_TRANSFORMER = (
    ("norm", "norm", _NORM, "w", "w"),
    *(
        (
            f"transformer_block.{ours}",
            f"transformer_blocks.0.{theirs}",
            kind,
            inputs,
            outputs,
        )
        for ours, theirs, kind, inputs, outputs in (
            ("norm1", "norm1", _NORM, "w", "w"),
            ("attn1.to_q", "attn1.to_q", _MATRIX, "w", "w"),
            ("attn1.to_k", "attn1.to_k", _MATRIX, "w", "w"),
            ("attn1.to_v", "attn1.to_v", _MATRIX, "w", "w"),
            ("attn1.out_proj", "attn1.to_out.0", _DENSE, "w", "w"),
            ("norm2", "norm2", _NORM, "w", "w"),
            ("attn2.to_q", "attn2.to_q", _MATRIX, "w", "w"),
            ("attn2.to_k", "attn2.to_k", _MATRIX, "context", "w"),
            ("attn2.to_v", "attn2.to_v", _MATRIX, "context", "w"),
            ("attn2.out_proj", "attn2.to_out.0", _DENSE, "w", "w"),
            ("norm3", "norm3", _NORM, "w", "w"),
            ("geglu.dense", "ff.net.0.proj", _DENSE, "w", "8w"),
            ("dense", "ff.net.2", _DENSE, "4w", "w"),
        )
    ),
)
_CONV_PROJECTIONS = (
    ("proj1.conv2d", "proj_in", _CONV1, "w", "w"),
    ("proj2.conv2d", "proj_out", _CONV1, "w", "w"),
)
_LINEAR_PROJECTIONS = (
    ("proj1", "proj_in", _DENSE, "w", "w"),
    ("proj2", "proj_out", _DENSE, "w", "w"),
)
_VAE_RESNET = (
    ("norm1", "norm1", _NORM, "in", "in"),
    ("conv1.conv2d", "conv1", _CONV3, "in", "out"),
    ("norm2", "norm2", _NORM, "out", "out"),
    ("conv2.conv2d", "conv2", _CONV3, "out", "out"),
)
# Theirs are dense layers, ours 1x1 convolutions.
_VAE_ATTENTION = (
    ("norm", "group_norm", _NORM, "w", "w"),
    ("q.conv2d", "to_q", _DENSE, "w", "w"),
    ("k.conv2d", "to_k", _DENSE, "w", "w"),
    ("v.conv2d", "to_v", _DENSE, "w", "w"),
    ("proj_out.conv2d", "to_out.0", _DENSE, "w", "w"),
)
_TEXT_EMBEDDINGS = (
    ("token_embedding", "token_embedding", _EMBEDDING, "words", "w"),
    ("position_embedding", "position_embedding", _EMBEDDING, "length", "w"),
)
_TEXT_LAYER = (
    ("layer_norm1", "layer_norm1", _NORM, "w", "w"),
    ("clip_attn.q_proj", "self_attn.q_proj", _DENSE, "w", "w"),
    ("clip_attn.k_proj", "self_attn.k_proj", _DENSE, "w", "w"),
    ("clip_attn.v_proj", "self_attn.v_proj", _DENSE, "w", "w"),
    ("clip_attn.out_proj", "self_attn.out_proj", _DENSE, "w", "w"),
    ("layer_norm2", "layer_norm2", _NORM, "w", "w"),
    ("fc1", "mlp.fc1", _DENSE, "w", "4w"),
    ("fc2", "mlp.fc2", _DENSE, "4w", "w"),
)


class _Rows:
    """Collects rows; counts layers of each class in the graph's order."""

    def __init__(self, network: str):
        self.network = network
        self.rows: list[Row] = []
        self._counts: collections.Counter = collections.Counter()

    def layer(self, name: str) -> str:
        number = self._counts[name]
        self._counts[name] += 1
        return f"{name}[{number}]"

    def block(self, ours: str | None, theirs: str, table: Any, **sizes: int):
        for our_layer, their_layer, kind, inputs, outputs in table:
            path = None if ours is None else f"{ours}.{our_layer}"
            self.one(
                path,
                f"{theirs}.{their_layer}",
                kind,
                sizes[inputs],
                sizes[outputs],
            )

    def one(
        self,
        ours: str | None,
        theirs: str,
        kind: Any,
        inputs: int,
        outputs: int,
    ):
        sizes = {"i": inputs, "o": outputs, "1": 1, "3": 3}
        for our_leaf, their_leaf, letters in kind:
            self.rows.append(
                Row(
                    self.network,
                    None if ours is None else f"{ours}.{our_leaf}",
                    f"{theirs}.{their_leaf}",
                    tuple(sizes[letter] for letter in letters),
                    1.0 if our_leaf == "gamma" else 0.0,
                )
            )

    def conv(self, theirs: str, kind: Any, inputs: int, outputs: int):
        path = f"{self.layer('PaddedConv2D')}.conv2d"
        self.one(path, theirs, kind, inputs, outputs)


def component_rows(
    component: str, spec: StableDiffusionSpec
) -> tuple[Row, ...]:
    """The rows of one component.

    Args:
        component: `"text_encoder"`, `"unet"` or `"vae"`.
        spec: A `StableDiffusionSpec`.

    Returns:
        A tuple of `Row`, in our networks' graph order.
    """
    if component == "text_encoder":
        return text_encoder_rows(spec.text_encoder)
    if component == "unet":
        return unet_rows(spec.diffusion_model)
    return vae_rows(spec.autoencoder)


def modules(component: str, spec: Any) -> dict[str, str]:
    """Returns the paths of our layers with a kernel, by diffusers' name.

    Args:
        component: `"unet"` or `"text_encoder"`.
        spec: A `StableDiffusionSpec`.
    """
    return {
        row.theirs.removesuffix(".weight"): row.ours.removesuffix(".kernel")
        for row in component_rows(component, spec)
        if row.ours is not None and row.ours.endswith(".kernel")
    }


@functools.lru_cache(maxsize=16)
def unet_rows(spec: DiffusionModelSpec) -> tuple[Row, ...]:
    """The rows of the U-Net."""
    rows = _Rows("diffusion_model")
    widths, time = spec.widths, 4 * spec.widths[0]
    rows.one("Dense[0]", "time_embedding.linear_1", _DENSE, widths[0], time)
    rows.one("Dense[1]", "time_embedding.linear_2", _DENSE, time, time)
    rows.conv("conv_in", _CONV3, spec.latent_channels, widths[0])
    skips = [widths[0]]
    bottom = len(widths) - 1
    x = widths[0]
    for level, width in enumerate(widths):
        stem = f"down_blocks.{level}"
        for index in range(spec.blocks):
            _unet_block(rows, spec, stem, index, x, level, level < bottom)
            x = width
            skips.append(x)
        if level < bottom:
            rows.conv(f"{stem}.downsamplers.0.conv", _CONV3, x, x)
            skips.append(x)
    _unet_block(rows, spec, "mid_block", 0, x, bottom, True)
    _unet_block(rows, spec, "mid_block", 1, x, bottom, False)
    for number, level in enumerate(reversed(range(bottom + 1))):
        stem = f"up_blocks.{number}"
        for index in range(spec.blocks + 1):
            x += skips.pop()
            _unet_block(rows, spec, stem, index, x, level, level < bottom)
            x = widths[level]
        if level > 0:
            path = f"{rows.layer('Upsample')}.conv.conv2d"
            rows.one(path, f"{stem}.upsamplers.0.conv", _CONV3, x, x)
    norm = rows.layer("GroupNormalization")
    rows.one(norm, "conv_norm_out", _NORM, x, x)
    rows.conv("conv_out", _CONV3, x, spec.latent_channels)
    return tuple(rows.rows)


def _unet_block(
    rows: _Rows,
    spec: DiffusionModelSpec,
    stem: str,
    index: int,
    inputs: int,
    level: int,
    attention: bool,
) -> None:
    width = spec.widths[level]
    table = _RESNET + (_RESNET_SHORTCUT if inputs != width else ())
    rows.block(
        rows.layer("ResBlock"),
        f"{stem}.resnets.{index}",
        table,
        **{"in": inputs, "out": width, "time": 4 * spec.widths[0]},
    )
    if attention:
        linear = spec.linear_projection
        table = _LINEAR_PROJECTIONS if linear else _CONV_PROJECTIONS
        sizes = {"w": width, "4w": 4 * width, "8w": 8 * width}
        rows.block(
            rows.layer("SpatialTransformer"),
            f"{stem}.attentions.{index}",
            _TRANSFORMER + table,
            context=spec.context_width,
            **sizes,
        )


@functools.lru_cache(maxsize=16)
def vae_rows(spec: AutoencoderSpec) -> tuple[Row, ...]:
    """The rows of the image encoder and of the decoder.

    diffusers' decoder always has one more block per level than its encoder.
    Where ours has fewer, the missing ones are blocks that do nothing: their
    last convolution is zero, so that what they add is zero.
    """
    blocks = vae_layers_per_block(spec)
    return _image_encoder_rows(spec, blocks) + _decoder_rows(spec, blocks + 1)


def vae_layers_per_block(spec: AutoencoderSpec) -> int:
    """diffusers' `layers_per_block` that our encoder and decoder fit in."""
    if spec.encoder_widths != spec.decoder_widths:
        raise ValueError(
            "Other formats have one list of widths for encoder and decoder. "
            f"Received: encoder_widths={spec.encoder_widths}, "
            f"decoder_widths={spec.decoder_widths}."
        )
    return max(spec.encoder_blocks, spec.decoder_blocks - 1)


def _image_encoder_rows(spec: AutoencoderSpec, blocks: int) -> tuple[Row, ...]:
    rows = _Rows("image_encoder")
    widths, moments = spec.encoder_widths, 2 * spec.latent_channels
    rows.conv("encoder.conv_in", _CONV3, 3, widths[0])
    x = widths[0]
    for level, width in enumerate(widths):
        stem = f"encoder.down_blocks.{level}"
        for index in range(blocks):
            here = index < spec.encoder_blocks
            _vae_block(rows, f"{stem}.resnets.{index}", x, width, here)
            x = width
        if level < len(widths) - 1:
            rows.conv(f"{stem}.downsamplers.0.conv", _CONV3, x, x)
    _vae_middle(rows, "encoder.mid_block", x)
    norm = rows.layer("GroupNormalization")
    rows.one(norm, "encoder.conv_norm_out", _NORM, x, x)
    rows.conv("encoder.conv_out", _CONV3, x, moments)
    rows.conv("quant_conv", _CONV1, moments, moments)
    return tuple(rows.rows)


def _decoder_rows(spec: AutoencoderSpec, blocks: int) -> tuple[Row, ...]:
    rows = _Rows("decoder")
    widths, latents = spec.decoder_widths, spec.latent_channels
    rows.conv("post_quant_conv", _CONV1, latents, latents)
    x = widths[-1]
    rows.conv("decoder.conv_in", _CONV3, latents, x)
    _vae_middle(rows, "decoder.mid_block", x)
    for number, level in enumerate(reversed(range(len(widths)))):
        stem, width = f"decoder.up_blocks.{number}", widths[level]
        for index in range(blocks):
            here = index < spec.decoder_blocks
            _vae_block(rows, f"{stem}.resnets.{index}", x, width, here)
            x = width
        if level > 0:
            rows.conv(f"{stem}.upsamplers.0.conv", _CONV3, x, x)
    norm = rows.layer("GroupNormalization")
    rows.one(norm, "decoder.conv_norm_out", _NORM, x, x)
    rows.conv("decoder.conv_out", _CONV3, x, 3)
    return tuple(rows.rows)


def _vae_middle(rows: _Rows, stem: str, width: int) -> None:
    _vae_block(rows, f"{stem}.resnets.0", width, width)
    attention = rows.layer("AttentionBlock")
    rows.block(attention, f"{stem}.attentions.0", _VAE_ATTENTION, w=width)
    _vae_block(rows, f"{stem}.resnets.1", width, width)


def _vae_block(
    rows: _Rows, theirs: str, inputs: int, outputs: int, here: bool = True
) -> None:
    table = _VAE_RESNET + (_RESNET_SHORTCUT if inputs != outputs else ())
    ours = rows.layer("ResnetBlock") if here else None
    rows.block(ours, theirs, table, **{"in": inputs, "out": outputs})


@functools.lru_cache(maxsize=16)
def text_encoder_rows(spec: TextEncoderSpec) -> tuple[Row, ...]:
    """The rows of the text encoder."""
    rows = _Rows("text_encoder")
    sizes = {"w": spec.width, "4w": 4 * spec.width}
    rows.block(
        rows.layer("CLIPEmbedding"),
        "text_model.embeddings",
        _TEXT_EMBEDDINGS,
        words=spec.vocabulary_size,
        length=spec.max_length,
        **sizes,
    )
    for index in range(spec.depth):
        layer = rows.layer("CLIPEncoderLayer")
        theirs = f"text_model.encoder.layers.{index}"
        rows.block(layer, theirs, _TEXT_LAYER, **sizes)
    norm, width = rows.layer("LayerNormalization"), spec.width
    rows.one(norm, "text_model.final_layer_norm", _NORM, width, width)
    return tuple(rows.rows)
