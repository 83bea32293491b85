"""Images side by side in one picture, and a PNG written in one piece.

Knows pixels and labels; not how the images were made.
"""

from __future__ import annotations

import math
import os
import textwrap
from collections.abc import Mapping
from collections.abc import Sequence

import numpy as np
from PIL import Image
from PIL import ImageDraw
from PIL import ImageFont
from PIL import PngImagePlugin

_LABEL_WIDTH = 160
_FONT_SIZE = 13
_LINE_HEIGHT = 16
_MARGIN = 6
_GAP = 2


def image_grid(
    images: np.ndarray,
    columns: int | None = None,
    labels: Sequence[str] | None = None,
) -> Image.Image:
    """Lays images out in rows, with a label to the left of each row.

    Args:
        images: Array of shape `(N, H, W, 3)`, uint8, N >= 1.
        columns: Int >= 1, images in a row. Defaults to the smallest square
            that holds all, or, with labels, to N / number of labels.
        labels: Strings, one per row, or `None` for no label column.

    Returns:
        A `PIL.Image.Image` in RGB, on white.

    Raises:
        ValueError: If the array is no batch of uint8 RGB images, or if the
            labels are not one per row.
    """
    images = _checked_images(images)
    columns = _checked_columns(len(images), columns, labels)
    rows = math.ceil(len(images) / columns)
    if labels is not None and len(labels) != rows:
        raise ValueError(
            "`labels` must hold one string per row. Received: "
            f"{len(labels)} labels for {rows} rows "
            f"({len(images)} images, {columns} columns)."
        )
    height, width = images.shape[1:3]
    left = 0 if labels is None else _LABEL_WIDTH
    size = (
        left + columns * (width + _GAP) - _GAP,
        rows * (height + _GAP) - _GAP,
    )
    grid = Image.new("RGB", size, "white")
    for index, image in enumerate(images):
        row, column = divmod(index, columns)
        corner = (left + column * (width + _GAP), row * (height + _GAP))
        grid.paste(Image.fromarray(image), corner)
    for row, label in enumerate(labels or ()):
        _draw_label(grid, label, row * (height + _GAP), height)
    return grid


def save_png(
    image: Image.Image,
    path: str | os.PathLike,
    text: Mapping[str, str] | None = None,
) -> None:
    """Writes a PNG so that `path` is never half a file.

    Args:
        image: `PIL.Image.Image`.
        path: Path of the file. Missing folders are made, an existing file
            is replaced.
        text: Strings by name, kept in the file as PNG text chunks.
    """
    path = os.fspath(path)
    directory = os.path.dirname(os.path.abspath(path))
    os.makedirs(directory, exist_ok=True)
    info = PngImagePlugin.PngInfo()
    for name, value in (text or {}).items():
        info.add_itxt(name, str(value))
    # The process number keeps two writers of one path apart.
    temporary = f"{path}.{os.getpid()}.tmp"
    try:
        image.save(temporary, format="PNG", pnginfo=info)
        os.replace(temporary, path)
    finally:
        if os.path.exists(temporary):
            os.remove(temporary)


def _checked_images(images: np.ndarray) -> np.ndarray:
    images = np.asarray(images)
    if (
        images.ndim != 4
        or images.shape[-1] != 3
        or images.shape[0] < 1
        or images.dtype != np.uint8
    ):
        raise ValueError(
            "`images` must be a uint8 array of shape (N, H, W, 3), N >= 1. "
            f"Received: shape={images.shape}, dtype={images.dtype}."
        )
    return images


def _checked_columns(
    count: int, columns: int | None, labels: Sequence[str] | None
) -> int:
    if columns is None:
        if labels:
            return math.ceil(count / len(labels))
        return math.ceil(math.sqrt(count))
    if columns < 1:
        raise ValueError(f"`columns` must be 1 or more. Received: {columns}.")
    return columns


def _draw_label(grid: Image.Image, label: str, top: int, height: int) -> None:
    font = ImageFont.load_default(_FONT_SIZE)
    across = (_LABEL_WIDTH - 2 * _MARGIN) // 7
    down = max(1, (height - 2 * _MARGIN) // _LINE_HEIGHT)
    lines = textwrap.wrap(
        label, across, max_lines=down, placeholder=" ..."
    ) or ["(empty)"]
    draw = ImageDraw.Draw(grid)
    for number, line in enumerate(lines):
        corner = (_MARGIN, top + _MARGIN + number * _LINE_HEIGHT)
        draw.text(corner, line, fill="black", font=font)
