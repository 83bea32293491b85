"""Trains the embedded model's text encoder and U-Net together.

`python -m scripts.pretrain_tiny.text_to_image`, after `autoencoder`; again
to go on where it stopped. The library's `Trainer` trains the diffusion
model alone and on TensorFlow alone; here the text encoder learns too, on
any Keras backend, with the same objective and the same draws. Must not
know pictures' files or how latents were made.
"""

import argparse
import pathlib
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_sdft.diffusion import NoiseSchedule
from keras_sdft.diffusion import gaussian
from keras_sdft.diffusion import stateless_seed
from keras_sdft.diffusion import timestep_embedding
from keras_sdft.encoding import sample_latents
from keras_sdft.models import StableDiffusionSpec
from keras_sdft.training.denoising import DenoisingLoss
from keras_sdft.training.denoising import squared_error
from keras_sdft.training.objective import Objective
from keras_sdft.training.weight_average import WeightAverage
from scripts.pretrain_tiny import autoencoder
from scripts.pretrain_tiny import checkpoints
from scripts.pretrain_tiny import dataset
from scripts.pretrain_tiny import gradients
from scripts.pretrain_tiny import loop
from scripts.pretrain_tiny import measures
from scripts.pretrain_tiny import networks
from scripts.pretrain_tiny.examples import Examples
from scripts.pretrain_tiny.examples import read_examples

DIRECTORY = pathlib.Path("build/pretrain/text_to_image")
SETS = "noto:1,noto-recoloured:0.25"
VALIDATION = "noto-composition"
STEPS = 16000
GAMMA = 5.0


def weighting(snr: np.ndarray, prediction_type: str) -> np.ndarray:
    """`min(SNR + 1, 5) / SNR`: more weight where the caption decides.

    At low signal it is that of v-prediction; min-SNR of the noise would
    weigh those steps least, in which all there is to go by is the words.

    Args:
        snr: Float array `(T,)`.
        prediction_type: `"epsilon"`.

    Returns:
        Float32 array `(T,)`.
    """
    if prediction_type != "epsilon":
        raise ValueError(
            "This weighting is for the prediction of noise. Received: "
            f"prediction_type={prediction_type!r}."
        )
    snr = np.asarray(snr, "float64")
    return (np.minimum(snr + 1.0, GAMMA) / snr).astype("float32")


def spread_timesteps(batch_size: int, seed: Any, num_timesteps: int) -> Any:
    """One timestep for each example, one from each of as many equal ranges.

    Args:
        batch_size: Integer `B`.
        seed: A `StatelessSeed`.
        num_timesteps: Integer `T`.

    Returns:
        Int32 tensor `(B,)` in `[0, T)`, rising.
    """
    place = keras.random.uniform((batch_size,), dtype="float32", seed=seed)
    share = (ops.arange(batch_size, dtype="float32") + place) / batch_size
    timesteps = ops.cast(ops.floor(share * num_timesteps), "int32")
    return ops.clip(timesteps, 0, num_timesteps - 1)


class Training:
    """The text encoder and the U-Net, and what a step does.

    Args:
        spec: A `StableDiffusionSpec`.
        limits: `loop.Limits`.
        examples: `Examples` to train on.
        directory: Path of the run.
        batch_size: Integer.
        learning_rate: Float.
        ema_decay: Float.
        seed: Integer >= 0.
        dtype: Name of a dtype policy, or `None`.
        measure: Function of this object, or `None`.
        jit_compile: Boolean.
    """

    def __init__(
        self,
        spec: StableDiffusionSpec,
        limits: loop.Limits,
        examples: Examples,
        directory: pathlib.Path = DIRECTORY,
        batch_size: int = 32,
        learning_rate: float = 5e-4,
        ema_decay: float = 0.999,
        seed: int = 0,
        dtype: "str | None" = None,
        measure: Any = None,
        jit_compile: bool = False,
    ):
        self.spec, self.examples, self.seed = spec, examples, seed
        self.directory, self.batch_size = directory, batch_size
        self.schedule = NoiseSchedule()
        self.objective = DenoisingLoss(
            Objective(weighting=weighting), spec.prediction_type
        )
        self.text_encoder, self.unet = networks.build_text_to_image(
            spec, seed, dtype
        )
        variables = (
            self.text_encoder.trainable_variables
            + self.unet.trainable_variables
        )
        self.average = WeightAverage(variables, ema_decay)
        optimizer = gradients.make_optimizer(
            gradients.FlatThenCosine(learning_rate, limits.steps, flat=0.8)
        )
        step = gradients.make_step(
            self.loss, variables, optimizer, self.average, jit_compile
        )
        groups = {
            "text_encoder": self.text_encoder.variables,
            "diffusion_model": self.unet.variables,
            "optimizer": optimizer.variables,
            "average": self.average.variables,
        }
        self.run = loop.Run(
            directory,
            step,
            self.batch,
            groups,
            limits,
            _summary,
            None if measure is None else lambda: measure(self),
            self.average,
        )

    def batch(self, step: int) -> dict:
        """The examples of a step, a pure function of it."""
        generator = np.random.default_rng([self.seed, step])
        return self.examples.draw(self.batch_size, generator)

    def loss(self, batch: dict) -> "tuple[Any, dict]":
        """The denoising loss of a batch of `moments` and `token_ids`."""
        step = batch["step"]
        shape = (*ops.shape(batch["moments"])[:3], self._channels)
        timesteps = spread_timesteps(
            self.batch_size,
            stateless_seed(self.seed, "timesteps", step),
            self.schedule.num_train_timesteps,
        )
        latents = sample_latents(
            batch["moments"],
            gaussian(shape, stateless_seed(self.seed, "latents", step)),
            self.spec.autoencoder.latent_scale,
        )
        noise = gaussian(shape, stateless_seed(self.seed, "noise", step))
        noised, target = self.objective.noised_example(
            latents, noise, timesteps
        )
        prediction = self._predict(noised, timesteps, batch["token_ids"])
        losses = self.objective.losses(prediction, target, timesteps)
        return ops.mean(losses), {
            "errors": squared_error(prediction, target),
            "timesteps": timesteps,
        }

    def _predict(self, noised: Any, timesteps: Any, token_ids: Any) -> Any:
        length = self.spec.text_encoder.max_length
        positions = ops.broadcast_to(
            ops.arange(length, dtype="int32"), ops.shape(token_ids)
        )
        context = self.text_encoder(
            {"tokens": token_ids, "positions": positions}, training=True
        )
        width = self.spec.diffusion_model.timestep_width
        return self.unet(
            {
                "latent": noised,
                "timestep_embedding": timestep_embedding(timesteps, width),
                "context": context,
            },
            training=True,
        )

    @property
    def _channels(self) -> int:
        return self.spec.autoencoder.latent_channels

    def finish(self) -> None:
        """Writes the averaged weights to `weights.npz`."""
        self.run.step_function.sync()
        with self.average.swapped_in():
            groups = {
                "text_encoder": self.text_encoder.variables,
                "diffusion_model": self.unet.variables,
            }
            notes = {
                "step": self.run.step,
                "minutes": self.run.seconds / 60,
                "batch_size": self.batch_size,
                "examples": len(self.examples),
                "captions": len({c[0] for c in self.examples.captions}),
                "blocks": self.spec.diffusion_model.blocks,
            }
            path = self.directory / "weights.npz"
            checkpoints.save(path, groups, notes)


