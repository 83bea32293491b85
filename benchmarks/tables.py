"""Writes the tables of the documents and of NOTES.md from the results.

Each processor in `results.json` has its own figures: whole tables in the
notes, two columns in docs/speed.md. Each GPU in `gpu_results.json` has its
figures there and its equalities in docs/devices.md.

    make tables
"""

import re
from pathlib import Path

from benchmarks import _speed_cases
from benchmarks import _speed_results
from benchmarks import gpu_check

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results.json"
BEGIN = "<!-- begin of what `make tables` writes -->\n"
END = "<!-- end of what `make tables` writes -->\n"
GPU_RESULTS = ROOT / "benchmarks" / "gpu_results.json"


def marks(what):
    """Returns the lines around the tables about a matter."""
    ends = ("begin", "end")
    return {
        end: f"<!-- {end} of what `make tables` writes about {what} -->\n"
        for end in ends
    }


GPUS = marks("GPUs")
JAX = marks("JAX")
PROCESSES = marks("processes")

# Cases of the front page, and what they are called there.
FRONT = {
    "step-tiny": "Training step, tiny, batch 4",
    "step-mid": "Training step, middle size, batch 4",
    "step-full-256": "Training step, SD 1.5's size, 256×256",
    "step-full-512": "The same, 512×512, rematerialised",
    "step-mid-buckets": "Middle size, images of several sizes",
    "step-full-256-buckets": "SD 1.5's size, 256×256, images of several sizes",
    "step-mid-bfloat16": "Middle size, mixed bfloat16",
    "step-lora-full-512": "LoRA step, rank 16, SD 1.5's size, 512×512, "
    "against peft",
    "step-lora-full-512-int8": "The same, frozen weights int8 (peft's float32)",
    "first-tiny": "Process start to the end of the first step, tiny",
    "first-mid": "The same, middle size",
    "first-full-256": "The same, SD 1.5's size",
    "memory-tiny": "Peak memory, tiny",
    "memory-mid": "Peak memory, middle size",
    "memory-full-256": "Peak memory, SD 1.5's size",
    "memory-lora-full-512": "Peak memory of that LoRA, 512×512, float32",
    "memory-lora-full-512-bfloat16": "The same, frozen weights bfloat16",
    "memory-lora-full-512-int8": "The same, frozen weights int8",
    "recipe-tiny-5": "Files to updated weights, tiny, 5 epochs with the "
    "cache's filling",
    "recipe-full-5": "The same, SD 1.5's size, 256×256",
    "read-jpeg": "Reading JPEG photos",
    "read-png": "Reading PNG photos",
    "start-1000000": "A million examples, start to first batch",
    "start-memory-1000000": "A million examples, memory",
    "image-mid": "Generating an image, middle size",
    "image-full": "The same, SD 1.5's size",
    "image-full-512": "The same, SD 1.5's size, 512×512",
}
# Models that two processes train, and what they are called.
PROCESS_SIZES = {
    "tiny": "`tiny`, all weights",
    "mid": "middle size, all weights",
    "lora-mid": "middle size, LoRA of rank 16",
}
# Figures of a GPU's case: title, unit, factor of what was written, and which of
# two is better.
GPU_FIGURES = {
    "images_per_second": ("training", "images/s (more is better)", 1, max),
    "step_seconds": ("step", "ms", 1000, min),
    "first_seconds": ("start to the end of the first step", "s", 1, min),
    "device_peak_gb": ("peak memory of the GPU", "GB", 1, min),
    "host_peak_gb": ("peak memory of the host", "GB", 1, min),
}
GPU_SIDES = ("ours", "diffusers", "diffusers, tuned")


def main():
    rows = _speed_results.read(RESULTS)
    gpus = gpu_check.read_published(GPU_RESULTS)
    for path, text in documents(rows, gpus).items():
        path.write_text(text, encoding="utf-8")
        print(path.relative_to(ROOT))


def documents(rows, gpus):
    """Returns the documents with their tables made anew, by path."""
    speed = ROOT / "docs" / "speed.md"
    notes = ROOT / "benchmarks" / "NOTES.md"
    devices = ROOT / "docs" / "devices.md"
    front = replaced(speed, front_table(rows))
    front = replaced(speed, jax_tables(rows), **JAX, text=front)
    shared = replaced(devices, process_tables(rows), **PROCESSES)
    return {
        speed: replaced(speed, gpu_speed(gpus), **GPUS, text=front),
        notes: replaced(notes, whole_tables(rows)),
        devices: replaced(devices, gpu_equalities(gpus), **GPUS, text=shared),
    }


