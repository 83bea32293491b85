"""What both backends compute from the same weights, batches and draws.

`python -m tests.jax.both DIRECTORY` writes the answers of the backend that
KERAS_BACKEND names, which the tests compare.
"""

import os
import sys
from pathlib import Path

import numpy as np

B, SIDE, STEPS = 4, 8, 4


def model(seed=0, **options):
    """Makes the micro model, with every weight of its U-Net drawn."""
    from keras_sdft import models
    from tests.conftest import make_micro_spec
    from tests.conftest import perturb

    spec = make_micro_spec()
    made = models.StableDiffusion(
        64, 64, spec=spec, base="tiny", random_weights=True, **options
    )
    perturb(made.diffusion_model, seed)
    return made


def batch(seed=0):
    """Makes a batch of images and captions, with class images and masks."""
    generator = np.random.default_rng(seed)
    images = generator.uniform(-1, 1, (B, 8 * SIDE, 8 * SIDE, 3))
    return {
        "images": images.astype("float32"),
        "token_ids": generator.integers(0, 2048, (B, 77)).astype("int32"),
        "example_weight": np.array([1, 0.5, 1, 1], "float32"),
        "prior": np.array([0, 0, 1, 1], "float32"),
        "loss_mask": generator.uniform(0, 1, (B, SIDE, SIDE, 1)).astype(
            "float32"
        ),
    }


def encoded(seed=0):
    """Makes a batch of moments and contexts, quicker to train on."""
    generator = np.random.default_rng(seed)
    found = batch(seed)
    del found["images"], found["token_ids"]
    moments = generator.normal(0, 1, (B, SIDE, SIDE, 8))
    context = generator.normal(0, 1, (B, 77, 16))
    return {
        **found,
        "moments": moments.astype("float32"),
        "context": context.astype("float32"),
    }


class GivenNoise:
    """In place of a `NoiseSampler`: the same numbers in every backend."""

    def __init__(self):
        from keras_sdft.training import Noise

        self.noise = Noise()
        generator = np.random.default_rng(7)
        shape = (STEPS, B, SIDE, SIDE, 4)
        names = ("noise", "latent_noise", "input_noise")
        self.tables = {
            name: generator.normal(0, 1, shape).astype("float32")
            for name in names
        }
        timesteps = generator.integers(0, 1000, (STEPS, B))
        self.tables["timesteps"] = timesteps.astype("int32")
        self.tables["share"] = np.full((STEPS, B), 1 / B, "float32")

    def __call__(self, shape, step):
        from keras import ops

        tables = {n: ops.convert_to_tensor(t) for n, t in self.tables.items()}
        row = step % STEPS
        return {n: ops.take(t, row, axis=0) for n, t in tables.items()}


def trainers():
    """Makes the trainers whose losses and gradients are compared, by name."""
    import keras_sdft
    from keras_sdft.adapters import LoRA
    from keras_sdft.training import Objective

    full = keras_sdft.Trainer(
        model(),
        train=["diffusion_model", "text_encoder"],
        objective=Objective(weighting="min_snr"),
    )
    objective = Objective(prediction_type="v_prediction", loss="huber")
    lora = keras_sdft.Trainer(
        model(remat=True),
        train=LoRA(2, targets="all", use_dora=True, text_encoder=True),
        objective=objective,
    )
    for index, variable in enumerate(lora.trainable_variables):
        generator = np.random.default_rng(index)
        variable.assign(variable + generator.normal(0, 0.1, variable.shape))
    return {"full": full, "lora": lora}


def gradients(trainer):
    """Returns the loss and all gradients of one batch, as arrays."""
    import keras
    from keras import ops

    from keras_sdft.encoding import build_encoders
    from keras_sdft.training import backend

    build_encoders(trainer.stable_diffusion, batch())
    step = backend.module("train_step")
    variables = trainer.trainable_variables
    given = {**batch(), **{n: t[0] for n, t in GivenNoise().tables.items()}}
    if not trainer.parts[0].name == "diffusion_model":
        given["base_target"] = np.array([0, 0, 1, 1], "float32")

    def compute(given):
        given = {n: ops.convert_to_tensor(v) for n, v in given.items()}
        found = step.loss_and_gradients(
            trainer.denoising, variables, given, sums=trainer.loss_metrics.sums
        )
        return found

    if keras.backend.backend() == "jax":
        import jax

        def pure(given):
            with keras.StatelessScope():
                return compute(given)

        found = jax.jit(pure)(given)
    else:
        import tensorflow as tf

        found = tf.function(compute)(given)
    loss, gradients, sums = found
    return {
        "loss": np.asarray(loss),
        **{f"sum_{i}": np.asarray(s) for i, s in enumerate(sums)},
        **{f"gradient_{i}": np.asarray(g) for i, g in enumerate(gradients)},
    }


