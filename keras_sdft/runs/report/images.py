"""Images inside a page: small ones, as text.

Must not know what they show.
"""

import base64
import functools
import io
import os
from pathlib import Path
from typing import Any

# A page of a hundred images stays within what a mail can carry.
MAX_SIDE = 384
MAX_IMAGES = 96
_QUALITY = 80


def data_uri(image: Any, most: int = MAX_SIDE) -> str:
    """Returns an image as a `data:` URI of WebP.

    Args:
        image: `PIL.Image.Image`.
        most: Integer, pixels that its longer side is reduced to.
    """
    image = image.convert("RGB")
    image.thumbnail((most, most))
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", quality=_QUALITY, method=4)
    data = base64.b64encode(buffer.getvalue()).decode("ascii")
    return f"data:image/webp;base64,{data}"


def preview_steps(directory: str | os.PathLike, prompts: int) -> list[Path]:
    """Returns the previews to show, the first and the last among them.

    Args:
        directory: Directory of previews; it need not exist.
        prompts: Integer, images in each.
    """
    paths = sorted(Path(directory).glob("step_*.png"), key=step_of)
    most = max(2, MAX_IMAGES // max(prompts, 1))
    if len(paths) <= most:
        return paths
    places = [i * (len(paths) - 1) / (most - 1) for i in range(most)]
    return [paths[round(place)] for place in places]


def step_of(path: Path) -> int:
    """Returns the optimizer step of a preview."""
    return int(path.stem.removeprefix("step_"))


def read_preview(path: Path) -> list[tuple[str, str]]:
    """Returns the prompts of a preview and their images as URIs."""
    found = path.stat()
    return _read_preview(path, found.st_mtime_ns, found.st_size)


@functools.lru_cache(1024)
def _read_preview(path: Path, *changed: int) -> list[tuple[str, str]]:
    # While a run goes on, each page shows the earlier previews again.
    from keras_sdft.callbacks.previews import split_preview

    return [(prompt, data_uri(image)) for prompt, image in split_preview(path)]
