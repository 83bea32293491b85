"""Do our networks compute what diffusers' compute, from the same files?

Makes random pipelines with diffusers and transformers (biases and norms
perturbed, so that no error hides behind a zero), reads them with
`keras_sdft.formats`, and prints relative L2 errors; writes ours and loads
that with diffusers; draws the same image on both sides; compares loss,
gradients and ten optimizer steps.

    make parity                                     full size, 40 minutes
    .venv/bin/python -m benchmarks.parity --narrow  a few minutes
    .venv/bin/python -m benchmarks.parity --parts networks \
        --architectures sd2                         one part of one model
    .venv/bin/python -m benchmarks.parity --golden  rewrites the small files
                                                    of tests/formats/golden

Every step is a process of its own, ours or the peer's, never two at once;
each part ends with the largest peak memory of its processes.
"""

import argparse
import datetime
import json
import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

import numpy as np

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

from benchmarks._parity_models import CASES
from benchmarks._parity_models import OPTIMIZER_STEPS
from benchmarks._parity_models import make_inputs
from benchmarks._parity_models import pipeline_config
from benchmarks._parity_models import projections
from benchmarks._parity_models import write_tokenizer
from keras_sdft.formats import safetensors_files

ROOT = Path(__file__).resolve().parent.parent
OURS = ROOT / ".venv" / "bin" / "python"
PEER = ROOT / ".venv-peers" / "bin" / "python"
GOLDEN = ROOT / "tests" / "formats" / "golden"
NETWORKS = ("text encoder", "image encoder", "diffusion model", "decoder")
SAMPLING_STEPS = 20
PARTS = ("networks", "image", "export", "training")


class Sides:
    """Runs commands on either side, and remembers their peak memory."""

    def __init__(self, work, optimizer_steps=OPTIMIZER_STEPS):
        self.work = work
        self.optimizer_steps = optimizer_steps
        self.peak = {"ours": 0.0, "diffusers'": 0.0}

    def _run(self, side, program, script, command, arguments):
        flags = [
            text
            for name, value in arguments.items()
            for text in (f"--{name}", str(value))
        ]
        path = ROOT / "benchmarks" / script
        lines = _output([program, path, command, *flags]).splitlines()
        gigabytes = int(lines[-1]) * 1024 / 1e9
        self.peak[side] = max(self.peak[side], gigabytes)

    def peer(self, command, **arguments):
        self._run("diffusers'", PEER, "_parity_peer.py", command, arguments)

    def ours(self, command, **arguments):
        self._run("ours", OURS, "_parity_ours.py", command, arguments)

    def results(self, side, command, name, **arguments):
        """The arrays that a command writes."""
        out = self.work / name
        inputs = self.work / "inputs.npz"
        getattr(self, side)(command, inputs=inputs, out=out, **arguments)
        return dict(np.load(out))

    def peaks(self):
        for side, figure in self.peak.items():
            if figure:
                yield (f"peak memory, {side}, GB", figure)


def _output(command):
    """What a program prints; what it warns about is shown if it fails."""
    done = subprocess.run(
        list(map(str, command)), capture_output=True, text=True, cwd=ROOT
    )
    if done.returncode:
        raise SystemExit(
            f"{done.stderr}\n{' '.join(map(str, command))} ended with "
            f"{done.returncode}."
        )
    return done.stdout


def measured(*arguments):
    """Runs `keras-sdft` in a process: seconds and peak GB.

    The process reports its own peak: what its parent is told includes the
    parent's, from before the program was loaded.
    """
    code = (
        "import sys; from keras_sdft.cli import main; "
        "code = main(sys.argv[1:]); "
        "print(open('/proc/self/status').read()); sys.exit(code)"
    )
    start = time.monotonic()
    lines = _output([OURS, "-c", code, *arguments]).splitlines()
    seconds = time.monotonic() - start
    line = [x for x in lines if x.startswith("VmHWM")]
    return seconds, int(line[-1].split()[1]) * 1024 / 1e9


def error(ours, theirs):
    """Relative L2 error."""
    ours, theirs = np.asarray(ours, "float64"), np.asarray(theirs, "float64")
    return float(np.linalg.norm(ours - theirs) / np.linalg.norm(theirs))


