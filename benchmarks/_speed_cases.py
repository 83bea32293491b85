"""The cases of `speed.py`: what runs, and which of its figures is meant.

Must not know how a job is run.
"""

import dataclasses
import statistics
from collections.abc import Callable
from typing import Any

DIFFUSERS = ("diffusers", "diffusers, tuned")
KERAS_CV = ("KerasCV", "KerasCV, graph, oneDNN")
# torch.compile took 385 s on two cores and was slower after: only on demand.
COMPILED = "diffusers, compiled"
# Not another library: the same training in one process on one core.
ONE_PROCESS = "one process"
OTHERS = (*DIFFUSERS, COMPILED, *KERAS_CV)
# Our own, with Keras' other backend: from nothing, and with what its compiler
# kept of an earlier start.
JAX = ("ours in JAX", "ours in JAX, started again")
PEERS = (*OTHERS, ONE_PROCESS, *JAX)


@dataclasses.dataclass(frozen=True)
class Case:
    """A figure of both sides.

    Attributes:
        number: Integer, the group of cases.
        name: String, what the command line calls it.
        title: String, what the table calls it.
        job: Dict, what a process of either side is told.
        figure: Function of a process' result.
        unit: String.
        peers: Names of the sides to compare with.
        ours: Dict of what our side alone is told.
        our_figure: Function, where it is not `figure`.
        better: `"lower"` or `"higher"`.
        full: Boolean, whether it runs with `--full` only.
        once: Boolean, whether it is too long to repeat.
        limit: Seconds that a process of either side may take.
        memory: GB that must be free.
        alone: Boolean, whether the figure is ours only.
        bfloat16: Boolean, whether the processor must have instructions for it.
    """

    number: int
    name: str
    title: str
    job: dict[str, Any]
    figure: Callable[[dict], float]
    unit: str = "s"
    peers: tuple = DIFFUSERS
    ours: dict[str, Any] = dataclasses.field(default_factory=dict)
    our_figure: Callable[[dict], float] | None = None
    better: str = "lower"
    full: bool = False
    once: bool = False
    limit: int = 3600
    memory: float = 6.0
    alone: bool = False
    bfloat16: bool = False


# === Figures ===


def step_seconds(result):
    return statistics.median(result["steps"])


def first_seconds(result):
    return result["first"]


def peak_gb(result):
    return result["peak"]


def above_gib(result):
    return result["above_gib"]


def fill_seconds(result):
    return result["fill"]


def images_per_second(result):
    return result["batch"] * len(result["steps"]) / sum(result["steps"])


def over_epochs(epochs):
    """Images a second with the encoding of every file counted in."""

    def figure(result):
        images = epochs * result["files"]
        seconds = result["fill"] + images / images_per_second(result)
        return images / seconds

    return figure


# === Cases ===


def _train(size, pixels, batch, steps, warmup, remat=False):
    return {
        "command": "train",
        "size": size,
        "pixels": pixels,
        "batch": batch,
        "steps": steps,
        "warmup": warmup,
        "remat": remat,
    }


def _files(command, size, pixels, batch, steps, kind="jpeg"):
    return {
        "command": command,
        "size": size,
        "pixels": pixels,
        "batch": batch,
        "steps": steps,
        "warmup": 2,
        "photos": kind,
    }


TRAIN = {
    "tiny": _train("tiny", 128, 4, steps=10, warmup=2),
    "mid": _train("mid", 256, 4, steps=8, warmup=2),
    "full-256": _train("full", 256, 1, steps=3, warmup=2),
    "full-512": _train("full", 512, 1, steps=2, warmup=2, remat=True),
}
TITLES = {
    "tiny": "tiny, latents 16x16, batch 4",
    "mid": "mid size, latents 32x32, batch 4",
    "full-256": "full size, 256x256, batch 1",
    "full-512": "full size, 512x512, batch 1, rematerialised",
}
# KerasCV has no rematerialisation, and no "tiny".
TRAIN_PEERS = {
    "tiny": (*DIFFUSERS, *JAX),
    "mid": (*OTHERS, *JAX),
    "full-256": OTHERS,
    "full-512": DIFFUSERS,
}


