"""Trains the embedded model's image encoder and decoder.

`python -m scripts.pretrain_tiny.autoencoder`; again to go on where it stopped.
It begins with the weights that ship with the package, and ends by writing
`weights.npz`, whose latents are white. The library's `Trainer` trains diffusion
alone; here a loop of its own does, that resumes exactly. Must not know captions
or the diffusion model.
"""

import argparse
import pathlib
from typing import Any

import numpy as np
from keras import ops

from keras_sdft.encoding import sample_latents
from keras_sdft.models import PRESETS
from keras_sdft.models import StableDiffusionSpec
from keras_sdft.models import packaged
from keras_sdft.training.weight_average import WeightAverage
from scripts.pretrain_tiny import checkpoints
from scripts.pretrain_tiny import dataset
from scripts.pretrain_tiny import gradients
from scripts.pretrain_tiny import loop
from scripts.pretrain_tiny import measures
from scripts.pretrain_tiny import networks
from scripts.pretrain_tiny import whitening

DIRECTORY = pathlib.Path("build/pretrain/autoencoder")
STEPS = 7000
#: Held-out pictures of each look that PSNR is the mean of.
MEASURED = 48
CROP = 64
#: Crops of a step for each full picture of a step.
CROPS_PER_PICTURE = 4
FULL_SHARE = 0.2
GRADIENT_WEIGHT = 0.5
KL_WEIGHT = 1e-4
CHUNK = 16
#: Pictures that the whitening is fitted to.
NUM_WHITENED = 1024


def picture_loss(prediction: Any, images: Any) -> Any:
    """L1, plus L2, plus half the L1 of the gradients at two scales.

    Args:
        prediction: Float32 tensor `(B, H, W, 3)`.
        images: Float32 tensor of the same shape.

    Returns:
        Scalar float32 tensor.
    """
    error = prediction - images
    loss = ops.mean(ops.abs(error)) + ops.mean(ops.square(error))
    edges = _steepness(error)
    half = ops.average_pool(error, 2, 2, "valid")
    return loss + GRADIENT_WEIGHT * (edges + _steepness(half))


def _steepness(x):
    down = ops.mean(ops.abs(x[:, 1:] - x[:, :-1]))
    return down + ops.mean(ops.abs(x[:, :, 1:] - x[:, :, :-1]))


def divergence(moments: Any) -> Any:
    """The KL divergence from a standard normal, mean of all latents."""
    mean, log_variance = ops.split(moments, 2, axis=-1)
    variance = ops.exp(log_variance)
    return 0.5 * ops.mean(ops.square(mean) + variance - 1.0 - log_variance)