def prepare(architecture, size, sides):
    """Writes the peer's random pipeline and the inputs of both sides."""
    config = pipeline_config(architecture, size)
    count = max(1, sides.optimizer_steps)
    inputs = make_inputs(config, size, count)
    folder, work = sides.work / architecture, sides.work
    pad = 0 if architecture == "sd2" else "end"
    words = config["text_encoder"]["vocab_size"]
    write_tokenizer(folder / "tokenizer", words, pad)
    (work / "config.json").write_text(json.dumps(config))
    np.savez(work / "inputs.npz", **inputs)
    sides.peer("make", folder=folder, config=work / "config.json")
    return folder


# === The parts: each yields rows (what, figure) ===


def networks(folder, sides, size):
    """Each network's output, with our numerics and with KerasCV's."""
    theirs = sides.results("peer", "run", "theirs.npz", folder=folder)
    for numerics in ("exact", "keras_cv"):
        ours = sides.results(
            "ours", "run", "ours.npz", folder=folder, numerics=numerics
        )
        for name in NETWORKS:
            figure = error(ours[name], theirs[name])
            yield (f"{name}, numerics={numerics!r}", figure)
    yield ("token ids that differ", float((ours["ids"] != theirs["ids"]).sum()))


def image(folder, sides, size):
    """An image from the same noise, by DDIM with guidance."""
    given = {"folder": folder, "steps": SAMPLING_STEPS}
    theirs = sides.results("peer", "generate", "theirs.npz", **given)
    ours = sides.results("ours", "generate", "ours.npz", **given)
    for name, array in (("latents", "generated_latents"), ("image", "image")):
        figure = error(ours[array], theirs[array])
        yield (f"{name}, {SAMPLING_STEPS} steps of DDIM", figure)


def export(folder, sides, size):
    """Through our formats and back into diffusers."""
    work = sides.work
    single, keras, back = (
        work / name for name in ("single.safetensors", "keras", "back")
    )
    ways = (
        (folder, "ldm", single),
        (folder, "keras_cv", keras),
        (keras, "diffusers", back),
    )
    names = {folder: "diffusers", keras: "keras_cv"}
    for source, format, target in ways:
        seconds, peak = measured(
            "convert", "--model", source, "--output", target, "--format", format
        )
        yield (f"{names[source]} to {format}, seconds", seconds)
        yield (f"{names[source]} to {format}, peak GB", peak)
    shutil.rmtree(keras)
    seconds, peak = measured("inspect", single)
    yield ("inspect of the single file, seconds", seconds)
    yield ("inspect of the single file, peak GB", peak)
    theirs = sides.results("peer", "run", "theirs.npz", folder=folder)
    again = sides.results("peer", "run", "again.npz", folder=back)
    shutil.rmtree(back)
    yield ("ours in diffusers: keys that do not fit", float(again["problems"]))
    for name in NETWORKS:
        yield (f"ours in diffusers: {name}", error(again[name], theirs[name]))
    again = sides.results(
        "peer", "run", "again.npz", folder=folder, file=single
    )
    single.unlink()
    for name in NETWORKS:
        figure = error(again[name], theirs[name])
        yield (f"our single file in diffusers: {name}", figure)


def training(folder, sides, size):
    """Loss, gradients and, where memory allows them, optimizer steps."""
    for prediction_type, gamma in CASES:
        case = f"{prediction_type}, min-SNR {gamma or 'off'}"
        for what, figure in _training_case(
            folder, sides, prediction_type, gamma
        ):
            yield (f"{case}: {what}", figure)