def _summary(reports):
    errors = np.concatenate(reports["errors"])
    timesteps = np.concatenate(reports["timesteps"])
    means = measures.by_bucket(errors, timesteps)
    return {f"mse_{index}": mean for index, mean in enumerate(means)}


def load(spec: StableDiffusionSpec, directory: pathlib.Path = DIRECTORY):
    """The trained text encoder and diffusion model."""
    text_encoder, unet = networks.build_text_to_image(spec)
    groups = {
        "text_encoder": text_encoder.variables,
        "diffusion_model": unet.variables,
    }
    checkpoints.load(directory / "weights.npz", groups)
    return text_encoder, unet


# === What is measured on the way ===


def make_measure(
    base: Examples, validation: Examples, num_prompts: int = 48, count: int = 96
) -> Any:
    """A function that asks whether captions are heeded.

    Args:
        base: `Examples` that retrieval searches, all of them trained on.
        validation: `Examples` that are not trained on.
        num_prompts: Integer, prompts of the retrieval.
        count: Integer, pictures for the conditioning ratio.

    Returns:
        Function of a `Training` that returns numbers by column.
    """
    generator = np.random.default_rng(0)
    order = generator.permutation(len(base))
    asked, pictures = order[:num_prompts], order[:count]

    def measure(training):
        scale = training.spec.autoencoder.latent_scale
        schedule, unet = training.schedule, training.unet
        latents = base.latents(scale)
        token_ids = base.first_token_ids()

        def encode(ids):
            return measures.encode_tokens(training.text_encoder, ids)

        result = measures.bucket_errors(
            unet,
            schedule,
            validation.latents(scale),
            encode(validation.first_token_ids()),
        )
        context = encode(token_ids[pictures])
        result |= measures.conditioning(
            unet, schedule, latents[pictures], context
        )
        drawn = measures.draw_latents(
            unet,
            schedule,
            encode(token_ids[asked]),
            encode(base.tokens([""])),
            latents.shape[1:],
        )
        return result | measures.retrieval(drawn, latents, asked)

    return measure


def main(arguments=None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    loop.add_arguments(parser, STEPS)
    parser.add_argument("--directory", type=pathlib.Path, default=DIRECTORY)
    parser.add_argument(
        "--autoencoder", type=pathlib.Path, default=autoencoder.DIRECTORY
    )
    parser.add_argument("--tokens", type=pathlib.Path, default=dataset.TOKENS)
    parser.add_argument("--sets", type=dataset.parse_weights, default=SETS)
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--blocks", type=int, help="U-Net blocks per level")
    parser.add_argument("--learning_rate", type=float, default=5e-4)
    parser.add_argument("--ema_decay", type=float, default=0.999)
    parser.add_argument("--names", type=int, help="at most so many names")
    parser.add_argument("--dtype", help="for example mixed_bfloat16")
    options = parser.parse_args(arguments)
    spec = networks.tiny_spec(options.blocks)
    tokens = dataset.read_tokens(options.tokens)
    moments_model, _ = autoencoder.load(spec, options.autoencoder)
    names = dataset.taught_names(options.icons, options.names)

    def examples(weights):
        return read_examples(
            weights,
            options.icons,
            moments_model,
            options.autoencoder,
            tokens,
            names,
        )

    measure = make_measure(
        examples({dataset.BASE: 1.0}), examples({VALIDATION: 1.0})
    )
    training = Training(
        spec,
        loop.limits_of(options),
        examples(options.sets),
        options.directory,
        options.batch_size,
        options.learning_rate,
        options.ema_decay,
        options.seed,
        options.dtype,
        measure,
        options.jit_compile,
    )
    training.run.resume()
    training.run.train()
    training.finish()


if __name__ == "__main__":
    main()