class Training:
    """The autoencoder, and what a step does.

    Args:
        spec: A `StableDiffusionSpec`.
        limits: `loop.Limits`.
        pictures: `dataset.Pictures` to train on.
        chances: Float array, the chance of each picture.
        directory: Path of the run.
        batch_size: Integer, full pictures of a step.
        learning_rate: Float.
        ema_decay: Float.
        seed: Integer >= 0.
        measure: Function of this object, or `None`.
        jit_compile: Boolean.
    """

    def __init__(
        self,
        spec: StableDiffusionSpec,
        limits: loop.Limits,
        pictures: dataset.Pictures,
        chances: np.ndarray,
        directory: pathlib.Path = DIRECTORY,
        batch_size: int = 5,
        learning_rate: float = 2e-3,
        ema_decay: float = 0.995,
        seed: int = 0,
        measure: Any = None,
        jit_compile: bool = False,
    ):
        self.spec = spec
        self.pictures, self.chances = pictures, chances
        self.directory, self.batch_size, self.seed = directory, batch_size, seed
        self.num_steps = limits.steps
        self.moments, self.decoder = networks.build_autoencoder(spec, seed)
        variables = (
            self.moments.trainable_variables + self.decoder.trainable_variables
        )
        self.average = WeightAverage(variables, ema_decay)
        schedule = gradients.FlatThenCosine(
            learning_rate, limits.steps, flat=0.0, floor=0.01
        )
        optimizer = gradients.make_optimizer(schedule, weight_decay=1e-3)
        step = gradients.make_step(
            self.loss, variables, optimizer, self.average, jit_compile
        )
        self.measure = None if measure is None else lambda: measure(self)
        groups = {
            "encoder": self.moments.variables,
            "decoder": self.decoder.variables,
            "optimizer": optimizer.variables,
            "average": self.average.variables,
        }
        self.run = loop.Run(
            directory,
            step,
            self.batch,
            groups,
            limits,
            lambda reports: {k: float(np.mean(v)) for k, v in reports.items()},
            self.measure,
            self.average,
        )

    def loss(self, batch: dict) -> "tuple[Any, dict]":
        """The loss of a batch of `images` and `latent_noise`."""
        images = batch["images"]
        moments = self.moments(images, training=True)
        scale = self.spec.autoencoder.latent_scale
        latents = sample_latents(moments, batch["latent_noise"], scale)
        prediction = self.decoder(latents, training=True)
        loss = picture_loss(prediction, images)
        squared = ops.mean(ops.square(prediction - images))
        total = loss + KL_WEIGHT * divergence(moments)
        return total, {
            "squared_error": squared,
            "kl": divergence(moments),
        }

    def batch(self, step: int) -> dict:
        """Crops, or full pictures in one of five steps and at the end."""
        generator = np.random.default_rng([self.seed, step])
        last = step >= (1.0 - FULL_SHARE) * self.num_steps
        full = last or step % round(1 / FULL_SHARE) == 0
        count = self.batch_size * (1 if full else CROPS_PER_PICTURE)
        indices = generator.choice(len(self.chances), count, p=self.chances)
        images = self.pictures.images[indices]
        if not full:
            images = _crops(images, generator)
        flipped = generator.random(count) < 0.5
        images = np.where(
            flipped[:, None, None, None], images[:, :, ::-1], images
        )
        size = images.shape[1] // 8
        channels = self.spec.autoencoder.latent_channels
        noise = generator.standard_normal(
            (count, size, size, channels), "float32"
        )
        return {"images": dataset.to_float(images), "latent_noise": noise}

    def finish(self) -> dict:
        """Whitens the averaged weights' latents and writes `weights.npz`.

        The weights that training goes on with stay as they are.

        Returns:
            Dictionary of what was measured before and after.
        """
        self.run.step_function.sync()
        models = (self.moments, self.decoder)
        with self.average.swapped_in():
            kept = [model.get_weights() for model in models]
            notes = self._whiten()
            groups = {
                "encoder": self.moments.variables,
                "decoder": self.decoder.variables,
            }
            checkpoints.save(self.directory / "weights.npz", groups, notes)
            for model, weights in zip(models, kept, strict=True):
                model.set_weights(weights)
        return notes

    def _whiten(self):
        images = self.pictures.images
        generator = np.random.default_rng(self.seed)
        count = min(NUM_WHITENED, len(images))
        images = images[generator.choice(len(images), count, replace=False)]
        scale = self.spec.autoencoder.latent_scale
        before = encode(self.moments, images)
        whitening.fold(self.moments, self.decoder, before, scale)
        after = encode(self.moments, images)
        return {
            "step": self.run.step,
            "minutes": self.run.seconds / 60,
            "covariance": whitening.covariance(before).round(4).tolist(),
            "whitened": whitening.covariance(after, scale).round(4).tolist(),
            **(self.measure() if self.measure else {}),
        }


def _crops(images, generator):
    limit = images.shape[1] - CROP + 1
    corners = generator.integers(0, limit, (len(images), 2))
    return np.stack(
        [
            image[top : top + CROP, left : left + CROP]
            for image, (top, left) in zip(images, corners, strict=True)
        ]
    )


def encode(moments_model: Any, images: np.ndarray) -> np.ndarray:
    """Moments `(N, H/8, W/8, 8)` of uint8 images, float32."""
    return measures.in_chunks(
        lambda part: moments_model.predict_on_batch(dataset.to_float(part)),
        images,
        size=CHUNK,
    )


def load(spec: StableDiffusionSpec, directory: pathlib.Path = DIRECTORY):
    """The trained moments model and decoder, with white latents."""
    moments, decoder = networks.build_autoencoder(spec)
    groups = {"encoder": moments.variables, "decoder": decoder.variables}
    checkpoints.load(directory / "weights.npz", groups)
    return moments, decoder


