"""Does a GPU compute what a CPU does, and how fast against diffusers?

For a machine with a GPU and Keras' backend that uses it; nothing but Python is
needed of the other backend. Writes `build/gpu-check/<backend>/results.json`:

- the card, its driver, and versions;
- equalities: loss and gradients of the preset "tiny" against this machine's
  CPU, float32 without TF32 and bfloat16, and attention at Stable Diffusion's
  sizes against its formula;
- images/s, time to the first step, and peak memory of a full fine-tune and of a
  LoRA of rank 16, rematerialised, bfloat16, ours and, if torch and diffusers
  are there and see the card, theirs;
- where a trace of three steps is, for TensorBoard's profiler.

A call with `--parts` keeps what other calls of that day found with the same
card and versions. `--publish` adds all but the trace to a file of several
cards, of which `make tables` makes the tables of the documents.

    make gpu-check                                     the TensorFlow backend
    KERAS_BACKEND=jax make gpu-check GPU_PYTHON=...    the JAX backend
    make gpu-check GPU_ARGS="--publish benchmarks/gpu_results.json"
    python -m benchmarks.gpu_check --device cpu --size tiny   does it run?
"""

import argparse
import json
import os
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks import _speed_cases
from benchmarks import _speed_results

ROOT = Path(__file__).resolve().parent.parent
WORK = ROOT / "build" / "gpu-check"
PEER = ROOT / ".venv-peers" / "bin" / "python"
PARTS = ("equalities", "bench", "profile")
# Traces stay where they were made.
PUBLISHED = ("equalities", "bench")
HALF = {"dtype": "mixed_bfloat16"}
LORA = {"lora": 16, "frozen_dtype": "bfloat16"}
# Of the preset "tiny": what is compared with the CPU.
COMPARED = {
    "full": {},
    "lora, rematerialised": {"lora": 4, "frozen_dtype": "float32"}
    | {"remat": True},
    "full, bfloat16": HALF,
}
# Relative errors. In float32 sums have another order; bfloat16 has less than
# three digits, on the CPU too.
LOSS, GRADIENTS = 1e-5, 1e-3
LOSS_HALF, TIMES_HALF, ATTENTION = 5e-3, 2.0, 2e-2
CPU_ALONE = {
    "tensorflow": {"CUDA_VISIBLE_DEVICES": ""},
    "jax": {"JAX_PLATFORMS": "cpu"},
}
NO_GPU = """gpu-check: Keras' {backend} backend sees no GPU here: {platform}.
Nothing was measured. On a machine with a GPU install the backend for it, in an
environment of its own, with this library beside it:
  tensorflow: pip install '.[cuda]'
  jax:        pip install '.[jax-cuda]'
and give its interpreter as GPU_PYTHON, the backend as KERAS_BACKEND. To see
whether the check itself runs: --device cpu --size tiny"""


class Failed(Exception):
    """A process that gave no result, and why."""


def run(job, work, python=sys.executable, side="_gpu_check_child", **more):
    """The result of a job, in a process of its own."""
    work.mkdir(parents=True, exist_ok=True)
    out = work / "result.json"
    out.unlink(missing_ok=True)
    job = job | {"out": str(out), "started": time.monotonic()}
    # Beside what the caller's environment adds.
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    done = subprocess.run(
        [str(python), "-m", f"benchmarks.{side}", json.dumps(job)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), **more},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    if done.returncode or not out.exists():
        last = done.stderr.strip().splitlines()[-8:]
        raise Failed("\n".join([f"ended with {done.returncode}", *last]))
    return json.loads(out.read_text(encoding="utf-8"))


# === Equalities ===


def equalities(given, backend, work):
    """The rows of what is compared; each says whether it holds."""
    found, cpu = {}, {}
    for name, case in COMPARED.items():
        job = _speed_cases.TRAIN["tiny"] | {"batch": 2} | case
        found[name] = _gradients(job, work, "device", {})
        cpu[name] = _gradients(job, work, "cpu", CPU_ALONE[backend])
    rows = []
    for name in COMPARED:
        is_half = name.endswith("bfloat16")
        exact = cpu["full"] if is_half else cpu[name]
        loss, error, worst = errors(found[name], exact)
        limits = [LOSS, GRADIENTS]
        if is_half:
            # Of gradients no worse than twice this CPU's own.
            own = errors(cpu[name], exact)
            limits = [LOSS_HALF, TIMES_HALF * own[1]]
        rows.append(
            {
                "name": f"tiny, {name}",
                "loss": loss,
                "gradients": error,
                "worst tensor": worst,
                "limits": limits,
                "holds": bool(loss <= limits[0] and error <= limits[1]),
            }
        )
    job = {"command": "attention", "size": given.size}
    for row in run(job, work)["attention"]:
        worst = max(row["errors"].values())
        rows.append({**row, "limits": [ATTENTION], "holds": worst <= ATTENTION})
    return rows


def _gradients(job, work, name, environment):
    path = work / f"{name}.npz"
    job = job | {"command": "gradients", "arrays": str(path)}
    run(job, work, **environment)
    with np.load(path) as arrays:
        return dict(arrays)


def errors(found, expected):
    """Relative errors of loss and gradients, and of the worst tensor.

    A tensor counts by what is a thousandth of all gradients at least: the
    biases of keys have gradients of nothing but rounding.
    """
    loss = abs(found["loss"] / expected["loss"] - 1)
    names = sorted(set(expected) - {"loss"})
    norms = {n: np.linalg.norm(expected[n]) for n in names}
    wrong = {n: np.linalg.norm(found[n] - expected[n]) for n in names}
    total = np.linalg.norm(list(norms.values()))
    worst = max(wrong[n] / max(norms[n], 1e-3 * total) for n in names)
    error = np.linalg.norm(list(wrong.values())) / total
    return float(loss), float(error), float(worst)


