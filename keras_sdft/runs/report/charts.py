"""Which curves of a run are shown together, and how.

Must not know the page around them.
"""

import math
from typing import Any

from keras_sdft.runs.report.scalars import Curve


def charts_of(runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Returns the charts that there are curves for, as the page has them.

    Args:
        runs: List of dicts of `name` and `curves`.

    Returns:
        List of dicts of `id`, `title` and `series`; of these each has a
        `label`, a `style` (`"raw"`, `"line"` or `"points"`), the number of a
        `color`, and lists `x` of steps and `y` of values, `None` for NaN.
    """
    charts = [
        _chart(
            "loss",
            "Loss",
            runs,
            {"loss/train": "training", "loss/validation": "validation"},
        ),
        _chart(
            "parts",
            "Loss of instance and class images",
            runs,
            {"loss/instance": "instance", "loss/prior": "class (prior)"},
        ),
        _chart("rate", "Learning rate", runs, {"learning_rate": "rate"}),
        _chart(
            "speed", "Images a second", runs, {"images_per_second": "images/s"}
        ),
    ]
    return [chart for chart in charts if chart["series"]]


def _chart(
    name: str, title: str, runs: list[dict[str, Any]], tags: dict[str, str]
) -> dict[str, Any]:
    series: list[dict[str, Any]] = []
    several = len(runs) > 1
    for number, run in enumerate(runs):
        for place, (tag, label) in enumerate(tags.items()):
            if tag not in run["curves"]:
                continue
            if several:
                label = f"{run['name']}: {label}"
            lines = _lines(tag, run["curves"][tag], label, several)
            # Of several runs, each has its own colour.
            color = number if several else place
            series += [{"color": color, **line} for line in lines]
    return {"id": name, "title": title, "series": series}


def _lines(
    tag: str, curve: Curve, label: str, is_one_of_many: bool
) -> list[dict[str, Any]]:
    """Returns a curve as it is, and smoothed where it is noisy."""
    if tag == "loss/validation":
        return [_line(label, curve, "points")]
    if not tag.startswith("loss/"):
        return [_line(label, curve, "line")]
    smooth = _line(f"{label}, smoothed", curve.smoothed(), "line")
    return [smooth] if is_one_of_many else [_line(label, curve, "raw"), smooth]


def _line(label: str, curve: Curve, style: str) -> dict[str, Any]:
    curve = curve.thinned()
    values = [
        float(f"{value:.5g}") if math.isfinite(value) else None
        for value in curve.values
    ]
    return {"label": label, "style": style, "x": curve.steps, "y": values}
