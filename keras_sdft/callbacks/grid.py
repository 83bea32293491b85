"""Images side by side in one image, and a PNG written in one piece.

Knows pixels and labels; not how the images were made.
"""

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

from keras_sdft.files import atomic_file

_LABEL_WIDTH = 160
_LABEL_HEIGHT = 44
_FONT_SIZE = 13
_LINE_HEIGHT = 16
_MARGIN = 6
_GAP = 2


def image_grid(
    images: np.ndarray,
    columns: int | None = None,
    labels: Sequence[str] | None = None,
    column_labels: Sequence[str] | None = None,
    label_width: int = _LABEL_WIDTH,
) -> Image.Image:
    """Arranges images in rows, with labels to the left and on top.

    Args:
        images: Array of shape `(N, H, W, 3)`, uint8, N >= 1.
        columns: Int >= 1, images in a row. Defaults to the smallest square
            that holds all, or, with labels, to N / number of labels.
        labels: Strings, one per row, or `None` for no label column.
        column_labels: Strings, one per column, or `None` for no line of
            labels on top.
        label_width: Int, pixels of the label column. Defaults to 160.

    Returns:
        A `PIL.Image.Image` in RGB, on white.

    Raises:
        ValueError: If the array is no batch of uint8 RGB images, or if the
            labels are not one per row or column.
    """
    images = _checked_images(images)
    columns = _checked_columns(len(images), columns, labels)
    rows = math.ceil(len(images) / columns)
    _check_labels("labels", labels, rows, "row")
    _check_labels("column_labels", column_labels, columns, "column")
    height, width = images.shape[1:3]
    left = 0 if labels is None else label_width
    top = 0 if column_labels is None else _LABEL_HEIGHT
    size = (
        left + columns * (width + _GAP) - _GAP,
        top + rows * (height + _GAP) - _GAP,
    )
    grid = Image.new("RGB", size, "white")
    for index, image in enumerate(images):
        row, column = divmod(index, columns)
        corner = (left + column * (width + _GAP), top + row * (height + _GAP))
        grid.paste(Image.fromarray(image), corner)
    for row, label in enumerate(labels or ()):
        place = (0, top + row * (height + _GAP))
        _draw_label(grid, label, place, (label_width, height))
    for column, label in enumerate(column_labels or ()):
        place = (left + column * (width + _GAP), 0)
        _draw_label(grid, label, place, (width, _LABEL_HEIGHT))
    return grid


def rows(grid: Image.Image, count: int) -> list[Image.Image]:
    """Returns the images of a labelled `image_grid` of one column.

    Args:
        grid: `PIL.Image.Image`.
        count: Integer, how many there are.
    """
    if not count:
        return []
    height = (grid.height + _GAP) // count - _GAP
    tops = [index * (height + _GAP) for index in range(count)]
    return [
        grid.crop((_LABEL_WIDTH, top, grid.width, top + height)) for top in tops
    ]


def stack(grids: Sequence[Image.Image]) -> Image.Image:
    """Puts images under each other, left-aligned, on white."""
    size = (
        max(grid.width for grid in grids),
        sum(grid.height + _GAP for grid in grids) - _GAP,
    )
    whole = Image.new("RGB", size, "white")
    top = 0
    for grid in grids:
        whole.paste(grid, (0, top))
        top += grid.height + _GAP
    return whole


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
    info = PngImagePlugin.PngInfo()
    for name, value in (text or {}).items():
        info.add_itxt(name, str(value))
    with atomic_file(path) as file:
        image.save(file, format="PNG", pnginfo=info)


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


def _check_labels(
    name: str, labels: Sequence[str] | None, count: int, what: str
) -> None:
    if labels is not None and len(labels) != count:
        raise ValueError(
            f"`{name}` must hold one string per {what}. Received: "
            f"{len(labels)} labels for {count} {what}s."
        )


def _draw_label(
    grid: Image.Image,
    label: str,
    corner: tuple[int, int],
    size: tuple[int, int],
) -> None:
    font = ImageFont.load_default(_FONT_SIZE)
    # A label on images of a few pixels runs over; real ones hold it.
    across = max(8, (size[0] - 2 * _MARGIN) // 7)
    down = max(1, (size[1] - 2 * _MARGIN) // _LINE_HEIGHT)
    lines = textwrap.wrap(
        label, across, max_lines=down, placeholder=" ..."
    ) or ["(empty)"]
    draw = ImageDraw.Draw(grid)
    for number, line in enumerate(lines):
        left, top = corner[0] + _MARGIN, corner[1] + _MARGIN
        place = (left, top + number * _LINE_HEIGHT)
        draw.text(place, line, fill="black", font=font)
