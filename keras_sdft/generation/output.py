"""Files of generated images: their names, and the settings inside them.

Must not know how an image is generated.
"""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from keras_sdft import hub
from keras_sdft.files import atomic_file
from keras_sdft.generation.options import GenerateOptions
from keras_sdft.generation.options import Request
from keras_sdft.version import __version__

# As A1111 calls them; ComfyUI and galleries read the same line.
_SAMPLERS = {"ddim": "DDIM", "dpmpp_2m": "DPM++ 2M"}
_FORMATS = {".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}
_QUALITY = 95
_EXIF_IFD, _USER_COMMENT = 0x8769, 0x9286


def paths_of(
    options: GenerateOptions, requests: list[Request]
) -> tuple[list[str], str | None]:
    """Returns the paths of the images and, if there are several, of the grid.

    Raises:
        FileExistsError: If a file is there and may not be replaced.
        IsADirectoryError: If a directory is where a file is to be.
    """
    output, grid = options.output, None
    if options.is_folder:
        names = [
            f"{number:03}-{_slug(one.prompt)}-{one.seed}.png"
            for number, one in enumerate(requests)
        ]
        paths = [os.path.join(output, name) for name in names]
        grid = os.path.join(output, "grid.png")
    else:
        stem, extension = os.path.splitext(output)
        paths = [f"{stem}_{i}{extension}" for i in range(len(requests))]
        grid = output
    if len(requests) == 1:
        paths, grid = ([grid] if not options.is_folder else paths), None
    _check(paths if grid is None else [*paths, grid], options)
    return paths, grid


def _check(paths: list[str], options: GenerateOptions) -> None:
    taken = [path for path in paths if os.path.lexists(path)]
    if taken and not options.overwrite:
        more = f" (and {len(taken) - 1} more)" if len(taken) > 1 else ""
        raise FileExistsError(
            f"{taken[0]!r}{more} exists. Give another `--output`, or "
            "`--overwrite` to replace it."
        )
    if any(os.path.isdir(path) for path in taken):
        raise IsADirectoryError(
            f"`output` must be a file, or a folder that ends in {os.sep!r}. "
            f"Received: {options.output!r}, a directory."
        )


def _slug(prompt: str) -> str:
    words = re.sub(r"[^\w]+", "-", prompt.lower()).strip("-_")
    return words[:40].rstrip("-") or "image"


def parameters(about: Mapping[str, str], size: tuple[int, int]) -> str:
    """Returns the settings as A1111 writes them into an image.

    Args:
        about: Dict of texts: `prompt`, `negative_prompt`, `num_steps`,
            `sampler`, `guidance_scale`, `seed`, `model`, `clip_skip`.
        size: Width and height.
    """
    rows = {
        "Steps": about["num_steps"],
        "Sampler": _SAMPLERS.get(about["sampler"], about["sampler"]),
        "CFG scale": about["guidance_scale"],
        "Seed": about["seed"],
        "Size": f"{size[0]}x{size[1]}",
        "Model": _model_name(about["model"]),
        "Clip skip": about.get("clip_skip"),
        "Version": f"keras_sdft {__version__}",
    }
    settings = ", ".join(f"{k}: {v}" for k, v in rows.items() if v is not None)
    lines = [about["prompt"]]
    if about["negative_prompt"]:
        lines.append(f"Negative prompt: {about['negative_prompt']}")
    return "\n".join([*lines, settings])


def _model_name(model: str) -> str:
    if not hub.is_address(model):
        return Path(model).stem
    address = hub.parse(model, "model")
    return Path(address.path).stem or address.repo


def save_image(image: Any, path: str, about: Mapping[str, str]) -> None:
    """Writes an image with its settings, in the format of the path.

    A PNG has each as a text, and all of them as A1111's `parameters`; other
    formats have `parameters` as the comment of their EXIF data.

    Args:
        image: `PIL.Image.Image`.
        path: Path of the file.
        about: As for `parameters`.
    """
    from keras_sdft import callbacks

    text = parameters(about, image.size)
    extension = os.path.splitext(path)[1].lower()
    if extension not in _FORMATS:
        callbacks.save_png(image, path, {**about, "parameters": text})
        return
    exif = image.getexif()
    comment = b"UNICODE\0" + text.encode("utf-16-be")
    exif.get_ifd(_EXIF_IFD)[_USER_COMMENT] = comment
    with atomic_file(path) as file:
        image.save(file, _FORMATS[extension], quality=_QUALITY, exif=exif)
