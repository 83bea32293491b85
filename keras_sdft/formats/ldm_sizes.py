"""Reads the spec of an original checkpoint off the shapes of its weights.

Heads and groups are those of the published models. Every count is of keys
that exist, so a file cannot make this run long.
"""

from collections.abc import Mapping
from pathlib import Path

from keras_sdft.formats.diffusers_configs import check_channels
from keras_sdft.formats.ldm_names import CLIP
from keras_sdft.formats.ldm_names import OPEN_CLIP
from keras_sdft.formats.ldm_names import UNET
from keras_sdft.formats.ldm_names import VAE
from keras_sdft.formats.safetensors_files import Tensor
from keras_sdft.models.spec import AutoencoderSpec
from keras_sdft.models.spec import DiffusionModelSpec
from keras_sdft.models.spec import StableDiffusionSpec
from keras_sdft.models.spec import TextEncoderSpec

# CLIP's text encoder in SD 1.x has 768, OpenCLIP's in SD 2.x 1024.
_OPEN_CLIP_WIDTH = 1024
FIRST_KEY = f"{UNET}input_blocks.0.0.weight"


def spec_from_sizes(
    path: Path, tensors: Mapping[str, Tensor]
) -> StableDiffusionSpec:
    """Reads a spec off the shapes.

    Args:
        path: For messages.
        tensors: Dict of `Tensor` by original key.

    Raises:
        ValueError: If it is no whole text-to-image model.
    """
    sizes = _Sizes(path, tensors)
    return StableDiffusionSpec(
        name="",
        diffusion_model=_unet_spec(sizes),
        text_encoder=_text_spec(sizes),
        autoencoder=_vae_spec(sizes),
    )


class _Sizes:
    """Looks shapes up; an error says what is missing."""

    def __init__(self, path: Path, tensors: Mapping[str, Tensor]):
        self.path = path
        self.tensors = tensors

    def shape(self, key: str, rank: int) -> tuple[int, ...]:
        tensor = self.tensors.get(key)
        if tensor is None or len(tensor.shape) != rank or 0 in tensor.shape:
            found = "missing" if tensor is None else f"of shape {tensor.shape}"
            raise ValueError(
                f"The file {str(self.path)!r} is no whole Stable Diffusion "
                f"1.x or 2.x model: {key!r} is {found}."
            )
        return tensor.shape

    def count(self, pattern: str) -> int:
        """Counts the keys `pattern.format(0)`, `pattern.format(1)`..."""
        number = 0
        while pattern.format(number) in self.tensors:
            number += 1
        return number


def _unet_spec(sizes: _Sizes) -> DiffusionModelSpec:
    first, channels = sizes.shape(FIRST_KEY, 4)[:2]
    check_channels(str(sizes.path), channels)
    blocks = 1
    while f"{UNET}input_blocks.{blocks}.0.op.weight" not in sizes.tensors:
        if f"{UNET}input_blocks.{blocks}.0.in_layers.0.weight" not in (
            sizes.tensors
        ):
            break
        blocks += 1
    blocks = max(blocks - 1, 1)
    ends = f"{UNET}input_blocks.{{}}.0.out_layers.3.weight"
    widths: list[int] = []
    while ends.format((blocks + 1) * len(widths) + 1) in sizes.tensors:
        key = ends.format((blocks + 1) * len(widths) + 1)
        widths.append(sizes.shape(key, 4)[0])
    attention = f"{UNET}input_blocks.1.1."
    to_key = f"{attention}transformer_blocks.0.attn2.to_k.weight"
    context = sizes.shape(to_key, 2)[1]
    projection = sizes.tensors.get(f"{attention}proj_in.weight")
    linear = projection is not None and len(projection.shape) == 2
    heads = [max(width // 64, 1) if linear else 8 for width in widths]
    return DiffusionModelSpec(
        widths=tuple(widths or [first]),
        blocks=blocks,
        num_heads=tuple(heads or [8]),
        context_width=context,
        linear_projection=linear,
    )


def _text_spec(sizes: _Sizes) -> TextEncoderSpec:
    if f"{OPEN_CLIP}ln_final.weight" in sizes.tensors:
        stem = OPEN_CLIP + "transformer.resblocks.{}.ln_1.weight"
        depth = sizes.count(stem)
        words, width = sizes.shape(f"{OPEN_CLIP}token_embedding.weight", 2)
        # A whole OpenCLIP: its last layer is not run.
        whole = f"{OPEN_CLIP}text_projection" in sizes.tensors or depth == 24
        return TextEncoderSpec(
            vocabulary_size=words,
            width=width,
            depth=max(depth - whole, 1),
            num_heads=max(width // 64, 1),
            activation="gelu",
            max_length=sizes.shape(f"{OPEN_CLIP}positional_embedding", 2)[0],
        )
    stem = f"{CLIP}text_model."
    words, width = sizes.shape(f"{stem}embeddings.token_embedding.weight", 2)
    depth = sizes.count(stem + "encoder.layers.{}.layer_norm1.weight")
    # The keys are transformers' for both; the sizes tell which one it is.
    open_clip = width >= _OPEN_CLIP_WIDTH
    return TextEncoderSpec(
        vocabulary_size=words,
        width=width,
        depth=depth - (open_clip and depth == 24),
        num_heads=max(width // 64, 1),
        activation="gelu" if open_clip else "quick_gelu",
        max_length=sizes.shape(
            f"{stem}embeddings.position_embedding.weight", 2
        )[0],
    )


def vae_from_sizes(
    path: Path, tensors: Mapping[str, Tensor]
) -> AutoencoderSpec:
    """Reads the spec of an autoencoder alone off the shapes.

    Args:
        path: For messages.
        tensors: Dict of `Tensor` by original key.
    """
    return _vae_spec(_Sizes(path, tensors))


def _vae_spec(sizes: _Sizes) -> AutoencoderSpec:
    down = VAE + "encoder.down.{}.block.{}.conv2.weight"
    levels = sizes.count(down.replace("{}", "{0}", 1).replace("{}", "0", 1))
    widths = tuple(
        sizes.shape(down.format(level, 0), 4)[0] for level in range(levels)
    )
    blocks = sizes.count(f"{VAE}encoder.down.0.block.{{}}.conv2.weight")
    latents = sizes.shape(f"{VAE}post_quant_conv.weight", 4)[0]
    if levels != 4:
        raise ValueError(
            f"The VAE in {str(sizes.path)!r} has {levels} levels. Expected 4."
        )
    return AutoencoderSpec(
        encoder_widths=widths,
        encoder_blocks=blocks,
        decoder_widths=widths,
        decoder_blocks=blocks + 1,
        latent_channels=latents,
    )
