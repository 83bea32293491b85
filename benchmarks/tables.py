"""Writes the tables of docs/speed.md and NOTES.md from `results.json`.

Each processor that was measured has its own figures: whole tables in the
notes, two columns in the documents.

    make tables
"""

import re
from pathlib import Path

from benchmarks import _speed_cases
from benchmarks import _speed_results

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results.json"
BEGIN = "<!-- begin of what `make tables` writes -->\n"
END = "<!-- end of what `make tables` writes -->\n"

# Cases of the front page, and what they are called there.
FRONT = {
    "step-tiny": "Training step, tiny, batch 4",
    "step-mid": "Training step, middle size, batch 4",
    "step-full-256": "Training step, SD 1.5's size, 256×256",
    "step-full-512": "The same, 512×512, rematerialised",
    "step-lora-full-512": "LoRA step, rank 16, the same, against peft",
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
}


def main():
    rows = _speed_results.read(RESULTS)
    for path, text in documents(rows).items():
        path.write_text(text, encoding="utf-8")
        print(path.relative_to(ROOT))


def documents(rows):
    """Returns the documents with their tables made anew, by path."""
    return {
        path: replaced(path, tables)
        for path, tables in (
            (ROOT / "docs" / "speed.md", front_table(rows)),
            (ROOT / "benchmarks" / "NOTES.md", whole_tables(rows)),
        )
    }


def replaced(path, tables, begin=BEGIN, end=END):
    """Returns a document's text with other tables between its marks."""
    text = path.read_text(encoding="utf-8")
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
    processors = _speed_results.by_processor(rows)
    heads, origins = ["", "unit"], []
    for name, found in processors.items():
        heads += [f"{name}: ours / diffusers", "ours / KerasCV"]
        origins.append(f"{name}: {origin(found)}")
    lines = [heads, ["---"] * len(heads)]
    for case, title in FRONT.items():
        case = _speed_cases.CASES[case]
        unit = case.unit
        if case.better == "higher":
            unit += " (more is better)"
        line = [title, unit]
        for found in processors.values():
            line += front_cells(f"{case.number} {case.title}", found)
        lines.append(line)
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return "\n\n".join([table, *origins])


def front_cells(case, rows):
    """Returns a processor's two cells of a case."""
    found = {r["against"]: r for r in rows if r["case"] == case and r["ratio"]}
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


if __name__ == "__main__":
    main()
