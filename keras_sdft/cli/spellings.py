"""Flags as diffusers, kohya's scripts and OneTrainer spell them."""

from __future__ import annotations

from collections.abc import Collection
from importlib import resources

import yaml

_FILE = resources.files("keras_sdft.cli").joinpath("spellings.yaml")
OURS: dict[str, str] = yaml.safe_load(_FILE.read_text(encoding="utf-8"))


def our_spelling(theirs: str, known: Collection[str]) -> str:
    """Returns which of the known flags `theirs` is, `""` for none."""
    name = theirs.lstrip("-").replace("-", "_")
    dashes = "--" if theirs.startswith("-") else ""
    for ours, others in OURS.items():
        if name in others.split() and f"{dashes}{ours}" in known:
            return f"`{dashes}{ours}`"
    return ""
