"""Our side of `speed.py`, used as the documentation tells a user to.

One job a process; see `_speed_child.py`.
"""

import os
import shutil
import time
from pathlib import Path

os.environ.setdefault("KERAS_BACKEND", "tensorflow")

from benchmarks import _speed_child
from benchmarks import _speed_workers
from benchmarks._speed_sizes import GUIDANCE
from benchmarks._speed_sizes import LORA_LEARNING_RATE
from benchmarks._speed_sizes import PROMPT
from benchmarks._speed_sizes import SAMPLING_STEPS
from benchmarks._speed_sizes import SIZES
from benchmarks._speed_sizes import ready_batch


def train(job, ready=None):
    """Steps of `fit` on batches that are encoded already."""
    clock = _speed_child.Clock(job, ready)
    trainer = make_trainer(job)
    # After the library, which switches oneDNN on if it comes first.
    import tensorflow as tf

    from keras_sdft import devices

    batches = tf.data.Dataset.from_tensors(ready_batch(job))
    if job.get("buckets"):
        batches = batches.map(of_several_sizes)
    fit(trainer, batches.repeat(clock.count), clock)
    return clock.result(
        batch=job["batch"], device_peak=max(devices.peak_memory(), default=None)
    )


def share(job):
    """Steps of `fit` in several processes, each with a batch of its own.

    Together, or with `apart` each by itself. The steps are those of the
    slowest process, at whose end all images are trained.
    """
    whole = job["workers"] * job["batch"]
    own = job["batch"] if job.get("apart") else whole
    with _speed_workers.joined(job) as meet:
        import keras_sdft

        keras_sdft.distribution.use("auto")
        result = train(job | {"batch": own}, meet)
        keras_sdft.distribution.barrier()
    found = [result, *_speed_workers.results(job)]
    return max(found, key=lambda one: sum(one["steps"])) | {"batch": whole}


def recipe(job):
    """Image files and captions to updated weights, by `fit`."""
    clock = _speed_child.Clock(job)
    trainer = make_trainer(job)
    fill = 0.0
    model = trainer.stable_diffusion
    if job.get("cached"):
        batches, fill = cached_batches(model, job)
    else:
        batches = file_batches(model.tokenizer, job)
    fit(trainer, batches, clock)
    return clock.result(fill=fill, files=job["files"], batch=job["batch"])


def read(job):
    """Batches from files, or from the cache, without a network."""
    clock = _speed_child.Clock(job)
    model = make_model(job)
    if job.get("cached"):
        batches, _ = cached_batches(model, job)
    else:
        batches = file_batches(model.tokenizer, job)
    for _ in batches:
        if not clock.tick():
            break
    return clock.result(batch=job["batch"])


def start(job):
    """The first batch of a large set of files."""
    import keras_sdft

    clock = _speed_child.Clock(job)
    words = make_model(job).tokenizer
    # The same modules as for one example: the empty program.
    _ = keras_sdft.data.load
    empty, imported = _speed_child.memory_gb(), clock.now()
    next(iter(file_batches(words, job)))
    above = (_speed_child.memory_gb() - empty) * 1e9 / 2**30
    return {"first": clock.now(), "imported": imported, "above_gib": above}


def generate(job):
    """Images from text, by `text_to_image`."""
    clock = _speed_child.Clock(job)
    model = make_model(job)
    options = {"unconditional_guidance_scale": GUIDANCE, "seed": 0}
    model.text_to_image(PROMPT, num_steps=2, **options)
    while clock.tick():
        model.text_to_image(PROMPT, num_steps=SAMPLING_STEPS, **options)
    return clock.result()


def tokenizer(job):
    """The vocabulary of "tiny" in files that the peer reads."""
    from benchmarks._parity_models import write_tokenizer

    folder = Path(job["folder"])
    staged = folder.with_name(f"{folder.name}.part")
    shutil.rmtree(staged, ignore_errors=True)
    write_tokenizer(staged, SIZES[job["size"]].vocabulary, "end")
    staged.rename(folder)
    return {}


