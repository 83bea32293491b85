"""Draws columns of a log as curves, in SVG.

Needs nothing but the log. Must not know what the columns mean.
"""

import csv
import math
import pathlib

WIDTH, HEIGHT, MARGIN = 640, 320, 48
COLOURS = ("#1e88e5", "#e53935", "#43a047", "#8e24aa", "#fb8c00", "#546e7a")


def read(path: pathlib.Path) -> "dict[str, list[float]]":
    """The columns of a `.csv` file with a header; NaN where one is empty."""
    with open(path, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    names = rows[0] if rows else ()
    return {n: [float(row[n] or math.nan) for row in rows] for n in names}


def draw(columns: "dict[str, list[float]]", names: "tuple[str, ...]") -> str:
    """Curves of columns over `"step"`, on a logarithmic axis.

    Args:
        columns: Dictionary of lists of one length.
        names: Tuple of the columns to draw, of values > 0.

    Returns:
        String, an SVG document.
    """
    steps = columns["step"]
    known = [v for name in names for v in columns[name] if v > 0]
    low, high = math.log10(min(known)), math.log10(max(known))
    high = max(high, low + 1e-3)

    def point(step, value):
        x = MARGIN + (WIDTH - 2 * MARGIN) * step / max(steps)
        share = (math.log10(max(value, 10**low)) - low) / (high - low)
        return f"{x:.1f},{HEIGHT - MARGIN - (HEIGHT - 2 * MARGIN) * share:.1f}"

    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" '
        f'height="{HEIGHT}" font-family="sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        _text(4, HEIGHT - MARGIN, f"{10**low:.3g}"),
        _text(4, MARGIN, f"{10**high:.3g}"),
        _text(WIDTH - 2 * MARGIN, HEIGHT - 16, f"step {max(steps):.0f}"),
    ]
    for index, name in enumerate(names):
        colour = COLOURS[index % len(COLOURS)]
        pairs = zip(steps, columns[name], strict=True)
        points = " ".join(point(s, v) for s, v in pairs if not math.isnan(v))
        lines.append(
            f'<polyline points="{points}" fill="none" stroke="{colour}"/>'
        )
        lines.append(_text(MARGIN + 96 * index, 20, name, colour))
    return "\n".join([*lines, "</svg>", ""])


def _text(x, y, words, colour="black"):
    return f'<text x="{x}" y="{y}" fill="{colour}">{words}</text>'
