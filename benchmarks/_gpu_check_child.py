"""Our processes of `gpu_check.py`: card, equalities, steps, profile.

One job a process, on the device that its environment leaves; see
`_speed_child.py`. Takes either backend.
"""

import contextlib
import os
import shutil
import subprocess
from pathlib import Path

os.environ.setdefault("KERAS_BACKEND", "tensorflow")

import numpy as np

from benchmarks import _speed_child
from benchmarks import _speed_ours
from benchmarks._speed_sizes import ready_batch

# Queries, keys, and numbers of a head.
ATTENTION = {
    "full": [(4096, 4096, 40), (1024, 1024, 80), (256, 256, 160)]
    + [(4096, 77, 40)],
    "tiny": [(64, 64, 40), (64, 77, 40)],
}


def card(job):
    """What the backend computes on."""
    import keras

    from keras_sdft import devices

    found = {
        "backend": keras.backend.backend(),
        "platform": devices.platform(),
        "accelerators": devices.accelerators(),
        "memory": devices.accelerator_memory(),
    }
    if found["backend"] == "jax":
        found["compute_capability"] = devices.compute_capability()
    with contextlib.suppress(OSError):
        asked = ["--query-gpu=name,driver_version,memory.total"]
        told = subprocess.run(
            ["nvidia-smi", *asked, "--format=csv,noheader"],
            capture_output=True,
            text=True,
        )
        found["nvidia-smi"] = told.stdout.strip().splitlines()
    return found


# === Equalities ===


def gradients(job):
    """Writes the loss and the gradients of one batch on given draws."""
    _exact_products()
    trainer = _speed_ours.make_trainer(job)
    for index, variable in enumerate(trainer.trainable_variables):
        # A new LoRA's gradients are zero by half.
        generator = np.random.default_rng(index)
        noise = generator.normal(0, 0.01, variable.shape)
        variable.assign(variable + noise.astype("float32"))
    loss, found = _loss_and_gradients(trainer, _given(job))
    arrays = {f"{index:04}": np.asarray(g) for index, g in enumerate(found)}
    np.savez(job["arrays"], loss=np.asarray(loss), **arrays)
    return {"tensors": len(arrays)}


def _given(job):
    batch = ready_batch(job)
    generator = np.random.default_rng(1)
    shape = (*batch["moments"].shape[:3], 4)
    draws = {
        name: generator.normal(0, 1, shape).astype("float32")
        for name in ("noise", "latent_noise", "input_noise")
    }
    timesteps = generator.integers(0, 1000, len(batch["moments"]))
    share = batch["example_weight"] / len(batch["moments"])
    return {
        **batch,
        **draws,
        "timesteps": timesteps.astype("int32"),
        "share": share,
    }


def _loss_and_gradients(trainer, given):
    import keras

    from keras_sdft.models.kernels import gate
    from keras_sdft.training import backend

    step = backend.module("train_step")

    def compute(given):
        return step.loss_and_gradients(
            trainer.denoising, trainer.trainable_variables, given
        )[:2]

    if keras.backend.backend() == "jax":
        import jax

        def pure(given):
            with keras.StatelessScope():
                return compute(given)

        return jax.jit(pure)(given)
    import tensorflow as tf

    xla = trainer.uses_xla
    function = tf.function(compute, jit_compile=xla, autograph=False)
    with gate.inlined_blocks() if xla else contextlib.nullcontext():
        return function({k: tf.constant(v) for k, v in given.items()})


def _exact_products():
    """Switches TF32 off, whose products have three digits."""
    import keras

    if keras.backend.backend() == "jax":
        import jax

        jax.config.update("jax_default_matmul_precision", "highest")
        return
    import tensorflow as tf

    tf.config.experimental.enable_tensor_float_32_execution(False)


def attention(job):
    """Errors of attention in bfloat16, of values and gradients."""
    from keras_sdft.models.kernels import attention as kernel
    from keras_sdft.models.kernels import gate

    _exact_products()
    found = []
    for rows, columns, size in ATTENTION[job["size"]]:
        generator = np.random.default_rng(0)
        shapes = [(1, n, 8, size) for n in (rows, columns, columns, rows)]
        given = [generator.normal(size=s).astype("float32") for s in shapes]
        given[0] *= size**-0.5
        given = [_cast(_cast(x, "bfloat16"), "float32") for x in given]
        exact = _value_and_gradients(_plain_attention, given)
        half = [_cast(x, "bfloat16") for x in given]
        errors = [
            relative_error(a, b)
            for a, b in zip(
                _value_and_gradients(kernel.attend, half), exact, strict=True
            )
        ]
        found.append(
            {
                "name": f"attention of {rows} by {columns}, heads of {size}",
                "cudnn": gate.attends_by_cudnn("bfloat16", size, rows, columns),
                "errors": dict(
                    zip(("y", "dq", "dk", "dv"), errors, strict=True)
                ),
            }
        )
    return {"attention": found}


def _plain_attention(query, key, value):
    from keras import ops

    scores = ops.einsum("bshd,bthd->bhst", query, key)
    return ops.einsum("bhst,bthd->bshd", ops.softmax(scores), value)


def _cast(x, dtype):
    from keras import ops

    return ops.cast(ops.convert_to_tensor(x), dtype)


def _value_and_gradients(function, given):
    """Of a function of three arguments, weighted by a fourth."""
    import keras

    *inputs, weights = given
    if keras.backend.backend() == "jax":
        import jax

        def run(*inputs):
            y, backward = jax.vjp(function, *inputs)
            return [y, *backward(weights)]

        return jax.jit(run)(*inputs)
    import tensorflow as tf

    with tf.GradientTape() as tape:
        tape.watch(inputs)
        y = function(*inputs)
    return [y, *tape.gradient(y, inputs, output_gradients=weights)]


def relative_error(found, expected):
    found, expected = (np.asarray(x, "float64") for x in (found, expected))
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


# === Profile ===


def profile(job):
    """Steps of `fit` after the first ones, with a trace of what they run."""
    import keras
    import tensorflow as tf

    folder = Path(job["folder"])
    # Of this run alone.
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    trainer = _speed_ours.make_trainer(job)
    batches = tf.data.Dataset.from_tensors(ready_batch(job))
    trainer.fit(batches.repeat(job["warmup"]), verbose=0)
    with _trace(keras.backend.backend(), str(folder)):
        trainer.fit(batches.repeat(job["steps"]), verbose=0)
    if not any(path.is_file() for path in folder.rglob("*")):
        raise OSError(f"The profiler wrote nothing into {folder}.")
    return {}


def _trace(backend, folder):
    if backend == "jax":
        import jax

        return jax.profiler.trace(folder)
    import tensorflow as tf

    return tf.profiler.experimental.Profile(folder)


COMMANDS = {
    "card": card,
    "gradients": gradients,
    "attention": attention,
    "profile": profile,
    "train": _speed_ours.train,
}

if __name__ == "__main__":
    _speed_child.main(COMMANDS, _speed_ours.PACKAGES)
