"""Measures the trained embedded model without a judge, and draws with it.

`python -m scripts.pretrain_tiny.evaluate` writes `evaluation.json` and grids.
What the pictures show is judged by `benchmarks/learning.py`. Must not know how
training went.
"""

import argparse
import json
import pathlib
from typing import Any

import numpy as np
from PIL import Image

from keras_sdft.diffusion import NoiseSchedule
from scripts.pretrain_tiny import autoencoder
from scripts.pretrain_tiny import dataset
from scripts.pretrain_tiny import measures
from scripts.pretrain_tiny import model
from scripts.pretrain_tiny import prompts
from scripts.pretrain_tiny import text_to_image

DIRECTORY = pathlib.Path("build/pretrain/evaluation")
MODEL = pathlib.Path("build/pretrain") / text_to_image.LAST / "model"
COLUMNS = 8
CHUNK = 16
GRIDS = ("things", "everyday", "coloured", "styled", "unknown")


# === Numbers ===


def latents_of(sd: Any, images: np.ndarray) -> np.ndarray:
    """Scaled means of the latents of uint8 images."""
    moments = autoencoder.encode(sd.moments_model, images)
    return np.split(moments, 2, axis=-1)[0] * sd.spec.autoencoder.latent_scale


def caption_sensitivity(
    sd: Any, root: pathlib.Path, count: int
) -> "dict[str, float]":
    """Denoising error with a wrong thing, and style, over the right ones."""
    rows = dataset.some(dataset.read_rows("known", root), count)
    latents = latents_of(sd, dataset.read_images(rows, root))
    texts = {
        "right": [row["text"][0] for row in rows],
        "thing": text_to_image.wrong_things(rows),
        "style": text_to_image.wrong_styles(rows),
    }
    return text_to_image.caption_sensitivity(sd, latents, texts)


def unseen(sd: Any, root: pathlib.Path, count: int) -> "dict[str, float]":
    """Denoising error of what was never shown together.

    Styles and things (`pairs_`), colours and things (`colours_`), by quarter
    of the schedule.
    """
    result = {}
    for table in ("pairs", "colours"):
        rows = dataset.some(dataset.read_rows(table, root), count)
        latents = latents_of(sd, dataset.read_images(rows, root))
        token_ids = sd.tokenizer([row["text"][0] for row in rows])
        context = measures.encode_tokens(sd.text_encoder, token_ids)
        errors = measures.bucket_errors(
            sd.diffusion_model, NoiseSchedule(), latents, context
        )
        result |= {f"{table}_{key}": value for key, value in errors.items()}
    return result


# === Pictures ===


def grid(images: np.ndarray, columns: int = COLUMNS) -> Image.Image:
    """Images in rows, a white gap of 4 pixels between them."""
    size, gap = images.shape[1], 4
    rows = -(-len(images) // columns)
    step = size + gap
    sheet = Image.new("RGB", (columns * step - gap, rows * step - gap), "white")
    for index, image in enumerate(images):
        place = (index % columns * step, index // columns * step)
        sheet.paste(Image.fromarray(image), place)
    return sheet


def draw_grids(sd: Any, directory: pathlib.Path, options: Any) -> None:
    """Draws every group of `prompts`, a grid each."""
    for name in GRIDS:
        texts = list(getattr(prompts, name.upper()))
        parts = [
            sd.text_to_image(
                texts[begin : begin + CHUNK],
                seed=options.seed + begin,
            )
            for begin in range(0, len(texts), CHUNK)
        ]
        path = directory / f"{name}.png"
        grid(np.concatenate(parts)).save(path)
        print(f"{path}: {', '.join(texts)}", flush=True)


def draw_reconstructions(sd: Any, directory, root) -> None:
    """A held-out picture of each look above its reconstruction."""
    sets = autoencoder.held_out_sets(root)
    images = np.concatenate([images[:1] for images in sets.values()])
    again = measures.reconstruct(
        sd.moments_model,
        sd.decoder,
        images,
        sd.spec.autoencoder.latent_scale,
    )
    both = np.concatenate([images, again])
    grid(both, len(images)).save(directory / "reconstructions.png")


def evaluate(sd: Any, options: Any) -> "dict[str, float]":
    """All numbers."""
    results = autoencoder.reconstruction(
        sd.moments_model,
        sd.decoder,
        autoencoder.held_out_sets(options.data),
        sd.spec.autoencoder.latent_scale,
    )
    results |= caption_sensitivity(sd, options.data, options.pictures)
    return results | unseen(sd, options.data, options.pictures)


def main(arguments=None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", type=pathlib.Path, default=MODEL)
    parser.add_argument("--data", type=pathlib.Path, default=dataset.ROOT)
    parser.add_argument("--directory", type=pathlib.Path, default=DIRECTORY)
    parser.add_argument("--pictures", type=int, default=192)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    options.directory.mkdir(parents=True, exist_ok=True)
    sd = model.load(options.model)
    draw_reconstructions(sd, options.directory, options.data)
    draw_grids(sd, options.directory, options)
    results = evaluate(sd, options)
    path = options.directory / "evaluation.json"
    path.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
