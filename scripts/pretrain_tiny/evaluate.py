"""Measures the trained embedded model and draws with it.

`python -m scripts.pretrain_tiny.evaluate` writes `evaluation.json` and
grids. Reads the training runs, or with `--package` what `package.py`
wrote. Must not know how training went.
"""

import argparse
import json
import pathlib
from typing import Any
from typing import NamedTuple

import numpy as np
from PIL import Image

from keras_sdft.diffusion import NoiseSchedule
from keras_sdft.models import packaged
from scripts.pretrain_tiny import autoencoder
from scripts.pretrain_tiny import dataset
from scripts.pretrain_tiny import measures
from scripts.pretrain_tiny import networks
from scripts.pretrain_tiny import prompts
from scripts.pretrain_tiny import text_to_image

DIRECTORY = pathlib.Path("build/pretrain/evaluation")
COLUMNS = 8


class Model(NamedTuple):
    """The networks of the model, and its latent scale."""

    text_encoder: Any
    diffusion_model: Any
    moments: Any
    decoder: Any
    scale: float

    def latents(self, images: np.ndarray) -> np.ndarray:
        """Scaled means of the latents of uint8 images."""
        moments = autoencoder.encode(self.moments, images)
        return np.split(moments, 2, axis=-1)[0] * self.scale

    def draw(self, token_ids, empty, guidance, seed=0) -> np.ndarray:
        """Latents `(N, 16, 16, 4)` drawn for token ids `(N, 77)`."""
        return measures.draw_latents(
            self.diffusion_model,
            NoiseSchedule(),
            measures.encode_tokens(self.text_encoder, token_ids),
            measures.encode_tokens(self.text_encoder, empty),
            (16, 16, self.diffusion_model.spec.latent_channels),
            guidance,
            seed=seed,
        )

    def pictures(self, latents: np.ndarray) -> np.ndarray:
        """uint8 images of latents."""
        decoded = measures.in_chunks(
            self.decoder.predict_on_batch, latents, size=16
        )
        return measures.to_uint8(decoded)


def load(options: Any) -> Model:
    """The model of the training runs, or the packaged one."""
    spec = networks.tiny_spec(options.blocks)
    scale = spec.autoencoder.latent_scale
    if options.package is None:
        model = Model(
            *text_to_image.load(spec, options.text_to_image),
            *autoencoder.load(spec, options.autoencoder),
            scale,
        )
    else:
        model = Model(
            *networks.build_text_to_image(spec),
            *networks.build_autoencoder(spec),
            scale,
        )
        for part, network in parts(model).items():
            packaged.read(options.package, part, network)
    return model


def parts(model: Model) -> "dict[str, Any]":
    """The networks by the library's names."""
    return {
        "text_encoder": model.text_encoder,
        # The same weights: the layer left out has none.
        "image_encoder": model.moments,
        "decoder": model.decoder,
        "diffusion_model": model.diffusion_model,
    }


# === Numbers ===


def reconstruction(model: Model, icons: pathlib.Path) -> "dict[str, float]":
    """PSNR in dB of pictures whose names the autoencoder never saw."""
    result = {}
    for name, images in autoencoder.held_out_sets(icons).items():
        again = measures.reconstruct(
            model.moments, model.decoder, images, model.scale
        )
        result[f"psnr_{name}"] = measures.psnr(images, again)
    return result


def heeding(model: Model, latents, token_ids) -> "dict[str, float]":
    """Wrong-caption to right-caption denoising error."""
    context = measures.encode_tokens(model.text_encoder, token_ids)
    return measures.conditioning(
        model.diffusion_model,
        NoiseSchedule(),
        latents,
        context,
        (200, 500, 800, 950),
    )


def composition(model: Model, tokens, icons, names) -> "dict[str, float]":
    """Denoising of colours and things never trained on together."""
    pictures = dataset.read(text_to_image.VALIDATION, icons)
    pictures = pictures.where(lambda row: row["name"] in names)
    context = measures.encode_tokens(
        model.text_encoder, tokens(pictures.captions)
    )
    latents = model.latents(pictures.images)
    schedule = NoiseSchedule()
    unet = model.diffusion_model
    return {
        **measures.bucket_errors(unet, schedule, latents, context),
        **{
            f"composition_{name}": value
            for name, value in measures.conditioning(
                unet, schedule, latents, context
            ).items()
        },
    }


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


def draw_grids(model: Model, tokens, directory, guidance, seed) -> None:
    """Draws every group of `prompts`, a grid each."""
    for name in ("THINGS", "COLOURED", "STYLED", "UNKNOWN"):
        texts = list(getattr(prompts, name))
        latents = model.draw(tokens(texts), tokens([""]), guidance, seed)
        path = directory / f"{name.lower()}.png"
        grid(model.pictures(latents)).save(path)
        print(f"{path}: {', '.join(texts)}", flush=True)


def draw_reconstructions(model: Model, directory, icons) -> None:
    """Held-out pictures above their reconstructions."""
    images = autoencoder.held_out_sets(icons)[dataset.BASE][:COLUMNS]
    again = measures.reconstruct(
        model.moments, model.decoder, images, model.scale
    )
    both = np.concatenate([images, again])
    grid(both).save(directory / "reconstructions.png")


def main(arguments=None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--icons", type=pathlib.Path, default=dataset.ICONS)
    parser.add_argument("--tokens", type=pathlib.Path, default=dataset.TOKENS)
    parser.add_argument("--directory", type=pathlib.Path, default=DIRECTORY)
    add_model_arguments(parser)
    parser.add_argument("--package", type=pathlib.Path)
    parser.add_argument("--names", type=int, help="at most so many names")
    parser.add_argument("--prompts", type=int, default=446)
    parser.add_argument("--guidance", type=float, default=3.0)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    options.directory.mkdir(parents=True, exist_ok=True)
    model = load(options)
    tokens = dataset.read_tokens(options.tokens)
    draw_reconstructions(model, options.directory, options.icons)
    draw_grids(model, tokens, options.directory, options.guidance, options.seed)
    results = evaluate(model, tokens, options)
    path = options.directory / "evaluation.json"
    path.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(results, indent=2))


def add_model_arguments(parser: Any) -> None:
    """Adds the options that say where the runs are."""
    parser.add_argument(
        "--autoencoder", type=pathlib.Path, default=autoencoder.DIRECTORY
    )
    parser.add_argument(
        "--text_to_image", type=pathlib.Path, default=text_to_image.DIRECTORY
    )
    parser.add_argument("--blocks", type=int, help="U-Net blocks per level")


def evaluate(model: Model, tokens: Any, options: Any) -> "dict[str, Any]":
    """All numbers; retrieval over `options.prompts` of the names."""
    names = dataset.taught_names(options.icons, options.names)
    base = dataset.read(dataset.BASE, options.icons)
    base = base.where(lambda row: row["name"] in names)
    latents, token_ids = model.latents(base.images), tokens(base.captions)
    order = np.random.default_rng(0).permutation(len(latents))
    some, asked = order[:192], order[: options.prompts]
    results = reconstruction(model, options.icons)
    results |= heeding(model, latents[some], token_ids[some])
    results |= composition(model, tokens, options.icons, names)
    drawn = model.draw(
        token_ids[asked], tokens([""]), options.guidance, options.seed
    )
    results |= {"prompts": len(asked), "gallery": len(latents)}
    return results | measures.retrieval(drawn, latents, asked)


if __name__ == "__main__":
    main()
