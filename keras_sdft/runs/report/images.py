"""Images inside a page: which previews of a run it shows.

Must not know what they show.
"""

import functools
import os
from pathlib import Path

from keras_sdft.reprs import data_uri

# A page of a hundred images stays within what a mail can carry.
MAX_SIDE = 384
MAX_IMAGES = 96


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

    return [
        (prompt, data_uri(image, MAX_SIDE))
        for prompt, image in split_preview(path)
    ]
