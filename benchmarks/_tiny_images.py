"""Images in and out of the embedded model, sixteen at a time.

One size, because another would be traced anew. Must not know what is
measured.
"""

import os
import pathlib

import numpy as np

import keras_sdft
from scripts.pretrain_tiny import dataset
from scripts.pretrain_tiny import measures
from scripts.pretrain_tiny import model

CHUNK = 16


def load(name):
    """Loads a preset, a run, or a model of the pretraining before it ships.

    Args:
        name: String, as for `StableDiffusion.from_preset`, or the path of
            what `scripts/pretrain_tiny/model.py` wrote.
    """
    if os.path.isfile(os.path.join(name, model.MERGES)):
        return model.load(pathlib.Path(name))
    return keras_sdft.StableDiffusion.from_preset(name)


def generate(sd, prompts, num_steps=None, guidance_scale=None, seed=0):
    """One image of each prompt; the n-th always begins at the n-th noise.

    Args:
        sd: A `keras_sdft.StableDiffusion`.
        prompts: List of strings.
        num_steps: Integer, sampling steps. Defaults to the model's own.
        guidance_scale: Float. Defaults to the model's own.
        seed: Integer >= 0.

    Returns:
        uint8 array `(N, H, W, 3)`.
    """
    filled = prompts + prompts[-1:] * (-len(prompts) % CHUNK)
    parts = [
        sd.text_to_image(
            filled[begin : begin + CHUNK],
            num_steps=num_steps,
            guidance_scale=guidance_scale,
            seed=seed + begin,
        )
        for begin in range(0, len(filled), CHUNK)
    ]
    return np.concatenate(parts)[: len(prompts)]


def encode(sd, images):
    """Latents `(N, h, w, 4)` of uint8 images."""
    return measures.in_chunks(
        lambda part: sd.image_encoder.predict_on_batch(dataset.to_float(part)),
        images,
        size=CHUNK,
    )


def through_autoencoder(sd, images):
    """uint8 images, encoded to latents and decoded again."""
    decoded = measures.in_chunks(
        sd.decoder.predict_on_batch, encode(sd, images), size=CHUNK
    )
    return measures.to_uint8(decoded)
