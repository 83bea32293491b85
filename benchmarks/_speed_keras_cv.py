"""KerasCV by itself, as the second peer of `speed.py`.

Its networks and its `text_to_image`, and the plain `fit` around them that
Keras' own examples write. Nothing of ours is imported, so that what our
package sets up (oneDNN) is left as TensorFlow has it. KerasCV fixes its
widths: for "mid" its blocks are laid out in its own order.

`job["variant"]`: "plain" leaves every default, under which Keras compiles
with XLA; "graph" does not compile.
"""

import importlib.util
import os
import types
from pathlib import Path

os.environ["KERAS_BACKEND"] = "tensorflow"

import keras
import numpy as np
import tensorflow as tf
from keras_cv.models import StableDiffusion
from keras_cv.models.stable_diffusion import Decoder
from keras_cv.models.stable_diffusion import DiffusionModel
from keras_cv.models.stable_diffusion import SimpleTokenizer
from keras_cv.models.stable_diffusion import TextEncoder
from keras_cv.src.models.stable_diffusion import text_encoder as clip
from keras_cv.src.models.stable_diffusion.attention_block import AttentionBlock
from keras_cv.src.models.stable_diffusion.padded_conv2d import PaddedConv2D
from keras_cv.src.models.stable_diffusion.resnet_block import ResnetBlock

from benchmarks import _speed_child
from benchmarks._speed_sizes import ADAMW
from benchmarks._speed_sizes import BETAS
from benchmarks._speed_sizes import CLIP_NORM
from benchmarks._speed_sizes import GUIDANCE
from benchmarks._speed_sizes import LATENT_SCALE
from benchmarks._speed_sizes import LENGTH
from benchmarks._speed_sizes import PROMPT
from benchmarks._speed_sizes import SAMPLING_STEPS
from benchmarks._speed_sizes import SCHEDULE
from benchmarks._speed_sizes import SIZES
from benchmarks._speed_sizes import ready_batch

ROOT = Path(__file__).resolve().parent.parent
MERGES = ROOT / "keras_sdft" / "models" / "tiny" / "merges.txt.gz"


def train(job):
    """Steps of a plain `fit` on batches that are encoded already."""
    clock = _speed_child.Clock(job)
    size = SIZES[job["size"]]
    trainer = PlainTrainer(unet(job), size.widths[0])
    options = {} if job["variant"] == "plain" else {"jit_compile": False}
    optimizer = keras.optimizers.AdamW(
        **ADAMW,
        beta_1=BETAS[0],
        beta_2=BETAS[1],
        global_clipnorm=CLIP_NORM,
    )
    trainer.compile(optimizer=optimizer, **options)
    batches = tf.data.Dataset.from_tensors(ready_batch(job))
    trainer.fit(
        batches.repeat(clock.count), verbose=0, callbacks=[Ticks(clock)]
    )
    return clock.result()


def generate(job):
    """Images from text, by `text_to_image`."""
    clock = _speed_child.Clock(job)
    model = stable_diffusion(job)
    options = {"unconditional_guidance_scale": GUIDANCE, "seed": 0}
    model.text_to_image(PROMPT, num_steps=2, **options)
    while clock.tick():
        model.text_to_image(PROMPT, num_steps=SAMPLING_STEPS, **options)
    return clock.result()


# === Training ===


class PlainTrainer(keras.Model):
    """The training step of Keras' examples, on the right noise schedule."""

    def __init__(self, network, timestep_width):
        super().__init__()
        self.network = network
        betas = np.linspace(
            SCHEDULE["beta_start"] ** 0.5,
            SCHEDULE["beta_end"] ** 0.5,
            SCHEDULE["num_train_timesteps"],
        )
        kept = np.cumprod(1.0 - betas**2).astype("float32")
        self.signal = tf.constant(np.sqrt(kept)[:, None, None, None])
        self.noise = tf.constant(np.sqrt(1.0 - kept)[:, None, None, None])
        half = timestep_width // 2
        steps = np.arange(len(kept), dtype="float32")[:, None]
        angles = steps * np.exp(-np.log(10000.0) * np.arange(half) / half)
        table = np.concatenate([np.cos(angles), np.sin(angles)], axis=1)
        self.embeddings = tf.constant(table.astype("float32"))

    def train_step(self, data):
        mean, log_variance = tf.split(data["moments"], 2, axis=-1)
        drawn = tf.random.normal(tf.shape(mean))
        latents = (mean + tf.exp(0.5 * log_variance) * drawn) * LATENT_SCALE
        count = tf.shape(latents)[0]
        timesteps = tf.random.uniform(
            (count,), 0, SCHEDULE["num_train_timesteps"], tf.int32
        )
        noise = tf.random.normal(tf.shape(latents))
        noised = (
            tf.gather(self.signal, timesteps) * latents
            + tf.gather(self.noise, timesteps) * noise
        )
        inputs = {
            "latent": noised,
            "timestep_embedding": tf.gather(self.embeddings, timesteps),
            "context": data["context"],
        }
        with tf.GradientTape() as tape:
            prediction = self.network(inputs, training=True)
            loss = tf.reduce_mean(tf.square(noise - prediction))
        weights = self.network.trainable_variables
        gradients = tape.gradient(loss, weights)
        self.optimizer.apply_gradients(zip(gradients, weights, strict=True))
        return {"loss": loss}