def replaced(path, tables, begin=BEGIN, end=END, text=None):
    """Returns a document's text with other tables between its marks."""
    text = path.read_text(encoding="utf-8") if text is None else text
    pattern = re.escape(begin) + ".*?" + re.escape(end)
    if len(re.findall(pattern, text, re.S)) != 1:
        raise ValueError(
            f"{path}: expected the lines {begin.strip()} and {end.strip()} "
            "once, with the tables between them."
        )
    new = f"{begin}\n{tables}\n\n{end}"
    return re.sub(pattern, lambda _: new, text, flags=re.S)


def whole_tables(rows):
    """Returns every figure, one table for each processor."""
    parts = []
    for name, found in _speed_results.by_processor(rows).items():
        parts += [
            f"### {name}",
            origin(found),
            _speed_results.table(found),
        ]
    return "\n\n".join(parts)


def front_table(rows):
    """Returns the ratios of `FRONT`, two columns for each processor."""
    heads, origins, processors = ["", "unit"], [], []
    for name, found in _speed_results.by_processor(rows).items():
        heads += [f"{name}: ours / diffusers", "ours / KerasCV"]
        origins.append(f"{name}: {origin(found)}")
        processors.append(by_case(found))
    lines = [heads, ["---"] * len(heads)]
    for name, title in FRONT.items():
        case = _speed_cases.CASES[name]
        unit = case.unit
        if case.better == "higher":
            unit += " (more is better)"
        line = [title, unit]
        for found in processors:
            line += front_cells(found.get(name, {}))
        lines.append(line)
    return "\n\n".join([joined(lines), *origins])


def joined(lines):
    """Returns a table of lists of cells."""
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def front_cells(found):
    """Returns a processor's two cells of a case, from its rows by the peer."""
    number = _speed_results.number
    cells = ["–", "–"]
    if "diffusers" in found:
        row = found["diffusers"]
        figures = f"{number(row['ours'])} / {number(row['peer'])}"
        cells[0] = f"**{number(row['ratio'])}** ({figures})"
    # Against the better of KerasCV's two ways to run.
    others = [row for peer, row in found.items() if "KerasCV" in peer]
    if others:
        pick = min if others[0]["better"] == "higher" else max
        cells[1] = number(pick(row["ratio"] for row in others))
    return cells


def jax_tables(rows):
    """Returns what our step takes in TensorFlow and in JAX, by processor."""
    first, again = _speed_cases.JAX
    heads = ["", "unit", "TensorFlow", "JAX", "JAX, started again"]
    parts = []
    for name, found in _speed_results.by_processor(rows).items():
        cases = by_case(found)
        lines = [
            [title, sides[first]["unit"], *ours_and_peers(sides, first, again)]
            for case, title in FRONT.items()
            if first in (sides := cases.get(case, {})) and again in sides
        ]
        if lines:
            used = [row for row in found if row["against"] in (first, again)]
            lines = [heads, ["---"] * len(heads), *lines]
            parts += [joined(lines), f"{name}: {origin(used)}"]
    return "\n\n".join(parts)


def process_tables(rows):
    """Returns what two processes do together and apart, by processor."""
    heads = ["images/s", "one process", "two together", "two apart"]
    heads += ["together / one", "apart / one", "together / apart"]
    number, parts = _speed_results.number, []
    for name, found in _speed_results.by_processor(rows).items():
        cases = by_case(found)
        lines = [heads, ["---"] * len(heads)]
        for size, title in PROCESS_SIZES.items():
            both = [cases.get(f"{kind}-{size}") for kind in ("scale", "apart")]
            if not all(both):
                continue
            scale, apart = (sides[_speed_cases.ONE_PROCESS] for sides in both)
            figures = (
                scale["peer"],
                scale["ours"],
                apart["ours"],
                scale["ratio"],
                apart["ratio"],
                scale["ratio"] / apart["ratio"],
            )
            lines.append([title, *map(number, figures)])
        if len(lines) > 2:
            used = [
                r for r in found if r["against"] == _speed_cases.ONE_PROCESS
            ]
            parts += [joined(lines), f"{name}: {origin(used)}"]
    return "\n\n".join(parts)


