"""What repeated measurements say: medians, ranges, ratios, table, JSON.

Must not know how anything is measured.
"""

import datetime
import json
import os
import re
import statistics
from pathlib import Path

# What makes a row of the results file the same row, beside the versions.
KEY = ("case", "against", "cpu", "cores")
# Flags of /proc/cpuinfo that decide which kernels run.
WIDEST = {"avx2": "AVX2", "avx512f": "AVX-512", "amx_tile": "AMX"}


def spread(values):
    """Median, least and greatest of the repeats."""
    return statistics.median(values), [min(values), max(values)]


def comparison(ours, peer):
    """Medians, ranges and ratios of figures measured in turn.

    Args:
        ours: Floats, one for each repeat.
        peer: Floats, one for each of the first repeats; `None` where there
            is nothing to compare with.

    Returns:
        Dict of `ours`, `peer`, `ratio` (of the medians) and of their ranges;
        the ratio's is over the pairs measured one after the other.
    """
    middle, limits = spread(ours)
    row = {"ours": middle, "peer": None, "ratio": None, "ours_range": limits}
    if peer is None:
        return row
    other, other_limits = spread(peer)
    ratios = [a / b for a, b in zip(ours, peer, strict=False) if b]
    row |= {"peer": other, "peer_range": other_limits}
    if other:
        row["ratio"] = middle / other
        row["ratio_range"] = [min(ratios), max(ratios)]
    return row


def machine():
    """Returns what a figure depends on beside the programs."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "cpu": processor(Path("/proc/cpuinfo").read_text()),
        "cores": os.cpu_count(),
        "memory_gb": round(memory / 1e9, 1),
        "date": datetime.date.today().isoformat(),
    }


def processor(cpuinfo):
    """Returns a processor's name and its widest instructions.

    Virtual machines tell one name for processors that differ by a factor.
    """
    lines = dict(
        (key.strip(), value.strip())
        for key, _, value in (x.partition(":") for x in cpuinfo.splitlines())
    )
    name = re.sub(r"\((R|TM|r|tm)\)", "", lines.get("model name", "unknown"))
    name = " ".join(name.removesuffix("Processor").split())
    flags = lines.get("flags", "").split()
    widest = [kind for flag, kind in WIDEST.items() if flag in flags]
    return ", ".join([name, *widest[-1:]])


def multiplies_bfloat16(cpuinfo):
    """Returns whether a processor has instructions for products of bfloat16."""
    return bool(re.search(r"\b(avx512_bf16|amx_bf16)\b", cpuinfo))


# === Table ===


def table(rows):
    """Rows as a Markdown table."""
    lines = ["| case | against | unit | ours | peer | ours / peer |"]
    lines.append("|---|---|---|---|---|---|")
    for row in rows:
        unit = row["unit"]
        if row["better"] == "higher":
            unit += ", more is better"
        cells = [row["case"], row["against"] or "–", unit]
        for name in ("ours", "peer", "ratio"):
            cells.append(cell(row.get(name), row.get(f"{name}_range")))
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def cell(value, limits=None):
    """A figure, and its range where the repeats differ."""
    if value is None:
        return "–"
    text = number(value)
    low, high = (number(limit) for limit in limits or (value, value))
    return text if low == high else f"{text} ({low}–{high})"


def number(value):
    """Three digits that mean something, never as a power of ten."""
    for limit, digits in ((100, 0), (10, 1), (1, 2)):
        if abs(value) >= limit:
            return f"{value:.{digits}f}"
    return f"{value:.3f}"


# === File ===


def merged(old, new):
    """Returns the old rows, with those that were measured again replaced."""
    compared = {_place(row) for row in new if row["against"]}
    rows = {
        _identity(row): row
        for row in old
        # Ours alone, from a run in which every peer failed.
        if row.get("against") or _place(row) not in compared
    }
    rows.update({_identity(row): row for row in new})
    return sorted(rows.values(), key=lambda row: [*map(str, _identity(row))])


def _identity(row):
    key = [row.get(name) for name in KEY]
    return (*key, str(sorted(row.get("versions", {}).items())))


def _place(row):
    return row["case"], row.get("cpu"), row.get("cores")


def by_processor(rows):
    """Returns a dict of processors' names and their latest rows."""
    latest = {}
    for row in rows:
        key = tuple(row.get(name) for name in KEY)
        if key not in latest or latest[key]["date"] <= row["date"]:
            latest[key] = row
    found = {}
    for row in latest.values():
        found.setdefault(row["cpu"], []).append(row)
    return found


def read(path):
    """The rows of a results file; none if there is no such file."""
    path = Path(path)
    if not path.exists():
        return []
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(
            f"A results file must be JSON. Received: {path} ({error}). "
            "Move it away, or name another with --results."
        ) from error
    if not isinstance(rows, list) or not all(
        isinstance(row, dict) and "case" in row for row in rows
    ):
        raise ValueError(
            "A results file must be a list of objects with `case`. "
            f"Received: {path}. Move it away, or name another with --results."
        )
    return rows


def save(path, new):
    """Merges rows into a results file."""
    write(Path(path), merged(read(path), new))


def write(path, found):
    """Writes JSON, whole or not at all."""
    text = json.dumps(found, indent=1, ensure_ascii=False)
    staged = path.with_name(f".{path.name}.{os.getpid()}")
    staged.write_text(text + "\n", encoding="utf-8")
    staged.replace(path)
