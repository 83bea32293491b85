"""Does this checkout compute what another commit computes, bit for bit?

Runs fixed configurations of the command line from both, each in a process of
its own, with the same Python environment and the same generated images, and
compares losses, TensorBoard scalars, exported weights, images and
conversions. One line per configuration says "same", or which figures moved
and by how much; the exit code is 1 if any did.

    make same BASE=c8a4c27                                      all, 6 minutes
    make same BASE=c8a4c27 SAME_ARGS="--cases plain dreambooth" some
    .venv/bin/python -m benchmarks.same --base c8a4c27 --cases plain

What the base computed is kept in `--store`, once for each commit. Losses and
scalars are compared where both sides have them; a tensor, an image or a file
of a conversion that only one side has counts as moved. This checkout is taken
as it is, uncommitted changes included. Its files stay in `build/same/here`,
its messages in `log.txt` there.

Sizes are multiples of the batch, so no batch is short, and seeds are fixed.
Equality of bits holds for one machine, one set of packages and one number of
threads.
"""

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from benchmarks import _same_figures

ROOT = Path(__file__).resolve().parent.parent
STORE = ROOT / "build" / "same"
IMAGES = 8

TRAIN = (
    "train --model tiny --data {inputs}/photos --output_dir {out}/run --seed 3 "
    "--batch_size 2 --num_train_epochs 2 --learning_rate 1e-4 "
    "--log_every_steps 1 "
)
SQUARES = "--resolution 64 "
CACHE = "--cache {scratch}/cache --cache_dtype float32 "
# Of pictures twice as wide or as high: two sizes.
BUCKETS = "--resolution 192 --buckets --masks files --horizontal_flip "
CASES = {
    "plain": [TRAIN + SQUARES + "--no_cache --validation_data {inputs}/others"],
    "buckets-cached": [TRAIN + BUCKETS + CACHE],
    "buckets-uncached": [
        TRAIN + BUCKETS + "--no_cache --shuffle_tags --keep_tokens 1"
    ],
    "text-encoder": [
        TRAIN + SQUARES + CACHE + "--shuffle_tags --train_text_encoder "
        "--text_encoder_learning_rate 5e-5 --text_encoder_stop_step 5",
        "generate --model {out}/run --prompt drawing --output {out}/image.png "
        "--num_steps 4 --height 64 --width 64",
    ],
    "dreambooth": [
        "dreambooth --model tiny --instance_data_dir {inputs}/photos "
        "--output_dir {out}/run --resolution 64 --batch_size 2 --seed 3 "
        "--instance_prompt sks_drawing --class_prompt drawing "
        "--class_data_dir {inputs}/others --num_class_images 8 "
        "--max_train_steps 8 --gradient_accumulation_steps 2 "
        "--ema_decay 0.9 --weighting min_snr --offset_noise 0.1 "
        "--learning_rate 1e-4 --log_every_steps 1"
    ],
    "noise": [
        TRAIN + SQUARES + CACHE + "--multires_noise_iterations 4 "
        "--input_perturbation 0.1 --timestep_bias_strategy later "
        "--timestep_bias_multiplier 3 "
        "--loss huber --prediction_type v_prediction "
        "--change_prediction_type --zero_terminal_snr "
        "--lr_scheduler cosine --lr_warmup_steps 2"
    ],
    "bfloat16": [TRAIN + SQUARES + CACHE + "--mixed_precision bf16 --remat"],
    "schedule-free": [
        TRAIN + SQUARES + CACHE + "--optimizer schedule_free_adamw"
    ],
    "generate": [
        "generate --model tiny --prompt heart tree --output {out}/image.png "
        "--num_steps 8 --negative_prompt dog --num_images 2 --seed 5"
    ],
    "convert": [
        "convert --model tiny --format diffusers --output {out}/diffusers",
        "convert --model tiny --format ldm --output {out}/ldm.safetensors",
        "convert --model tiny --format keras_cv --output {out}/keras_cv",
    ],
}


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--base", required=True, help="a commit")
    parser.add_argument("--cases", nargs="+", choices=CASES, default=CASES)
    parser.add_argument("--store", type=Path, default=STORE)
    arguments = parser.parse_args()
    store = arguments.store.resolve()
    commit = commit_of(arguments.base)
    # What the base computed holds for these cases and inputs only.
    edition = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:8]
    base = store / f"{commit[:12]}-{edition}"
    checkout = checkout_of(commit, store)
    inputs = make_inputs(store / f"inputs-{edition}")
    here = STORE / "here"
    moved = False
    for case in arguments.cases:
        begin = time.monotonic()
        if not (base / case / "out").exists():
            outcome(case, checkout, base, inputs)
        outcome(case, ROOT, here, inputs)
        told = compare(base / case / "out", here / case / "out")
        moved |= not told.startswith("same")
        print(
            f"{case:17}{told}  [{time.monotonic() - begin:.0f} s]", flush=True
        )
    sys.exit(int(moved))


