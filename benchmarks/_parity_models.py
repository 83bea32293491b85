"""What `parity.py` compares: random pipelines in three sizes, and inputs.

"full" has the sizes of SD 1.5 and SD 2.1, "narrow" as many weights with few
numbers in each, "golden" fits into the repository.
"""

import numpy as np

from keras_sdft.formats import tokenizer_files
from keras_sdft.models import presets
from keras_sdft.models.tokenizer import Tokenizer
from keras_sdft.models.tokenizer import read_merges

PROMPT = "a red heart in ink style"
OPTIMIZER_STEPS = 10
# What is predicted, and the gamma of min-SNR or 0.
CASES = [
    (prediction_type, gamma)
    for prediction_type in ("epsilon", "v_prediction")
    for gamma in (0.0, 5.0)
]


def pipeline_config(architecture, size):
    """Arguments of the peer's classes for a pipeline."""
    second = architecture == "sd2"
    full, golden = size == "full", size == "golden"
    widths = [320, 640, 1280, 1280] if full else [32, 64, 96, 96]
    widths = [8, 16] if golden else widths
    text = (1024 if second else 768) if full else 32
    vae = [128, 256, 512, 512] if full else [16, 32, 32, 32]
    groups = 32 if full else 4 if golden else 8
    cross, plain = "CrossAttnDownBlock2D", "DownBlock2D"
    levels = len(widths)
    if second:
        heads = [width // (64 if full else 4) for width in widths]
    else:
        heads = 8 if full else 2
    return {
        "seed": 0,
        "half": golden,
        "prediction_type": "v_prediction" if second else "epsilon",
        "unet": {
            "sample_size": (96 if second else 64) if full else 8,
            "block_out_channels": widths,
            "layers_per_block": 1 if golden else 2,
            "down_block_types": [cross] * (levels - 1) + [plain],
            "up_block_types": ["UpBlock2D"]
            + ["CrossAttnUpBlock2D"] * (levels - 1),
            "cross_attention_dim": text,
            "attention_head_dim": heads,
            "use_linear_projection": second,
            "norm_num_groups": groups,
        },
        "vae": {
            "block_out_channels": [8] * 4 if golden else vae,
            "layers_per_block": 1 if golden else 2,
            "down_block_types": ["DownEncoderBlock2D"] * 4,
            "up_block_types": ["UpDecoderBlock2D"] * 4,
            "latent_channels": 4,
            "norm_num_groups": groups,
            "sample_size": 512,
        },
        "text_encoder": {
            "vocab_size": 49408 if full else 600 if golden else 2048,
            "hidden_size": text,
            "intermediate_size": 4 * text,
            "num_hidden_layers": (23 if second else 12) if full else 2,
            "num_attention_heads": text // 64 if full else 2,
            "hidden_act": "gelu" if second else "quick_gelu",
            "max_position_embeddings": 77,
            "projection_dim": text,
        },
    }


def make_inputs(config, size, count, seed=0):
    """What both sides are given, with `count` batches to train on."""
    generator = np.random.default_rng(seed)

    def normal(*shape):
        return generator.normal(size=shape).astype("float32")

    # At 8 the bottom of four levels is one place, which attends to itself
    # alone: the gradients of its queries are zero and errors mean nothing.
    side = {"full": 32, "narrow": 16, "golden": 8}[size]
    width = config["text_encoder"]["hidden_size"]
    words = config["text_encoder"]["vocab_size"]
    inputs = {
        "prompt": PROMPT,
        "ids": generator.integers(0, words, (2, 77)).astype("int32"),
        "image": np.tanh(normal(1, 8 * side, 8 * side, 3)),
        "latents": normal(2, side, side, 4),
        "timesteps": np.array([3, 977], "int32"),
        "context": normal(2, 77, width),
        "noise": normal(1, side, side, 4),
    }
    batch = 1 if size == "full" else 2
    return inputs | {
        "train_latents": normal(count, batch, side, side, 4),
        "train_noise": normal(count, batch, side, side, 4),
        "train_context": normal(count, batch, 77, width),
        # One example below where min-SNR's ceiling of 5 begins, one above.
        "train_timesteps": np.stack(
            [
                generator.integers(*limits, count)
                for limits in ((0, 150), (150, 1000))[:batch]
            ],
            axis=1,
        ),
    }


def write_tokenizer(folder, words, pad):
    """CLIP's vocabulary, that of "tiny", or its beginning."""
    folder.mkdir(parents=True)
    preset = presets.PRESETS["sd1.4" if words == 49408 else "tiny"]
    merges = read_merges(preset.merges)[: words - 514]
    tokenizer_files.write_tokenizer(folder, Tokenizer(merges, 77, pad))


def projections(tensors, count=3):
    """Each tensor's norm and products with random directions.

    Small enough to keep, and no error of a tensor leaves them all as they
    were.

    Returns:
        Float64 array `(tensors, 1 + count)`, in the order of the keys.
    """
    rows = []
    for number, key in enumerate(sorted(tensors)):
        array = np.asarray(tensors[key].read(), "float64").ravel()
        generator = np.random.default_rng(number)
        directions = generator.normal(size=(count, array.size))
        rows.append([np.linalg.norm(array), *(directions @ array)])
    return np.array(rows)
