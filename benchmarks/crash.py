"""Ends runs at random moments, resumes them, and compares them bit for bit.

    python -m benchmarks.crash --kills 200 --seed 0

Each case trains a small network with the real command: once without a break,
and once ended again and again by KILL, TERM or INT at a random moment (while
it starts, between steps, in a checkpoint, an export, a preview, the cache's
filling, or while it resumes), then resumed to its end as its messages say.
Weights, history, scalars of TensorBoard, and the tensors of checkpoints of the
same step (optimizer, average, loss scale) must be those of the run that was
never ended, bit for bit, and previews to one level of 255. `--cases plain ema`
runs some of the cases.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks._crash_inputs import fit_iterable
from benchmarks._crash_inputs import write_model
from benchmarks._crash_inputs import write_photos
from benchmarks._crash_inputs import write_tfds

SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
# Of one run, before it is let to end.
MOST_KILLS = 4
STEPS = 8
COMMON = (
    "--resolution=64",
    "--checkpoint_every_steps=2",
    "--preview_prompts=a dog",
    "--preview_every_steps=3",
    "--preview_num_steps=1",
    "--save_every_steps=3",
    "--log_every_steps=1",
    "--learning_rate=1e-3",
    f"--max_train_steps={STEPS}",
)
TRAIN = ("--batch_size=2", "--validation_data=held_out", "--seed=3")
CASES = {
    "plain": ("train", *TRAIN, "--no_cache"),
    "cache": ("train", *TRAIN, "--cache=cache"),
    "ema": ("train", *TRAIN, "--no_cache", "--ema_decay=0.9"),
    "accumulation": (
        "train",
        *TRAIN,
        "--no_cache",
        "--gradient_accumulation_steps=2",
        "--weighting=min_snr",
        "--offset_noise=0.1",
    ),
    "schedule": (
        "train",
        *TRAIN,
        "--no_cache",
        "--lr_scheduler=cosine",
        "--lr_warmup_steps=2",
        "--keep_best=val_loss",
    ),
    "schedule-free": (
        "train",
        *TRAIN,
        "--no_cache",
        "--optimizer=schedule_free_adamw",
    ),
    "text encoder": (
        "train",
        *TRAIN,
        "--no_cache",
        "--train_text_encoder",
        "--text_encoder_learning_rate=1e-4",
        "--text_encoder_stop_step=5",
    ),
    "lora": ("train", *TRAIN, "--no_cache", "--lora_rank=2"),
    "buckets": ("train", *TRAIN, "--no_cache", "--buckets"),
    "bfloat16": ("train", *TRAIN, "--no_cache", "--mixed_precision=bf16"),
    "float16": ("train", *TRAIN, "--no_cache", "--mixed_precision=fp16"),
    "textual inversion": (
        "textual_inversion",
        *TRAIN,
        "--no_cache",
        "--token=<sks>",
        "--init_word=dog",
        "--num_vectors=2",
        "--repeats=1",
    ),
    "tfds": (
        "train",
        *TRAIN,
        "--no_cache",
        "--data=tfds:photos:train",
    ),
    # In Python, see `fit_iterable`.
    "iterable": ("iterable",),
    "prior": (
        "dreambooth",
        "--instance_data_dir=photos",
        "--instance_prompt=a photo of sks dog",
        "--class_prompt=a photo of dog",
        "--class_data_dir=class",
        "--num_class_images=3",
        "--class_num_steps=1",
        "--validation_every_steps=3",
        "--seed=3",
    ),
}


def start(directory: Path, arguments: list[str], log: Path) -> int:
    """Starts the command in a process; returns its id.

    Forked before TensorFlow has any thread, which saves its import.
    """
    child = os.fork()
    if child:
        return child
    code = 70
    try:
        os.chdir(directory)
        out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(out, 1)
        os.dup2(out, 2)
        code = run_command(arguments)
    finally:
        sys.stdout.flush()
        os._exit(code)


def run_command(arguments: list[str]) -> int:
    """Returns the exit code of the command, or of the run in Python."""
    if arguments[0] == "iterable":
        return fit_iterable(Path(arguments[1]))
    from keras_sdft.cli import main

    return main(arguments)


def wait(child: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def arguments_of(case: str, run: str) -> list[str]:
    command, *more = CASES[case]
    if command == "iterable":
        return [command, run]
    has_data = command == "dreambooth" or "--data=" in " ".join(more)
    data = [] if has_data else ["--data=photos"]
    more = [a.replace("=cache", f"={run}-cache") for a in more]
    more = [a.replace("=class", f"={run}-class") for a in more]
    output = [f"--output_dir={run}", "--model=model"]
    return [command, *output, *data, *more, *COMMON]


def next_arguments(directory: Path, case: str, run: str) -> list[str]:
    """What a user types after a break, as the messages say."""
    command = CASES[case][0]
    if command == "iterable":
        return arguments_of(case, run)
    checkpoints = directory / run / "checkpoints"
    if any(checkpoints.glob("step_*/checkpoint.json")):
        return [command, "--resume", run]
    begun = (directory / run / "run.json").exists()
    return [*arguments_of(case, run), *(["--overwrite"] if begun else [])]


def wait_for_moment(run: Path, child: int, seconds: float, chance) -> str:
    """Waits until a signal is due; returns when that was.

    A third come at any time, most of which goes by before the first step. The
    others come about when a checkpoint is written.
    """
    if chance.random() < 1 / 3:
        moment = chance.uniform(0, seconds)
        time.sleep(moment)
        return f"after {moment:.1f} s"
    before, step = newest(run), chance.choice(range(2, STEPS, 2))
    end = time.monotonic() + 10 * seconds
    while newest(run) < max(step, before + 1) and time.monotonic() < end:
        # It is left for `wait`.
        if os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            break
        time.sleep(0.005)
    moment = chance.uniform(0, 0.5)
    time.sleep(moment)
    return f"{moment:.2f} s after checkpoint {newest(run)}"


def newest(run: Path) -> int:
    """Returns the step of the newest checkpoint, whole or not yet."""
    names = [path.name for path in (run / "checkpoints").glob("*step_*")]
    found = [re.search(r"step_(\d+)", name) for name in names]
    return max([int(match[1]) for match in found if match], default=0)


def ended_run(
    directory: Path, case: str, run: str, seconds: float, kills: int, chance
) -> list[str]:
    """Trains with at most so many breaks, then to the end.

    Returns:
        List of strings, the signals and when they were sent.
    """
    told = []
    log = directory / f"{run}.log"
    while True:
        child = start(directory, next_arguments(directory, case, run), log)
        if len(told) == kills:
            code = wait(child)
            if code:
                raise RuntimeError(f"exit code {code}; see {log}")
            return told
        number = chance.choice(SIGNALS)
        when = wait_for_moment(directory / run, child, seconds, chance)
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, number)
        code = wait(child)
        if code == 0 and told:
            return told
        if code == 0:
            # It was done before the signal came.
            shutil.rmtree(directory / run)
            continue
        told.append(f"{number.name} {when}")


def figures(path: Path) -> dict[str, np.ndarray]:
    from benchmarks._same_figures import read

    found = {
        name: value
        for name, value in read(path).items()
        if not name.startswith(("file:", "scalar:"))
        # What was averaged of an epoch depends on where in it one is written.
        and ":metrics." not in name
        # Compared as images, which allows them one level of 255.
        and ":callbacks.Previews." not in name
    }
    return {**found, **scalars(path / "logs")}


def scalars(logs: Path) -> dict[str, np.ndarray]:
    """Returns each logged value; a run that goes on has several files."""
    from benchmarks._same_figures import TIMES
    from benchmarks._same_figures import events

    found: dict[str, np.ndarray] = {}
    for path in sorted(logs.rglob("events.out.tfevents.*")):
        for event in events(path):
            for value in event.summary.value:
                if TIMES.search(value.tag):
                    continue
                name = f"{path.parent.name}:{value.tag}:{event.step}"
                while name in found:
                    name += ", again"
                content = value.tensor.SerializeToString()
                found[name] = np.frombuffer(content, np.uint8)
    return found


def compare(found: Path, expected: Path) -> list[str]:
    """Returns what differs between two runs."""
    ours, theirs = figures(found), figures(expected)
    # An interruption writes checkpoints of other steps, too.
    names = sorted(
        name for name in set(ours) ^ set(theirs) if "checkpoints/" not in name
    )
    return names + [
        name
        for name in sorted(set(ours) & set(theirs))
        if not _equal(name, ours[name], theirs[name])
    ]


def _equal(name: str, one: np.ndarray, other: np.ndarray) -> bool:
    is_image = name.startswith(("image:", "previews:"))
    if not is_image:
        return np.array_equal(one, other, equal_nan=True)
    # A process that generated class images before generates previews with
    # another graph, and may round a pixel otherwise.
    if name.startswith("previews:"):
        return True
    return one.shape == other.shape and bool(
        (np.abs(one.astype(int) - other.astype(int)) <= 1).all()
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cases", nargs="*", default=list(CASES))
    parser.add_argument("--keep", action="store_true")
    options = parser.parse_args()
    directory = Path(tempfile.mkdtemp(prefix="crash-"))
    print(f"seed {options.seed}, in {directory}", flush=True)
    write_photos(directory)
    child = os.fork()
    if not child:
        write_tfds(directory)
        write_model(directory)
        os._exit(0)
    wait(child)
    os.environ["TFDS_DATA_DIR"] = str(directory / "tfds")
    # Imported once, before the forks.
    import tensorflow  # noqa: F401

    import keras_sdft.cli  # noqa: F401

    chance = random.Random(options.seed)
    done: collections.Counter[str] = collections.Counter()
    equal: collections.Counter[str] = collections.Counter()
    seconds: dict[str, float] = {}
    faults = []
    while sum(done.values()) < options.kills:
        for case in options.cases:
            if sum(done.values()) >= options.kills:
                break
            whole = f"{case}-whole".replace(" ", "-")
            if case not in seconds:
                begin = time.monotonic()
                log = directory / f"{whole}.log"
                code = wait(start(directory, arguments_of(case, whole), log))
                if code:
                    raise RuntimeError(f"{case}: exit code {code}; see {log}")
                seconds[case] = time.monotonic() - begin
            kills = min(
                chance.randint(1, MOST_KILLS),
                options.kills - sum(done.values()),
            )
            run = f"{case}-{done[case]}".replace(" ", "-")
            told = ended_run(directory, case, run, seconds[case], kills, chance)
            wrong = compare(directory / run, directory / whole)
            done[case] += len(told)
            equal[case] += 0 if wrong else len(told)
            line = "equal" if not wrong else f"DIFFERS: {wrong[:5]}"
            print(f"{case}: {', '.join(told)}: {line}", flush=True)
            if wrong:
                faults.append(run)
            elif not options.keep:
                shutil.rmtree(directory / run)
    print(f"\n| case | kills | equal |\n|{'---|' * 3}")
    for case in options.cases:
        print(f"| {case} | {done[case]} | {equal[case]} |")
    print(f"| all | {sum(done.values())} | {sum(equal.values())} |")
    if not faults and not options.keep:
        shutil.rmtree(directory)
    return bool(faults)


if __name__ == "__main__":
    sys.exit(main())