# === Run ===


def commit_of(name):
    """Returns the full hash of a commit."""
    command = ["git", "rev-parse", "--verify", "--quiet", f"{name}^{{commit}}"]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if found.returncode:
        sys.exit(f"--base: expected a commit of {ROOT}. Received: {name}")
    return found.stdout.strip()


def checkout_of(commit, store):
    """Returns a directory with the files of a commit."""
    path = store / "checkouts" / commit[:12]
    if not path.exists():
        staged = path.with_name(f"{path.name}.{os.getpid()}")
        staged.mkdir(parents=True)
        archive = subprocess.run(
            ["git", "archive", commit, "keras_sdft"],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            check=True,
        )
        subprocess.run(
            ["tar", "-x", "-C", staged], input=archive.stdout, check=True
        )
        staged.rename(path)
    return path


def make_inputs(path):
    """Returns a directory of photos, masks and captions, made if missing."""
    # Only here, so that the tests of the rest need no Pillow.
    from PIL import Image

    if path.exists():
        return path
    generator = np.random.default_rng(0)
    staged = path.with_name(f"{path.name}.{os.getpid()}")
    for folder, masked in (("photos", True), ("others", False)):
        (staged / folder).mkdir(parents=True)
        for index in range(IMAGES):
            stem = staged / folder / f"{index}"
            # Half are wide and half are tall: whole batches in each bucket.
            size = (96, 192) if index % 2 else (192, 96)
            small = generator.integers(0, 256, (6, 6, 3), np.uint8)
            picture = Image.fromarray(small).resize(size, Image.BICUBIC)
            picture.save(f"{stem}.png")
            if not masked:
                continue
            mask = Image.new("L", size, 60)
            mask.paste(255, (20, 30, 80, 90))
            mask.save(f"{stem}-masklabel.png")
            captions = f"drawing, red, tree {index}\nphoto, blue, dog, sun\n"
            Path(f"{stem}.txt").write_text(captions)
    for index in range(IMAGES):
        (staged / "others" / f"{index}.txt").write_text("a heart")
    staged.rename(path)
    return path


def outcome(case, checkout, side, inputs):
    """Runs a case's commands from a checkout; its files are in `side`."""
    scratch = side / case
    shutil.rmtree(scratch, ignore_errors=True)
    staged = scratch / "staged"
    staged.mkdir(parents=True)
    environment = {**os.environ, "PYTHONPATH": str(checkout)}
    names = {"inputs": inputs, "out": staged, "scratch": scratch}
    with open(scratch / "log.txt", "w") as log:
        for command in CASES[case]:
            words = [word.format(**names) for word in command.split()]
            code = subprocess.run(
                [sys.executable, "-m", "keras_sdft", *words],
                cwd=scratch,
                env=environment,
                stdout=log,
                stderr=subprocess.STDOUT,
            ).returncode
            if code:
                tail = (scratch / "log.txt").read_text()[-2000:]
                print(f"{case}: exit code {code} from {checkout}\n{tail}")
                return
    staged.rename(scratch / "out")


# === Compare ===


def compare(base, here):
    """Tells what moved between two directories of output."""
    for path, name in ((base, "the base"), (here, "this checkout")):
        if not path.exists():
            return f"moved: {name} failed"
    old, new = _same_figures.read(base), _same_figures.read(here)
    common = set(old) & set(new)
    moved = {}
    for name in sorted(set(old) | set(new)):
        kind = name.partition(":")[0]
        distance = np.inf
        if name in common:
            distance = difference(old[name], new[name])
        elif kind in ("history", "scalar"):
            distance = None
        if distance is not None:
            moved.setdefault(kind, []).append((distance, name))
    if not common or not moved:
        return f"same: {len(common)} figures" if common else "moved: no figures"
    told = []
    for entries in moved.values():
        distance, name = max(entries)
        told.append(f"{name} by {distance:.3g} and {len(entries) - 1} more")
    return f"moved (of {len(common)} figures): " + "; ".join(told)


def difference(old, new):
    """Returns the largest difference of two arrays; `None` if equal in bits."""
    if old.shape != new.shape or old.dtype != new.dtype:
        return np.inf
    if old.tobytes() == new.tobytes():
        return None
    old, new = old.astype("float64"), new.astype("float64")
    return float(np.max(np.nan_to_num(np.abs(old - new), nan=np.inf)))


if __name__ == "__main__":
    main()
