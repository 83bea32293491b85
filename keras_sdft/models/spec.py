"""What a Stable Diffusion model is made of, as numbers.

A spec holds sizes and conventions only. It must not know where weights come
from, nor build anything.
"""

import dataclasses
from typing import Any

# What kernels that do not learn can be held in.
FROZEN_DTYPES = ("float32", "bfloat16", "int8")
# Sampling steps at most, unless asked for, of images that are waited for.
_QUICK_STEPS = 25


@dataclasses.dataclass(frozen=True)
class DiffusionModelSpec:
    """Sizes of the U-Net that predicts the noise.

    Attributes:
        widths: Channels of each level, from the full latent size down.
        blocks: Residual blocks per level on the way down; the way up has
            one more.
        num_heads: Attention heads of each level.
        context_width: Width of the text encoder's output.
        linear_projection: Whether transformers are entered and left by a
            dense layer (SD 2.x) instead of a 1x1 convolution (SD 1.x).
        groups: Groups of every group normalization.
        latent_channels: Channels of the latents.
    """

    widths: tuple[int, ...] = (320, 640, 1280, 1280)
    blocks: int = 2
    num_heads: tuple[int, ...] = (8, 8, 8, 8)
    context_width: int = 768
    linear_projection: bool = False
    groups: int = 32
    latent_channels: int = 4

    @property
    def timestep_width(self) -> int:
        """Width of the sinusoidal timestep embedding."""
        return self.widths[0]


@dataclasses.dataclass(frozen=True)
class TextEncoderSpec:
    """Sizes of the causal text transformer.

    Attributes:
        vocabulary_size: Number of token ids.
        width: Width of the transformer and of the context.
        depth: Number of layers that are run.
        num_heads: Attention heads.
        activation: `"quick_gelu"` (CLIP) or `"gelu"` (OpenCLIP).
        max_length: Number of positions.
    """

    vocabulary_size: int = 49408
    width: int = 768
    depth: int = 12
    num_heads: int = 12
    activation: str = "quick_gelu"
    max_length: int = 77


@dataclasses.dataclass(frozen=True)
class AutoencoderSpec:
    """Sizes of the image encoder and of the decoder.

    Attributes:
        encoder_widths: Channels of the encoder's levels.
        encoder_blocks: Residual blocks per level of the encoder.
        decoder_widths: Channels of the decoder's levels, in the encoder's
            order (the last is where decoding begins).
        decoder_blocks: Residual blocks per level of the decoder.
        groups: Groups of every group normalization.
        latent_channels: Channels of the latents.
        latent_scale: What sampled latents are multiplied by to have about
            unit variance.
    """

    encoder_widths: tuple[int, ...] = (128, 256, 512, 512)
    encoder_blocks: int = 2
    decoder_widths: tuple[int, ...] = (128, 256, 512, 512)
    decoder_blocks: int = 3
    groups: int = 32
    latent_channels: int = 4
    latent_scale: float = 0.18215


@dataclasses.dataclass(frozen=True)
class StableDiffusionSpec:
    """All of a Stable Diffusion model.

    Attributes:
        name: The preset's name, or that of the family.
        resolution: Side in pixels of the images it was trained on.
        prediction_type: `"epsilon"` or `"v_prediction"`.
        zero_terminal_snr: Whether it was trained on a noise schedule whose
            last timestep is pure noise; sampling must then begin there.
        timestep_spacing: How sampling spaces its timesteps: `"linspace"`,
            `"leading"` or `"trailing"`; `None` for the default,
            `"trailing"` for zero terminal SNR, else `"linspace"`.
        pad_token: What fills a caption up to its full length: `"end"` (the
            end token) or an integer id.
        steps_offset: What `"leading"` timesteps are shifted by.
        clip_skip: Which of the text encoder's layers, counted from the last,
            gives the context: 1 for the last, 2 for the one before it. (In
            diffusers `clip_skip` is one less, or absent.)
        num_steps: Sampling steps of its images unless others are asked for,
            see `sampling`.
        guidance_scale: Likewise, how closely they follow the prompt.
    """

    name: str
    diffusion_model: DiffusionModelSpec = DiffusionModelSpec()
    text_encoder: TextEncoderSpec = TextEncoderSpec()
    autoencoder: AutoencoderSpec = AutoencoderSpec()
    resolution: int = 512
    prediction_type: str = "epsilon"
    pad_token: int | str = "end"
    zero_terminal_snr: bool = False
    timestep_spacing: str | None = None
    steps_offset: int = 1
    clip_skip: int = 1
    num_steps: int = 50
    guidance_scale: float = 7.5

    @property
    def spacing(self) -> str:
        """The timestep spacing that sampling uses."""
        # Zero terminal SNR: sampling must begin at the last timestep.
        default = "trailing" if self.zero_terminal_snr else "linspace"
        return self.timestep_spacing or default

    def sampling(
        self,
        num_steps: int | None = None,
        guidance_scale: float | None = None,
        quick: bool = False,
    ) -> dict[str, Any]:
        """Returns what was asked for, and the model's own for `None`.

        Args:
            num_steps: Integer or `None`.
            guidance_scale: Float or `None`.
            quick: Boolean, whether the model's own steps are 25 at most: in
                previews and the command `generate`.

        Returns:
            Dict of `num_steps` and `guidance_scale`.
        """
        if num_steps is None:
            own = self.num_steps
            num_steps = min(own, _QUICK_STEPS) if quick else own
        if guidance_scale is None:
            guidance_scale = self.guidance_scale
        return {"num_steps": num_steps, "guidance_scale": guidance_scale}

    def to_dict(self) -> dict[str, Any]:
        """Returns plain numbers and strings, fit for JSON."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, config: dict[str, Any]) -> "StableDiffusionSpec":
        """Reverses `to_dict`; refuses fields it does not know."""
        parts = {
            "diffusion_model": DiffusionModelSpec,
            "text_encoder": TextEncoderSpec,
            "autoencoder": AutoencoderSpec,
        }
        values = dict(config)
        for key, part in parts.items():
            if key in values:
                values[key] = _from_fields(part, values[key])
        return _from_fields(cls, values)


def _from_fields(cls: Any, values: dict[str, Any]) -> Any:
    known = {field.name for field in dataclasses.fields(cls)}
    unknown = sorted(set(values) - known)
    if unknown:
        raise ValueError(
            f"Unknown fields of {cls.__name__}: {unknown}. "
            f"Expected only: {sorted(known)}."
        )
    frozen = {
        key: tuple(value) if isinstance(value, list) else value
        for key, value in values.items()
    }
    return cls(**frozen)