def by_case(rows):
    """Returns rows with a ratio by the name of the case, and by the peer."""
    titles = {f"{c.number} {c.title}": n for n, c in _speed_cases.CASES.items()}
    found = {}
    for row in rows:
        if row["ratio"]:
            found.setdefault(titles[row["case"]], {})[row["against"]] = row
    return found


def ours_and_peers(sides, *names):
    """Returns the cells of our figure and of some peers'."""
    values = [sides[names[0]]["ours"], *(sides[name]["peer"] for name in names)]
    return map(_speed_results.number, values)


def origin(rows):
    """Returns what a processor's rows were measured with, in a sentence."""
    dates = sorted({row["date"] for row in rows})
    versions = {}
    for row in rows:
        for name, version in row["versions"].items():
            versions.setdefault(name, set()).add(version)
    programs = ", ".join(
        f"{name} {' and '.join(sorted(found))}"
        for name, found in versions.items()
    )
    days = dates[0] if len(dates) == 1 else f"{dates[0]} to {dates[-1]}"
    row = rows[0]
    return (
        f"{row['cores']} cores, {row['memory_gb']:.0f} GB; {days}; {programs}."
    )


# === GPUs ===


def gpu_speed(gpus):
    """Returns the figures of each GPU, and what they were measured with."""
    parts = []
    for found in gpus:
        lines = [["", "unit", "ours / better of both", *GPU_SIDES]]
        lines.append(["---"] * len(lines[0]))
        cases = {}
        for row in found["bench"]:
            cases.setdefault(row["case"], {})[row["side"]] = row
        for case, sides in cases.items():
            for name in GPU_FIGURES:
                lines.append(gpu_line(case, sides, name))
        parts += [f"### {gpu_name(found)}", joined(lines), gpu_origin(found)]
    return "\n\n".join(parts)


def gpu_line(case, sides, name):
    """Returns the cells of one figure; what was not measured has a dash."""
    title, unit, factor, better = GPU_FIGURES[name]
    values = {
        side: row[name] * factor
        for side, row in sides.items()
        if row.get(name) is not None
    }
    ratio = "–"
    peers = [value for side, value in values.items() if side != "ours"]
    number = _speed_results.number
    if "ours" in values and peers:
        ratio = f"**{number(values['ours'] / better(peers))}**"
    cells = [number(values[s]) if s in values else "–" for s in GPU_SIDES]
    case = f"{case[0].upper()}{case[1:]}, batch {sides['ours']['batch']}"
    return [f"{case}: {title}", unit, ratio, *cells]


def gpu_equalities(gpus):
    """Returns the errors of each GPU, beside their limits."""
    parts = []
    for found in gpus:
        lines = [["", "loss or output", "gradients", "limits"], ["---"] * 4]
        for row in found["equalities"]:
            name, errors = row["name"], [row.get("loss"), row.get("gradients")]
            if "errors" in row:
                name += ", by cuDNN" if row["cudnn"] else ", by our kernel"
                output, *gradients = row["errors"].values()
                errors = [output, max(gradients)]
            limits = " / ".join(map(power, row["limits"]))
            lines.append([name, *map(power, errors), limits])
        parts += [f"{gpu_name(found)}:", joined(lines)]
    return "\n\n".join(parts)


def power(value):
    """Returns an error in two digits."""
    return f"{value:.1e}".replace("e-0", "e-") if value else "0"


def gpu_name(found):
    card = found["card"]
    backend = {"jax": "JAX", "tensorflow": "TensorFlow"}[card["backend"]]
    return f"{card['accelerators'][0]}, {backend} backend"


def gpu_origin(found):
    """Returns card, driver, host, date and versions in a sentence."""
    versions = [found["card"], *found["bench"]]
    host = origin([found | {"versions": row["versions"]} for row in versions])
    card = "; ".join(found["card"].get("nvidia-smi", ()))
    return f"{card} (name, driver, memory); host: {found['cpu']}, {host}"


if __name__ == "__main__":
    main()
