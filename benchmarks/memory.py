"""Does `Trainer.memory_estimate` tell what training takes?

Each case is a process of its own, which estimates, trains three steps and
reports the peak of its resident memory. Prints a table of both.

    .venv/bin/python benchmarks/memory.py           a quarter of an hour
    .venv/bin/python benchmarks/memory.py --full    and SD 1.5, 20 GB
    .venv/bin/python benchmarks/memory.py --cases tiny-4 mid-4

The process reports its own `VmHWM`: what `resource.getrusage` tells begins
with the parent's peak.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import platform
import subprocess
import sys
from pathlib import Path

STEPS = 3


@dataclasses.dataclass(frozen=True)
class Case:
    """A training to measure; `encoded` batches need no encoders."""

    size: str
    batch: int
    encoded: bool = True
    remat: bool = False
    optimizer: str = "adamw"
    accumulation: int = 1
    ema: bool = False


CASES = {
    "tiny-4": Case("tiny", 4, encoded=False),
    "tiny-16": Case("tiny", 16, encoded=False),
    "tiny-16-remat": Case("tiny", 16, encoded=False, remat=True),
    "mid-1": Case("mid", 1),
    "mid-4": Case("mid", 4),
    "mid-8": Case("mid", 8),
    "mid-16": Case("mid", 16),
    "mid-4-remat": Case("mid", 4, remat=True),
    "mid-16-remat": Case("mid", 16, remat=True),
    "mid-4-lion": Case("mid", 4, optimizer="lion"),
    "mid-16-in-4": Case("mid", 16, accumulation=4),
    "mid-4-ema": Case("mid", 4, ema=True),
}
FULL = {"sd1.5-256-1": Case("full", 1)}


def make_model(case):
    """The case's `StableDiffusion`, with random weights where it has none."""
    import keras_sdft
    from keras_sdft import models

    if case.size == "tiny":
        return keras_sdft.StableDiffusion.from_preset("tiny", remat=case.remat)
    full = case.size == "full"
    spec = dataclasses.replace(
        models.PRESETS["sd1.4" if full else "tiny"].spec,
        name=case.size,
        diffusion_model=models.DiffusionModelSpec()
        if full
        else models.DiffusionModelSpec(
            widths=(64, 128, 256, 256), context_width=128
        ),
    )
    return models.StableDiffusion(
        256, 256, spec=spec, base="tiny", random_weights=True, remat=case.remat
    )


def make_dataset(case, sd):
    """`STEPS` times the same batch of zeros."""
    import numpy as np
    import tensorflow as tf

    size, height, width = case.batch, sd.img_height, sd.img_width
    text = (size, sd.spec.text_encoder.max_length)
    batch = {"example_weight": np.ones((size,), "float32")}
    if case.encoded:
        latents = (size, height // 8, width // 8, 8)
        batch["moments"] = np.zeros(latents, "float32")
        context = (*text, sd.spec.text_encoder.width)
        batch["context"] = np.zeros(context, "float32")
    else:
        batch["images"] = np.zeros((size, height, width, 3), "float32")
        batch["token_ids"] = np.zeros(text, "int32")
    return tf.data.Dataset.from_tensors(batch).repeat(STEPS)


def status(name):
    """A line of the process's status, in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise SystemExit(f"/proc/self/status has no {name}: Linux is needed.")


def measure(case):
    """Estimates, trains, and prints the numbers as a line of JSON."""
    # First: it switches oneDNN on.
    import keras_sdft

    # isort: split
    import keras
    import tensorflow as tf

    sd = make_model(case)
    dataset = make_dataset(case, sd)
    trainer = keras_sdft.Trainer(
        sd,
        gradient_accumulation_steps=case.accumulation,
        ema_decay=0.999 if case.ema else None,
    )
    trainer.compile(keras_sdft.training.optimizers.get(case.optimizer))
    estimate = trainer.memory_estimate(dataset.element_spec)
    before = status("VmRSS")
    trainer.fit(dataset, verbose=0)
    row = {
        "estimate": estimate.total,
        "peak": status("VmHWM"),
        "before": before,
        "rows": dataclasses.asdict(estimate),
        "versions": f"TensorFlow {tf.__version__}, Keras {keras.__version__}",
    }
    print(json.dumps(row))


def run(name):
    """Measures a case in a fresh process."""
    environment = {
        "TF_CPP_MIN_LOG_LEVEL": "2",
        "TF_ENABLE_ONEDNN_OPTS": "1",
        **os.environ,
    }
    done = subprocess.run(
        [sys.executable, __file__, "--measure", name],
        env=environment,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise SystemExit(f"{done.stderr}\n{name} ended: {done.returncode}.")
    return json.loads(done.stdout.splitlines()[-1])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", nargs="+", choices=[*CASES, *FULL])
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure is not None:
        measure((CASES | FULL)[arguments.measure])
        return
    names = arguments.cases or [*CASES, *(FULL if arguments.full else ())]
    print("| case | estimate, GB | peak, GB | estimate / peak |")
    print("|---|---|---|---|", flush=True)
    versions = ""
    for name in names:
        row = run(name)
        versions = row["versions"]
        ratio = row["estimate"] / row["peak"]
        print(
            f"| {name} | {row['estimate'] / 1e9:.2f} "
            f"| {row['peak'] / 1e9:.2f} | {ratio:.2f} |",
            flush=True,
        )
    print(f"\n{versions}, {os.cpu_count()} cores, {platform.machine()}")


if __name__ == "__main__":
    main()
