"""Our side of `parity.py`: the twin of `_parity_peer.py`, same commands.

One command a process, so that a command's peak memory is its own. The tests
of the golden files use its functions too.
"""

import argparse
import json
import os
from functools import partial
from pathlib import Path

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")

import keras
import numpy as np
import tensorflow as tf

import keras_sdft
from keras_sdft import diffusion
from keras_sdft.formats import checkpoint as checkpoints
from keras_sdft.formats import safetensors_files
from keras_sdft.models.generation import guided_prediction
from keras_sdft.training.denoising import DenoisingLoss
from keras_sdft.training.objective import Objective


def load(folder, inputs, numerics="exact"):
    side = 8 * inputs["latents"].shape[1]
    return keras_sdft.StableDiffusion.from_preset(
        folder, side, side, numerics=numerics
    )


def predict_noise(model, latents, timesteps, context):
    width = model.spec.diffusion_model.timestep_width
    return model.diffusion_model(
        {
            "latent": latents,
            "timestep_embedding": diffusion.timestep_embedding(
                timesteps, width
            ),
            "context": context,
        }
    )


def run(model, inputs):
    """Every network's output."""
    positions = np.repeat(np.arange(77, dtype="int32")[None], 2, axis=0)
    outputs = {
        "text encoder": model.text_encoder(
            {"tokens": inputs["ids"], "positions": positions}
        ),
        "image encoder": model.moments_model(inputs["image"]),
        "diffusion model": predict_noise(
            model,
            tf.constant(inputs["latents"]),
            inputs["timesteps"],
            tf.constant(inputs["context"]),
        ),
        "decoder": model.decoder(inputs["latents"][:1]),
    }
    return {name: np.asarray(array) for name, array in outputs.items()}


def generate(model, inputs, steps):
    """The peer's DDIM, by our sampler: latents, and the image in [0, 1]."""
    predict = guided_prediction(
        model.diffusion_model,
        model.spec.diffusion_model.timestep_width,
        np.asarray(model.encode_text(str(inputs["prompt"]))),
        np.asarray(model.encode_text("")),
        7.5,
    )
    latents = diffusion.ddim(
        predict,
        keras.ops.convert_to_tensor(inputs["noise"]),
        model.schedule,
        diffusion.sampling_timesteps(steps, spacing="leading"),
        model.spec.prediction_type,
        final_alpha=model.schedule.alphas_cumprod[0],
    )
    image = np.clip(np.asarray(model.decoder(latents)) / 2 + 0.5, 0, 1)
    return {"generated_latents": np.asarray(latents), "image": image}


# === Training ===


class Training:
    """Losses, gradients and optimizer steps of one objective.

    Computed eagerly: for a handful of steps, tracing a graph takes longer.
    """

    def __init__(self, model, inputs, prediction_type, gamma):
        weighting = "constant"
        if gamma:
            weighting = partial(diffusion.min_snr, gamma=gamma)
        self.model = model
        self.inputs = inputs
        self.objective = DenoisingLoss(
            Objective(weighting=weighting),
            prediction_type,
            model.spec.zero_terminal_snr,
        )

    @property
    def variables(self):
        return self.model.diffusion_model.trainable_variables

    def batch(self, index):
        names = ("latents", "noise", "timesteps", "context")
        arrays = [self.inputs[f"train_{name}"][index] for name in names]
        arrays[2] = arrays[2].astype("int32")
        return [tf.constant(array) for array in arrays]

    def gradients(self, index):
        """The loss of a batch, and its gradients in the variables' order."""
        latents, noise, timesteps, context = self.batch(index)
        noised, target = self.objective.noised_example(
            latents, noise, timesteps
        )
        with tf.GradientTape() as tape:
            prediction = predict_noise(self.model, noised, timesteps, context)
            losses = self.objective.losses(prediction, target, timesteps)
            loss = tf.reduce_mean(losses)
        values = [variable.value for variable in self.variables]
        return float(loss), tape.gradient(loss, values)

    def take_steps(self, count, learning_rate=1e-4):
        """The peer's AdamW; the loss of each step."""
        optimizer = keras_sdft.training.AdamW(
            learning_rate, weight_decay=1e-2, global_clipnorm=1.0
        )
        optimizer.build(self.variables)
        losses = []
        for index in range(count):
            loss, gradients = self.gradients(index)
            optimizer.apply(gradients, self.variables)
            # Or they would still be there beside the next ones.
            del gradients
            losses.append(loss)
        return losses

    def in_their_layout(self, arrays):
        """Arrays in the variables' order as `Tensor`s by diffusers' key."""
        rows = checkpoints.network_rows("diffusion_model", self.model.spec)
        found = checkpoints.find_variables(self.model.diffusion_model, rows)
        by_variable = {
            id(variable): array
            for variable, array in zip(self.variables, arrays, strict=True)
        }
        return {
            row.theirs: _tensor(row, by_variable[id(found[row.theirs])])
            for row in rows
        }


def _tensor(row, array):
    def read():
        return checkpoints.to_theirs(row, np.asarray(array))

    return safetensors_files.Tensor(row.shape, "F32", read)


def train(model, inputs, out, prediction_type, gamma, steps):
    """Writes what the peer's `train` writes."""
    training = Training(model, inputs, prediction_type, gamma)
    loss, gradients = training.gradients(0)
    safetensors_files.write(
        out / "gradients.safetensors", training.in_their_layout(gradients)
    )
    del gradients
    losses = [loss]
    if steps:
        losses += training.take_steps(steps)
        safetensors_files.write(
            out / "trained.safetensors",
            training.in_their_layout(training.variables),
        )
    (out / "losses.json").write_text(json.dumps(losses))


def print_peak():
    """The last line: this process's peak memory in KiB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            print(line.split()[1])


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument(
        "command", choices=("run", "generate", "train", "versions")
    )
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--inputs", type=Path)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--steps", type=int, default=0)
    parser.add_argument("--prediction_type", default="epsilon")
    parser.add_argument("--gamma", type=float, default=0.0)
    parser.add_argument("--numerics", default="exact")
    arguments = parser.parse_args()
    if arguments.command == "versions":
        known = {"tensorflow": tf.__version__, "keras": keras.__version__}
        print(json.dumps(known))
        return
    inputs = dict(np.load(arguments.inputs))
    model = load(arguments.folder, inputs, arguments.numerics)
    if arguments.command == "train":
        train(
            model,
            inputs,
            arguments.out,
            arguments.prediction_type,
            arguments.gamma,
            arguments.steps,
        )
    elif arguments.command == "generate":
        np.savez(arguments.out, **generate(model, inputs, arguments.steps))
    else:
        results = run(model, inputs)
        ids = model.tokenizer([str(inputs["prompt"])])[0]
        np.savez(arguments.out, ids=ids, **results)
    print_peak()


if __name__ == "__main__":
    main()