# === The course of a training ===


def fit_trainer():
    """Makes a trainer with an average, micro-batches and three groups' end."""
    import keras

    import keras_sdft

    trainer = keras_sdft.Trainer(
        model(), ema_decay=0.5, gradient_accumulation_steps=2
    )
    trainer.noise_sampler = GivenNoise()
    # Whose steps are the gradients: an optimizer that normalizes them would
    # enlarge what rounding makes of the smallest.
    trainer.compile(keras.optimizers.SGD(0.1, global_clipnorm=1.0))
    return trainer


def dataset(first=0, last=STEPS):
    return _dataset([encoded(seed) for seed in range(first, last)])


def captioned(count):
    """Makes a dataset whose captions are encoded in the step."""
    batches = [encoded(seed) for seed in range(count)]
    for one, other in zip(batches, map(batch, range(count)), strict=True):
        del one["context"], one["prior"]
        one["token_ids"] = other["token_ids"]
    return _dataset(batches)


def _dataset(batches):
    import tensorflow as tf

    names = batches[0]
    return tf.data.Dataset.from_tensor_slices(
        {name: np.stack([one[name] for one in batches]) for name in names}
    )


def arrays(trainer):
    """Returns the weights, the average and the metrics of a training."""
    from keras_sdft.training.state import named_variables

    return {n: np.asarray(v) for n, v in named_variables(trainer).items()}


# === Optimizers ===

OPTIMIZERS = (
    "adamw",
    "adafactor",
    "lion",
    "muon",
    "schedule_free_adamw",
    "groups",
)


def make_optimizer(name, variables):
    """Makes an optimizer by name; `groups` are two, one of which stops."""
    from keras_sdft.training import AdamW
    from keras_sdft.training import Group
    from keras_sdft.training import optimizers
    from keras_sdft.training.optimizer_groups import OptimizerGroups

    if name != "groups":
        return optimizers.get(name, learning_rate=1e-2, weight_decay=0.1)
    first = Group(variables[:1], optimizer=AdamW(1e-2))
    second = Group(variables[1:], optimizer=AdamW(1e-3), stop_step=2)
    return OptimizerGroups([first, second], clipnorm=1.0)


def updates(name):
    """Returns the weights after each of three steps on given gradients."""
    import keras

    generator = np.random.default_rng(3)
    shapes = ((6, 8), (8,))
    variables = [
        keras.Variable(
            generator.normal(0, 1, s).astype("float32"), name=f"v{i}"
        )
        for i, s in enumerate(shapes)
    ]
    optimizer = make_optimizer(name, variables)
    optimizer.build(variables)
    found = {}
    for step in range(3):
        given = [generator.normal(0, 1, s).astype("float32") for s in shapes]
        optimizer.apply([keras.ops.convert_to_tensor(g) for g in given])
        for index, variable in enumerate(variables):
            found[f"{name}_{step}_{index}"] = np.asarray(variable)
    return found


def main(directory):
    directory = Path(directory)
    for name, trainer in trainers().items():
        np.savez(directory / f"{name}.npz", **gradients(trainer))
    found = [updates(name) for name in OPTIMIZERS]
    np.savez(
        directory / "updates.npz", **{k: v for o in found for k, v in o.items()}
    )
    trainer = fit_trainer()
    np.savez(directory / "start.npz", **arrays(trainer))
    trainer.fit(dataset(0, 2), verbose=0)
    trainer.save_checkpoint(directory / "checkpoint")
    trainer.fit(dataset(2, 4), verbose=0)
    np.savez(directory / "end.npz", **arrays(trainer))


if __name__ == "__main__":
    main(sys.argv[1])
    sys.stdout.flush()
    # What TensorFlow frees at exit takes seconds.
    os._exit(0)
