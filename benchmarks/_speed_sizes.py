"""The sizes that `speed.py` measures, and inputs of a fixed seed.

Read by both sides, so it imports numpy and nothing else that must be
installed.
"""

import dataclasses

import numpy as np

PROMPT = "a red heart in ink style"
SAMPLING_STEPS = 25
GUIDANCE = 7.5
LENGTH = 77
LATENT_SCALE = 0.18215
# The recipe of the published text-to-image script: its README's learning
# rate, its defaults otherwise.
ADAMW = {"learning_rate": 1e-5, "weight_decay": 1e-2, "epsilon": 1e-8}
LORA_LEARNING_RATE = 1e-4
BETAS = (0.9, 0.999)
CLIP_NORM = 1.0
SCHEDULE = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "num_train_timesteps": 1000,
}


@dataclasses.dataclass(frozen=True)
class Size:
    """A Stable Diffusion 1.x of some width.

    Attributes:
        widths: Channels of the U-Net's levels.
        blocks: Residual blocks per level.
        heads: Attention heads of every level.
        vocabulary: Number of token ids.
        text_width: Width of the text encoder and of the context.
        text_depth: Layers of the text encoder.
        text_heads: Heads of the text encoder.
        autoencoder: Channels of the autoencoder's levels.
        encoder_blocks: Residual blocks per level of the image encoder.
        decoder_blocks: Residual blocks per level of the decoder.
        autoencoder_groups: Groups of its normalizations.
    """

    widths: tuple = (320, 640, 1280, 1280)
    blocks: int = 2
    heads: int = 8
    vocabulary: int = 49408
    text_width: int = 768
    text_depth: int = 12
    text_heads: int = 12
    autoencoder: tuple = (128, 256, 512, 512)
    encoder_blocks: int = 2
    decoder_blocks: int = 3
    autoencoder_groups: int = 32


SIZES = {
    # The preset of that name.
    "tiny": Size(
        widths=(64, 96, 160, 192),
        blocks=1,
        heads=4,
        vocabulary=2048,
        text_width=128,
        text_depth=4,
        text_heads=4,
        autoencoder=(16, 32, 96, 128),
        encoder_blocks=1,
        decoder_blocks=1,
        autoencoder_groups=8,
    ),
    # KerasCV writes token id 49407 into every prompt: a whole vocabulary.
    "mid": Size(
        widths=(64, 128, 256, 256),
        text_width=128,
        text_depth=4,
        text_heads=4,
        autoencoder=(32, 64, 128, 128),
    ),
    "full": Size(),
}


def unet_config(size):
    """Arguments of diffusers' `UNet2DConditionModel`."""
    levels = len(size.widths) - 1
    return {
        "sample_size": 64,
        "block_out_channels": list(size.widths),
        "layers_per_block": size.blocks,
        "down_block_types": ["CrossAttnDownBlock2D"] * levels + ["DownBlock2D"],
        "up_block_types": ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * levels,
        "cross_attention_dim": size.text_width,
        # The number of heads, by a name that is published and stays.
        "attention_head_dim": size.heads,
    }


def vae_config(size):
    """Arguments of diffusers' `AutoencoderKL`."""
    levels = len(size.autoencoder)
    return {
        "block_out_channels": list(size.autoencoder),
        "layers_per_block": size.encoder_blocks,
        "down_block_types": ["DownEncoderBlock2D"] * levels,
        "up_block_types": ["UpDecoderBlock2D"] * levels,
        "latent_channels": 4,
        "norm_num_groups": size.autoencoder_groups,
        "sample_size": 512,
        "scaling_factor": LATENT_SCALE,
    }


def text_config(size):
    """Arguments of transformers' `CLIPTextConfig`."""
    return {
        "vocab_size": size.vocabulary,
        "hidden_size": size.text_width,
        "intermediate_size": 4 * size.text_width,
        "num_hidden_layers": size.text_depth,
        "num_attention_heads": size.text_heads,
        "hidden_act": "quick_gelu",
        "max_position_embeddings": LENGTH,
        "projection_dim": size.text_width,
    }


def ready_batch(job):
    """A batch that is encoded already: moments and context, float32."""
    generator = np.random.default_rng(0)
    count, side = job["batch"], job["pixels"] // 8
    width = SIZES[job["size"]].text_width
    mean = generator.normal(size=(count, side, side, 4))
    # About what the image encoder gives: it is very sure.
    log_variance = generator.normal(-20.0, 1.0, mean.shape)
    context = generator.normal(size=(count, LENGTH, width))
    moments = np.concatenate([mean, log_variance], axis=-1)
    return {
        "moments": moments.astype("float32"),
        "context": context.astype("float32"),
        "example_weight": np.ones((count,), "float32"),
    }
