"""`keras-sdft generate`: images from prompts, as PNG files."""

from __future__ import annotations

import dataclasses
import os
from typing import Any
from typing import Literal

from keras_sdft import adapters
from keras_sdft import checks
from keras_sdft.cli.command import Command
from keras_sdft.cli.command import Options
from keras_sdft.cli.options import ModelOptions
from keras_sdft.cli.options import PredictionOptions


@dataclasses.dataclass(frozen=True, kw_only=True)
class GenerateOptions:
    """The images: what to generate, and where to.

    Args:
        prompt: One text or several; `--prompt` may be repeated.
        output: Path of the PNG file. With several images it is their grid,
            and OUT_0.png, OUT_1.png and so on are the images.
        num_images: Images for each prompt.
        num_steps: Sampling steps, 1 to 1000.
        guidance_scale: How much the prompt counts; up to 1 it is used alone.
        sampler: How noise becomes an image; dpmpp_2m needs about half as
            many steps.
        seed: Seed of a prompt's first image; each next one adds 1.
        negative_prompt: What the image should not show.
        height: Height in pixels. Defaults to the model's own.
        width: Width in pixels. Defaults to the model's own.
        overwrite: Replace the files if they exist.
    """

    prompt: list[str]
    output: str
    num_images: int = 1
    num_steps: int = 25
    guidance_scale: float = 7.5
    sampler: Literal["ddim", "dpmpp_2m"] = "ddim"
    seed: int = 0
    negative_prompt: str | None = None
    height: int | None = None
    width: int | None = None
    overwrite: bool = False

    def __post_init__(self) -> None:
        if not self.output.lower().endswith(".png"):
            raise ValueError(
                "`output` must be the path of a PNG file, ending in '.png'. "
                f"Received: {self.output!r}."
            )
        checks.integer("num_images", self.num_images, 1)
        checks.integer("num_steps", self.num_steps, 1, 1000)
        checks.number("guidance_scale", self.guidance_scale, 0)
        checks.integer("seed", self.seed, 0)
        for name in ("height", "width"):
            if getattr(self, name) is not None:
                checks.multiple_of(name, getattr(self, name), 64, " pixels")


def generate(options: Options) -> None:
    """Generates images from prompts.

    Raises:
        ValueError: If an option is out of its range.
        FileExistsError: If a file is there and `overwrite` is not given.
    """
    count = len(options.prompt) * options.num_images
    paths = _paths(options, count)
    given = ("height", "width", "prediction_type")
    sd = options.of(ModelOptions).load(
        **{name: getattr(options, name) for name in given}
    )
    options.of(adapters.AdapterFileOptions).load_into(sd)
    from keras_sdft import callbacks

    images = []
    for index, path in enumerate(paths[:count]):
        about = _about(options, index)
        image = sd.text_to_image(
            about["prompt"],
            negative_prompt=options.negative_prompt,
            num_steps=options.num_steps,
            guidance_scale=options.guidance_scale,
            sampler=options.sampler,
            # A list: of its seed alone each image can be generated again.
            seed=[int(about["seed"])],
        )
        images.append(image)
        callbacks.save_png(callbacks.image_grid(image), path, about)
        print(path, flush=True)
    if count > 1:
        _save_grid(options, images, paths[-1])
        print(paths[-1])


def _about(options: Options, index: int) -> dict[str, str]:
    """Returns the settings of an image, for the PNG's text chunks."""
    names = ("num_steps", "guidance_scale", "sampler", "model")
    used = [*(options.lora or ()), *(options.embedding or ())]
    return {
        **({"adapters": ", ".join(used)} if used else {}),
        **({"clip_skip": str(options.clip_skip)} if options.clip_skip else {}),
        "prompt": options.prompt[index // options.num_images],
        "negative_prompt": options.negative_prompt or "",
        "seed": str(options.seed + index % options.num_images),
        **{name: str(getattr(options, name)) for name in names},
    }


def _save_grid(options: Options, images: list[Any], path: str) -> None:
    import numpy as np

    from keras_sdft import callbacks

    several = len(options.prompt) > 1
    grid = callbacks.image_grid(
        np.concatenate(images),
        columns=options.num_images if several else None,
        labels=options.prompt if several else None,
    )
    about = _about(options, 0) | {"prompt": " | ".join(options.prompt)}
    callbacks.save_png(grid, path, about)


def _paths(options: Options, count: int) -> list[str]:
    """Returns the paths of the images and, if several, of their grid last.

    Raises:
        FileExistsError: If one is there and may not be replaced.
    """
    paths = [options.output]
    if count > 1:
        stem, extension = os.path.splitext(options.output)
        paths = [f"{stem}_{i}{extension}" for i in range(count)] + paths
    taken = [path for path in paths if os.path.lexists(path)]
    if taken and not options.overwrite:
        more = f" (and {len(taken) - 1} more)" if len(taken) > 1 else ""
        raise FileExistsError(
            f"{taken[0]!r}{more} exists. Give another `--output`, or "
            "`--overwrite` to replace it."
        )
    if any(os.path.isdir(path) for path in taken):
        raise IsADirectoryError(
            f"`output` must be a file. Received: {options.output!r}, a "
            "directory."
        )
    return paths


COMMAND = Command(
    run=generate,
    groups=(
        GenerateOptions,
        ModelOptions,
        adapters.AdapterFileOptions,
        PredictionOptions,
    ),
    example=(
        'keras-sdft generate --model tiny --prompt "a red heart" '
        "--output heart.png"
    ),
)