def _training_cases():
    kinds = (
        ("step", "training step", step_seconds, "s"),
        ("first", "process start to the end of the first step", None, "s"),
        ("memory", "peak memory", peak_gb, "GB"),
    )
    for number, (kind, title, figure, unit) in zip(
        (None, 3, 4), kinds, strict=True
    ):
        for size, job in TRAIN.items():
            full = size.startswith("full")
            if kind == "first" and size == "full-512":
                continue
            yield Case(
                number or (2 if full else 1),
                f"{kind}-{size}",
                f"{title}, {TITLES[size]}",
                job,
                figure or first_seconds,
                unit,
                TRAIN_PEERS[size],
                full=full,
                memory=19.0 if full else 6.0,
            )


def _variant_cases():
    """The same steps in bfloat16, and with sizes that a graph leaves open."""
    buckets = "images of several sizes"
    for size in ("mid", "full-256", "full-512"):
        full = size.startswith("full")
        common = {"full": full, "memory": 19.0 if full else 6.0}
        yield Case(
            2 if full else 1,
            f"step-{size}-bfloat16",
            f"training step, {TITLES[size]}, mixed bfloat16",
            TRAIN[size] | {"dtype": "mixed_bfloat16"},
            step_seconds,
            bfloat16=True,
            **common,
        )
        if size == "full-512":
            continue
        job = TRAIN[size] | {"buckets": True}
        yield Case(
            2 if full else 1,
            f"step-{size}-buckets",
            f"training step, {TITLES[size]}, {buckets}",
            job,
            step_seconds,
            **common,
        )
        yield Case(
            4,
            f"memory-{size}-buckets",
            f"peak memory, {TITLES[size]}, {buckets}",
            job,
            peak_gb,
            "GB",
            **common,
        )


LORA = {"lora": 16}
LORA_TRAIN = {
    "mid": TRAIN["mid"] | LORA,
    "full-512": TRAIN["full-512"] | LORA,
}
FROZEN_DTYPES = ("float32", "bfloat16", "int8")


def _lora_cases():
    """Rank 16 on attention; the frozen weights as ours can hold them."""
    kinds = (
        ("step", "LoRA step", step_seconds, "s"),
        ("memory", "LoRA, peak memory", peak_gb, "GB"),
    )
    for kind, title, figure, unit in kinds:
        for size, job in LORA_TRAIN.items():
            for dtype in FROZEN_DTYPES:
                plain = dtype == "float32"
                yield Case(
                    8,
                    f"{kind}-lora-{size}" + ("" if plain else f"-{dtype}"),
                    f"{title}, {TITLES[size]}, frozen weights {dtype}",
                    job,
                    figure,
                    unit,
                    ours={"frozen_dtype": dtype},
                    full=size.startswith("full"),
                    memory=9.0 if size.startswith("full") else 6.0,
                )


def _scale_cases():
    """Weak scaling: with all there is to add, twice the images a second.

    Two processes that exchange nothing are the most that can be had of cores
    that share caches and memory.
    """
    kinds = (
        ("scale", "two processes on two cores", {}),
        ("apart", "two processes apart on two cores", {"apart": True}),
    )
    lora = LORA | {"frozen_dtype": "float32"}
    for size, more in (("tiny", {}), ("mid", {}), ("mid", lora)):
        for kind, title, apart in kinds:
            yield Case(
                9,
                f"{kind}-{'lora-' if more else ''}{size}",
                f"{title}, batch 4 each, {size}" + (", LoRA" if more else ""),
                TRAIN[size] | more | {"command": "share", "workers": 1},
                images_per_second,
                "images/s",
                (ONE_PROCESS,),
                ours={"workers": 2, **apart},
                better="higher",
            )