def _training_case(folder, sides, prediction_type, gamma):
    steps = sides.optimizer_steps
    outs = {side: sides.work / f"training-{side}" for side in ("peer", "ours")}
    losses = []
    for side, out in outs.items():
        out.mkdir(exist_ok=True)
        getattr(sides, side)(
            "train",
            folder=folder,
            inputs=sides.work / "inputs.npz",
            out=out,
            prediction_type=prediction_type,
            gamma=gamma,
            steps=steps,
        )
        losses.append(json.loads((out / "losses.json").read_text()))
    theirs, ours = losses
    yield ("loss", abs(ours[0] - theirs[0]) / abs(theirs[0]))
    figures = sorted(_file_errors(outs, "gradients.safetensors"))
    yield (f"gradients, median of {len(figures)}", figures[len(figures) // 2])
    yield (f"gradients, worst of {len(figures)}", figures[-1])
    if steps:
        figure = abs(ours[-1] - theirs[-1]) / abs(theirs[-1])
        yield (f"loss at step {steps}", figure)
        figures = _file_errors(outs, "trained.safetensors")
        yield (f"weights after {steps} steps, worst", max(figures))
    for out in outs.values():
        shutil.rmtree(out)


def _file_errors(outs, name):
    """The error of every tensor; one of each side in memory at a time."""
    ours, theirs = (
        safetensors_files.open_tensors(outs[side] / name)
        for side in ("ours", "peer")
    )
    if set(ours) != set(theirs):
        raise SystemExit(f"{name}: {set(ours) ^ set(theirs)} on one side only.")
    return [error(ours[key].read(), theirs[key].read()) for key in theirs]


# === Golden files ===


def write_golden():
    """Small pipelines and diffusers' outputs, for the tests."""
    for architecture in ("sd1", "sd2"):
        with tempfile.TemporaryDirectory() as name:
            sides = Sides(Path(name))
            folder = prepare(architecture, "golden", sides)
            inputs = dict(np.load(sides.work / "inputs.npz"))
            theirs = sides.results("peer", "run", "theirs.npz", folder=folder)
            theirs |= sides.results(
                "peer", "generate", "theirs.npz", folder=folder, steps=4
            )
            theirs |= golden_training(folder, sides)
            target = GOLDEN / architecture
            shutil.rmtree(target, ignore_errors=True)
            shutil.copytree(folder, target)
        theirs.pop("problems")
        (target / "tokenizer" / "tokenizer.json").unlink()
        for file in target.rglob("*.safetensors"):
            file.chmod(0o644)
        values = {name.replace(" ", "_"): v for name, v in theirs.items()}
        np.savez_compressed(
            target / "reference.npz",
            **{f"input_{name}": value for name, value in inputs.items()},
            **values,
            versions=json.dumps(versions()),
        )
        print(target)


def golden_training(folder, sides):
    """Losses, and what `projections` leaves of gradients and weights."""
    results = {}
    for prediction_type, gamma in CASES:
        case = f"{prediction_type}_{gamma:g}"
        sides.peer(
            "train",
            folder=folder,
            inputs=sides.work / "inputs.npz",
            out=sides.work,
            prediction_type=prediction_type,
            gamma=gamma,
            steps=OPTIMIZER_STEPS,
        )
        losses = json.loads((sides.work / "losses.json").read_text())
        results[f"losses_{case}"] = np.array(losses)
        for kind in ("gradients", "trained"):
            tensors = safetensors_files.open_tensors(
                sides.work / f"{kind}.safetensors"
            )
            results[f"{kind}_{case}"] = projections(tensors)
    return results


def versions():
    found = {}
    for program, script in (
        (PEER, "_parity_peer.py"),
        (OURS, "_parity_ours.py"),
    ):
        text = _output([program, ROOT / "benchmarks" / script, "versions"])
        found |= json.loads(text.splitlines()[-1])
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--narrow", action="store_true")
    parser.add_argument("--golden", action="store_true")
    both = ("sd1", "sd2")
    parser.add_argument(
        "--architectures", nargs="+", choices=both, default=both
    )
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument(
        "--steps",
        type=int,
        help="of the optimizer; none at full size, where they take 20 GB",
    )
    parser.add_argument("--work", type=Path, help="Scratch, 20 GB at full size")
    arguments = parser.parse_args()
    if not PEER.exists():
        raise SystemExit("There is no .venv-peers: run `make peers` first.")
    if arguments.golden:
        write_golden()
        return
    size = "narrow" if arguments.narrow else "full"
    steps = arguments.steps
    if steps is None:
        steps = OPTIMIZER_STEPS if arguments.narrow else 0
    print(f"{datetime.date.today()}, {size}, {json.dumps(versions())}")
    with tempfile.TemporaryDirectory(dir=arguments.work) as name:
        for architecture in arguments.architectures:
            sides = Sides(Path(name), steps)
            folder = prepare(architecture, size, sides)
            for part in arguments.parts:
                sides.peak = dict.fromkeys(sides.peak, 0.0)
                report(f"{architecture}, {part}", part, folder, sides, size)
            shutil.rmtree(folder)


def report(title, part, folder, sides, size):
    functions = dict(
        zip(PARTS, (networks, image, export, training), strict=True)
    )
    start = time.monotonic()
    print(f"\n| {title} | |\n|---|---|", flush=True)
    for name, figure in functions[part](folder, sides, size):
        print(f"| {name} | {figure:.3g} |", flush=True)
    for name, figure in sides.peaks():
        print(f"| {name} | {figure:.3g} |", flush=True)
    print(f"| minutes | {(time.monotonic() - start) / 60:.1f} |", flush=True)


if __name__ == "__main__":
    main()