# === Bench ===


def bench(given, work, write):
    """Figures of each case and side; of what cannot be run, why.

    `write` is called with all rows so far after each.
    """
    size = "tiny" if given.size == "tiny" else "full-512"
    job = _speed_cases.TRAIN[size] | HALF | {"remat": True}
    job |= {"batch": given.batch, "steps": given.steps, "warmup": 3}
    cases = {"full fine-tune": job, "LoRA of rank 16": job | LORA}
    peer = peer_python(given, work)
    rows = []
    for name, job in cases.items():
        sides = {"ours": (sys.executable, "_gpu_check_child", None)}
        if peer:
            sides["diffusers"] = (peer, "_speed_peer", "eager")
            sides["diffusers, tuned"] = (peer, "_speed_peer", "tuned")
        for side, (python, module, variant) in sides.items():
            row = {"case": name, "side": side, "batch": given.batch}
            device = "cuda" if given.device == "gpu" else "cpu"
            more = {"variant": variant, "device": device}
            try:
                result = run(job | more, work, python, module)
                rows.append(row | figures(result))
            except Failed as error:
                rows.append(row | {"failed": str(error)})
            write(rows)
            print(f"{name}: {side} ran", file=sys.stderr, flush=True)
    return rows


def figures(result):
    peak = result["device_peak"]
    return {
        "images_per_second": _speed_cases.images_per_second(result),
        "step_seconds": _speed_cases.step_seconds(result),
        "first_seconds": result["first"],
        "device_peak_gb": None if peak is None else peak / 1e9,
        "host_peak_gb": result["peak"],
        "versions": result["versions"],
    }


def peer_python(given, work):
    """The interpreter of diffusers that sees the device, or `None`."""
    pythons = [PEER] if PEER.exists() else []
    test = "import diffusers, peft, torch, transformers"
    if given.device == "gpu":
        test += "; assert torch.cuda.is_available()"
    for python in (*pythons, sys.executable):
        done = subprocess.run([str(python), "-c", test], capture_output=True)
        if done.returncode == 0:
            return python
    print("No torch and diffusers that see the device: ours alone.")
    return None


# === All of it ===


def check(given):
    """Runs the parts; returns the exit status."""
    backend = os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    if given.device == "cpu":
        os.environ.update(CPU_ALONE[backend])
    work = given.work.resolve() / backend
    found = run({"command": "card"}, work)
    # Of the process that asked.
    found.pop("peak", None)
    if given.device == "gpu" and found["platform"] != "gpu":
        print(NO_GPU.format(**found), file=sys.stderr)
        return 2
    results = {"card": found, **_speed_results.machine()}
    results |= {"device": given.device, "size": given.size}
    path = work / "results.json"
    results |= earlier(path, results)

    def write(name, found):
        # At once: what was measured must not hang on what comes.
        results[name] = found
        _speed_results.write(path, results)

    parts = {
        "equalities": lambda: equalities(given, backend, work),
        "bench": lambda: bench(given, work, partial(write, "bench")),
        "profile": lambda: profile(given, work),
    }
    for name in given.parts:
        try:
            write(name, parts[name]())
        except Failed as error:
            write(name, {"failed": str(error)})
        print(json.dumps({name: results[name]}, indent=1), flush=True)
    print(path)
    failed = any(map(has_failed, map(results.get, given.parts)))
    if given.publish and not failed:
        publish(given.publish, results)
    return int(failed)


def earlier(path, heading):
    """Returns the parts that other calls found in the same circumstances."""
    if not path.exists():
        return {}
    found = json.loads(path.read_text(encoding="utf-8"))
    if any(found.get(name) != value for name, value in heading.items()):
        return {}
    return {name: found[name] for name in PARTS if name in found}


def publish(path, results):
    """Adds results to a file, in the place of those of the same card."""
    missing = [
        name
        for name in PUBLISHED
        if name not in results or has_failed(results[name])
    ]
    if missing:
        raise SystemExit(
            f"--publish needs {' and '.join(PUBLISHED)} of this day, card and "
            f"versions, without failures. Missing: {' and '.join(missing)}. "
            "Run these with --parts, too."
        )
    left_out = set(PARTS) - set(PUBLISHED)
    new = {k: v for k, v in results.items() if k not in left_out}
    old = read_published(path) if path.exists() else []
    kept = [row for row in old if _where(row) != _where(new)]
    _speed_results.write(path, sorted([*kept, new], key=_where))


def read_published(path):
    return json.loads(path.read_text(encoding="utf-8"))


def _where(results):
    card = results["card"]
    return [*card["accelerators"], card["backend"], results["size"]]


def profile(given, work):
    size = "tiny" if given.size == "tiny" else "full-512"
    job = _speed_cases.TRAIN[size] | HALF | {"remat": True}
    job |= {"command": "profile", "folder": str(work / "profile")}
    run(job | {"batch": given.batch, "steps": 3, "warmup": 3}, work)
    # Beside the results.
    return {"trace": "profile"}


def has_failed(part):
    rows = part if isinstance(part, list) else [part]
    return any("failed" in row or not row.get("holds", True) for row in rows)


def parse(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=("gpu", "cpu"), default="gpu")
    parser.add_argument(
        "--size", choices=("full", "tiny"), default="full", help="of the bench"
    )
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--batch", type=int, default=4, help="images a step")
    parser.add_argument("--steps", type=int, default=20, help="of each case")
    parser.add_argument("--work", type=Path, default=WORK)
    parser.add_argument(
        "--publish", type=Path, help="add what was found to this file"
    )
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(check(parse()))