# === Parts ===


def make_model(job):
    """A model of the size; "tiny" with its weights, others with fresh ones."""
    import keras_sdft
    from keras_sdft import models

    side, size = job["pixels"], SIZES[job["size"]]
    options = {"remat": job.get("remat", False), "dtype": job.get("dtype")}
    if job["size"] == "tiny":
        return keras_sdft.StableDiffusion.from_preset(
            "tiny", side, side, **options
        )
    spec = models.StableDiffusionSpec(
        name=job["size"],
        diffusion_model=models.DiffusionModelSpec(
            widths=size.widths,
            blocks=size.blocks,
            num_heads=(size.heads,) * len(size.widths),
            context_width=size.text_width,
        ),
        text_encoder=models.TextEncoderSpec(
            vocabulary_size=size.vocabulary,
            width=size.text_width,
            depth=size.text_depth,
            num_heads=size.text_heads,
        ),
        autoencoder=models.AutoencoderSpec(
            encoder_widths=size.autoencoder,
            encoder_blocks=size.encoder_blocks,
            decoder_widths=size.autoencoder,
            decoder_blocks=size.decoder_blocks,
            groups=size.autoencoder_groups,
        ),
    )
    return keras_sdft.StableDiffusion(
        side, side, spec=spec, base="tiny", random_weights=True, **options
    )


def make_trainer(job):
    import keras_sdft

    if "lora" not in job:
        trainer = keras_sdft.Trainer(make_model(job))
        trainer.compile()
        return trainer
    lora = keras_sdft.adapters.LoRA(
        job["lora"], frozen_dtype=job["frozen_dtype"]
    )
    trainer = keras_sdft.Trainer(make_model(job), train=lora)
    trainer.compile(keras_sdft.training.AdamW(LORA_LEARNING_RATE))
    return trainer


def of_several_sizes(batch):
    """Returns the batch as a bucket's, whose height and width a graph lacks."""
    import tensorflow as tf

    found = batch["moments"]
    moments = tf.numpy_function(lambda values: values, [found], found.dtype)
    rows, _, _, channels = found.shape
    moments = tf.ensure_shape(moments, (rows, None, None, channels))
    return {**batch, "moments": moments}


def fit(trainer, batches, clock):
    """One epoch of the clock's steps."""
    import keras

    class Ticks(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            # Reading the loss waits for the step.
            float(logs["loss"])
            clock.tick()

    trainer.fit(
        batches, steps_per_epoch=clock.count, verbose=0, callbacks=[Ticks()]
    )


def file_batches(words, job, **options):
    import keras_sdft

    return keras_sdft.data.load(
        job["folder"],
        words,
        resolution=job["pixels"],
        batch_size=job["batch"],
        repeat=True,
        **{"crop": "random", **options},
    )


def cached_batches(model, job):
    """Batches of moments and contexts, and the seconds to encode them.

    The only place that knows of the cache. It is filled anew in every run.
    """
    import keras_sdft

    directory = Path(job["out"]).with_name("cache")
    shutil.rmtree(directory, ignore_errors=True)
    start = time.monotonic()
    cache = keras_sdft.encoding.Cache(directory, model, progress=False)
    batches = file_batches(model.tokenizer, job, crop="center", cache=cache)
    return batches, time.monotonic() - start


COMMANDS = {
    "train": train,
    "share": share,
    "recipe": recipe,
    "read": read,
    "start": start,
    "generate": generate,
    "tokenizer": tokenizer,
}
PACKAGES = (
    "keras-sdft",
    "tensorflow",
    "tensorflow-cpu",
    "jax",
    "jaxlib",
    "keras",
    "keras-cv",
    "numpy",
)

if __name__ == "__main__":
    _speed_child.main(COMMANDS, PACKAGES)