def held_out_sets(root: pathlib.Path) -> "dict[str, np.ndarray]":
    """Pictures of things that the autoencoder is not trained on, by look."""
    tables = ("train", "pairs", "ink")
    rows = [r for t in tables for r in dataset.read_rows(t, root)]
    rows = [row for row in rows if dataset.held_out(row)]
    result = {}
    for look in sorted({row["look"] for row in rows}):
        mine = [row for row in rows if row["look"] == look]
        chosen = dataset.some(mine, MEASURED)
        result[look] = dataset.read_images(chosen, root)
    return result


def make_measure(root: pathlib.Path) -> Any:
    """A function that measures reconstruction of the held-out pictures."""
    sets = held_out_sets(root)

    def measure(training):
        scale = training.spec.autoencoder.latent_scale
        return reconstruction(training.moments, training.decoder, sets, scale)

    return measure


def reconstruction(
    moments_model: Any,
    decoder: Any,
    sets: "dict[str, np.ndarray]",
    scale: float,
) -> "dict[str, float]":
    """PSNR in dB by look, and the mean of all looks."""
    found = {
        f"psnr_{name}": measures.psnr(
            images, measures.reconstruct(moments_model, decoder, images, scale)
        )
        for name, images in sets.items()
    }
    return {"psnr": float(np.mean(list(found.values()))), **found}


def training_pictures(
    root: pathlib.Path,
) -> "tuple[dataset.Pictures, np.ndarray]":
    """All pictures but those of the held-out things, and their chances.

    The ink is among them: what the autoencoder cannot draw, no fine-tune
    teaches.
    """
    parts = [
        dataset.read(table, root, lambda row: not dataset.held_out(row))
        for table in ("train", "ink")
    ]
    images = np.concatenate([part.images for part in parts])
    rows = [row for part in parts for row in part.rows]
    chances = np.array([row["times"] for row in rows], "float64")
    return dataset.Pictures(images, rows), chances / chances.sum()


def train(arguments=None) -> bool:
    """Trains as the command line says; whether all steps are done."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    loop.add_arguments(parser, STEPS)
    parser.add_argument("--data", type=pathlib.Path, default=dataset.ROOT)
    parser.add_argument("--directory", type=pathlib.Path, default=DIRECTORY)
    parser.add_argument("--batch_size", type=int, default=5)
    parser.add_argument("--learning_rate", type=float, default=1e-3)
    parser.add_argument("--ema_decay", type=float, default=0.995)
    parser.add_argument("--from_nothing", action="store_true")
    parser.add_argument(
        "--measure", action="store_true", help="PSNR of the packaged one, alone"
    )
    options = parser.parse_args(arguments)
    if options.measure:
        print(measure_packaged(options.data))
        return True
    return run(options)


def measure_packaged(root: pathlib.Path) -> "dict[str, float]":
    """PSNR of the autoencoder that ships with the package."""
    spec = networks.tiny_spec()
    models = networks.build_autoencoder(spec)
    start_from_package(*models)
    scale = spec.autoencoder.latent_scale
    return reconstruction(*models, held_out_sets(root), scale)


def start_from_package(moments_model: Any, decoder: Any) -> None:
    """Fills both networks with the weights that ship with the package."""
    directory = PRESETS["tiny"].weights
    packaged.read(directory, "image_encoder", moments_model)
    packaged.read(directory, "decoder", decoder)


def run(options: Any) -> bool:
    """Trains until a limit; whether all steps are done."""
    pictures, chances = training_pictures(options.data)
    training = Training(
        networks.tiny_spec(),
        loop.limits_of(options),
        pictures,
        chances,
        options.directory,
        options.batch_size,
        options.learning_rate,
        options.ema_decay,
        options.seed,
        make_measure(options.data),
        options.jit_compile,
    )
    if not options.from_nothing:
        start_from_package(training.moments, training.decoder)
    training.run.resume()
    training.run.train()
    done = training.run.step >= options.steps
    if done:
        print(training.finish())
    return done


if __name__ == "__main__":
    train()