def _recipe_cases():
    sizes = {
        "tiny": (_files("recipe", "tiny", 128, 4, 20), "tiny, 128x128"),
        "full": (_files("recipe", "full", 256, 1, 4), "full size, 256x256"),
    }
    for size, (job, title) in sizes.items():
        cached = {"cached": True}
        rows = [
            ("", "images in the loop", {}, images_per_second),
            ("-cached", "from the cache", cached, images_per_second),
        ]
        for epochs in (1, 5, 20):
            what = (
                f"from the cache, filled for {epochs} epoch{'s'[: epochs > 1]}"
            )
            rows.append((f"-{epochs}", what, cached, over_epochs(epochs)))
        full = size == "full"
        common = {"full": full, "memory": 20.0 if full else 6.0}
        for ending, what, ours, figure in rows:
            yield Case(
                5,
                f"recipe-{size}{ending}",
                f"files to updated weights, {title}, {what}",
                job,
                images_per_second,
                "images/s",
                ours=ours,
                our_figure=figure,
                better="higher",
                **common,
            )
        yield Case(
            5,
            f"fill-{size}",
            f"filling the cache with the photos, {title}",
            job,
            fill_seconds,
            ours=cached,
            alone=True,
            **common,
        )


def _input_cases():
    for kind in ("jpeg", "png"):
        yield Case(
            6,
            f"read-{kind}",
            f"reading {kind.upper()} photos of 1,000 pixels for 512x512",
            _files("read", "tiny", 512, 16, 8, kind),
            images_per_second,
            "images/s",
            better="higher",
        )
    yield Case(
        6,
        "read-cached",
        "reading the cache, 512x512",
        _files("read", "tiny", 512, 16, 8),
        images_per_second,
        "images/s",
        ours={"cached": True},
        better="higher",
    )
    for count in (1_000, 100_000, 1_000_000):
        job = _files("start", "tiny", 512, 4, 1) | {"many": count}
        common = {"once": count > 1_000, "limit": 900}
        title = f"with {count:,} examples"
        yield Case(
            6,
            f"start-{count}",
            f"process start to the first batch, {title}",
            job,
            first_seconds,
            **common,
        )
        yield Case(
            6,
            f"start-memory-{count}",
            f"memory above the empty program, {title}",
            job,
            above_gib,
            "GiB",
            **common,
        )


def _image_cases():
    sizes = (
        ("mid", "mid", 256, "mid size"),
        ("full", "full", 256, "full size"),
        ("full-512", "full", 512, "full size"),
    )
    for name, size, pixels, title in sizes:
        full = size == "full"
        yield Case(
            7,
            f"image-{name}",
            f"an image of {pixels}x{pixels}, 25 DDIM steps with guidance, "
            f"{title}",
            {
                "command": "generate",
                "size": size,
                "pixels": pixels,
                "steps": 1 if full else 3,
                "warmup": 1,
            },
            step_seconds,
            peers=DIFFUSERS if pixels == 512 else OTHERS,
            full=full,
            memory=12.0 if full else 6.0,
        )


CASES = {
    case.name: case
    for cases in (
        _training_cases(),
        _variant_cases(),
        _recipe_cases(),
        _input_cases(),
        _image_cases(),
        _lora_cases(),
        _scale_cases(),
    )
    for case in cases
}


def select(wanted, full):
    """The cases of names and numbers.

    Args:
        wanted: Strings: names, or numbers of groups; empty for all.
        full: Boolean, whether groups include their full-size cases. A case
            that is named runs in either way.

    Returns:
        List of `Case`, in the order of their numbers.

    Raises:
        ValueError: If there is no such case.
    """
    numbers = {str(case.number) for case in CASES.values()}
    unknown = [w for w in wanted if w not in CASES and w not in numbers]
    if unknown:
        raise ValueError(
            f"No such cases: {unknown}. Expected numbers from "
            f"{sorted(numbers)} or names from {list(CASES)}."
        )
    groups = set(wanted) & numbers if wanted else numbers
    chosen = [
        case
        for case in CASES.values()
        if case.name in wanted
        or (str(case.number) in groups and (full or not case.full))
    ]
    return sorted(chosen, key=lambda case: case.number)