class Ticks(keras.callbacks.Callback):
    """Tells a clock of the end of every step."""

    def __init__(self, clock):
        super().__init__()
        self.clock = clock

    def on_train_batch_end(self, batch, logs=None):
        # Reading the loss waits for the step.
        float(logs["loss"])
        self.clock.tick()


# === Networks ===


def unet(job):
    side, size = job["pixels"], SIZES[job["size"]]
    if job["size"] == "full":
        return DiffusionModel(side, side, LENGTH, download_weights=False)
    spec = types.SimpleNamespace(
        widths=size.widths,
        blocks=size.blocks,
        num_heads=(size.heads,) * len(size.widths),
        context_width=size.text_width,
        timestep_width=size.widths[0],
        linear_projection=False,
        groups=32,
    )
    # The tests' own copy of KerasCV's layout, with widths as an argument.
    path = ROOT / "tests" / "keras_cv_unet.py"
    found = importlib.util.spec_from_file_location("keras_cv_unet", path)
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module.narrow_keras_cv_unet(spec, side // 8)


def text_encoder(job):
    size = SIZES[job["size"]]
    if job["size"] == "full":
        return TextEncoder(LENGTH, download_weights=False)
    inputs = [
        keras.layers.Input((LENGTH,), dtype="int32", name=name)
        for name in ("tokens", "positions")
    ]
    x = clip.CLIPEmbedding(size.vocabulary, size.text_width, LENGTH)(inputs)
    for _ in range(size.text_depth):
        x = clip.CLIPEncoderLayer(
            size.text_width, size.text_heads, activation=clip.quick_gelu
        )(x)
    x = keras.layers.LayerNormalization(epsilon=1e-5)(x)
    return keras.Model(inputs, x)


def decoder(job):
    side, size = job["pixels"], SIZES[job["size"]]
    if job["size"] == "full":
        return Decoder(side, side, download_weights=False)
    widths = list(reversed(size.autoencoder))
    layers = [
        keras.layers.Input((side // 8, side // 8, 4)),
        keras.layers.Rescaling(1.0 / LATENT_SCALE),
        PaddedConv2D(4, 1),
        PaddedConv2D(widths[0], 3, padding=1),
        ResnetBlock(widths[0]),
        AttentionBlock(widths[0]),
        ResnetBlock(widths[0]),
    ]
    for level, width in enumerate(widths):
        if level:
            layers.append(keras.layers.UpSampling2D(2))
            layers.append(PaddedConv2D(widths[level - 1], 3, padding=1))
        layers += [ResnetBlock(width) for _ in range(size.decoder_blocks)]
    layers += [
        keras.layers.GroupNormalization(epsilon=1e-5),
        keras.layers.Activation("swish"),
        PaddedConv2D(3, 3, padding=1),
    ]
    return keras.Sequential(layers)


class _StableDiffusion(StableDiffusion):
    """With parts that are given instead of downloaded."""

    timestep_width = 320

    def _get_timestep_embedding(self, timestep, batch_size):
        return super()._get_timestep_embedding(
            timestep, batch_size, dim=self.timestep_width
        )


def stable_diffusion(job):
    """KerasCV's own object around networks with fresh weights."""
    options = {} if job["variant"] == "plain" else {"jit_compile": False}
    model = _StableDiffusion(job["pixels"], job["pixels"], **options)
    model.timestep_width = SIZES[job["size"]].widths[0]
    parts = {
        "_text_encoder": text_encoder(job),
        "_diffusion_model": unet(job),
        "_decoder": decoder(job),
    }
    for name, part in parts.items():
        if model.jit_compile:
            part.compile(jit_compile=True)
        setattr(model, name, part)
    model._tokenizer = SimpleTokenizer(str(MERGES))
    return model


COMMANDS = {"train": train, "generate": generate}
PACKAGES = ("tensorflow", "keras", "keras-cv", "numpy")

if __name__ == "__main__":
    _speed_child.main(COMMANDS, PACKAGES)
