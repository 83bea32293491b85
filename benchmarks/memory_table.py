"""Writes the tables of docs/memory.md: what training needs, as it is estimated.

Nothing is trained: each model is built once for each precision, of zeros, and
`Trainer.memory_estimate` is asked. That takes 6 GB. Times are those of
`results.json`, where a case was measured.

    .venv/bin/python -m benchmarks.memory_table           minutes
    .venv/bin/python -m benchmarks.memory_table --print   and writes nothing
"""

import argparse
import dataclasses
import gc

from benchmarks import _speed_results
from benchmarks import tables

PAGE = tables.ROOT / "docs" / "memory.md"
BEGIN = "<!-- begin of what `make memory-table` writes -->\n"
END = "<!-- end of what `make memory-table` writes -->\n"
MODELS = {"sd1.4": "SD 1.x", "sd2.1-base": "SD 2.x"}
RESOLUTIONS = (256, 512, 768)
BATCHES = (1, 4)
POLICIES = {"no": None, "bf16": "mixed_bfloat16"}
# In this order: a LoRA stays in the network that it was added to.
METHODS = {
    "all weights": "diffusion_model",
    "new word": "textual_inversion",
    "LoRA, rank 16": "lora",
}
# Cases that were measured, by what they are called here.
TIMES = {
    "2 training step, full size, 256x256, batch 1": "256, batch 1",
    "2 training step, full size, 512x512, batch 1, rematerialised": (
        "512, batch 1, `--remat`"
    ),
}


@dataclasses.dataclass(frozen=True)
class Case:
    """One cell of a table."""

    method: str
    batch: int
    remat: bool
    resolution: int
    precision: str = ""


def build(preset, policy):
    """Returns a model of zeros, which is not asked what it predicts."""
    from keras_sdft import models

    spec = models.PRESETS[preset].spec
    # A function takes the place of the weights' file.
    files = dict.fromkeys(("text_encoder", "diffusion_model"), lambda _: None)
    return models.StableDiffusion(
        64, 64, spec=spec, base="tiny", files=files, dtype=policy
    )


def part(method):
    """Returns what learns, for `Trainer(train=...)`."""
    from keras_sdft import adapters

    if method == "lora":
        return adapters.LoRA(16)
    if method == "textual_inversion":
        return adapters.TextualInversion("<new>")
    return method


def batch_of(sd, method, resolution, batch):
    """Returns what a batch from the cache consists of."""
    import tensorflow as tf

    text = sd.spec.text_encoder
    side = resolution // 8
    shapes = {
        "moments": ((batch, side, side, 8), "float32"),
        "example_weight": ((batch,), "float32"),
        "context": ((batch, text.max_length, text.width), "float32"),
    }
    if method == "textual_inversion":
        # The word is in no cache.
        del shapes["context"]
        shapes["token_ids"] = ((batch, text.max_length), "int32")
    return {name: tf.TensorSpec(*shape) for name, shape in shapes.items()}


def estimates(preset):
    """Returns a preset's cases, and the estimate of each."""
    found = {}
    for precision, policy in POLICIES.items():
        found |= {
            dataclasses.replace(case, precision=precision): estimate
            for case, estimate in estimates_of(build(preset, policy))
        }
        # Layers hold their model, and the next one takes as much.
        gc.collect()
    return found


def estimates_of(sd):
    """Yields the cases of one model."""
    import keras_sdft

    for title, method in METHODS.items():
        trainer = keras_sdft.Trainer(sd, train=[part(method)])
        trainer.compile()
        for remat in (False, True):
            for layer in sd.diffusion_model.layers:
                if hasattr(layer, "remat"):
                    layer.remat = remat
            for resolution in RESOLUTIONS:
                for batch in BATCHES:
                    spec = batch_of(sd, method, resolution, batch)
                    case = Case(title, batch, remat, resolution)
                    yield case, trainer.memory_estimate(spec)
        # Captions come from the cache again.
        sd.release(["text_encoder"])


def table(found):
    """Returns a table of GB, from a dict of estimates by case."""
    columns = [(side, name) for side in RESOLUTIONS for name in POLICIES]
    heads = ["trains", "batch"]
    heads += [f"{side}{', bf16' if p == 'bf16' else ''}" for side, p in columns]
    lines = [heads, ["---"] * len(heads)]
    for method in METHODS:
        for remat in (False, True):
            for batch in BATCHES:
                title = f"{method}, `--remat`" if remat else method
                cells = [
                    found[Case(method, batch, remat, side, p)].total / 1e9
                    for side, p in columns
                ]
                lines.append([title, f"{batch}", *(f"{c:.1f}" for c in cells)])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def times():
    """Returns a table of seconds for a step, where it was measured."""
    rows = _speed_results.read(tables.RESULTS)
    lines = [["all weights, SD 1.x, float32", "seconds for a step", "where"]]
    lines.append(["---"] * 3)
    seen = set()
    for row in rows:
        case, where = TIMES.get(row["case"]), f"{row['cpu']}, {row['date']}"
        if case is None or (case, where) in seen:
            continue
        seen.add((case, where))
        cores = f"{row['cores']} cores, {where}"
        lines.append([case, _speed_results.number(row["ours"]), cores])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def document():
    """Returns what stands between the page's marks."""
    parts = []
    for preset, name in MODELS.items():
        parts += [f"### {name}", table(estimates(preset))]
    return "\n\n".join([*parts, "### Time", times()])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--print", action="store_true")
    arguments = parser.parse_args()
    text = document()
    if arguments.print:
        print(text)
    else:
        new = tables.replaced(PAGE, text, BEGIN, END)
        PAGE.write_text(new, encoding="utf-8")
        print(PAGE.relative_to(tables.ROOT))


if __name__ == "__main__":
    main()
