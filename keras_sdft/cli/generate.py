"""`keras-sdft generate`: images from prompts, as PNG files."""

from __future__ import annotations

import dataclasses
import os
from typing import Literal

import numpy as np

from keras_sdft import adapters
from keras_sdft import checks
from keras_sdft import models
from keras_sdft.cli.command import Command
from keras_sdft.cli.command import Options


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
    """Generates images from prompts."""
    seeds = range(options.seed, options.seed + options.num_images)
    asked = [(prompt, seed) for prompt in options.prompt for seed in seeds]
    *paths, last = _paths(options, len(asked))
    given = ("height", "width", "prediction_type")
    sd = options.of(models.ModelOptions).load(
        **{name: getattr(options, name) for name in given}
    )
    options.of(adapters.AdapterFileOptions).load_into(sd)
    from keras_sdft import callbacks

    sampling = ("negative_prompt", "num_steps", "guidance_scale", "sampler")
    images = []
    for path, (prompt, seed) in zip(paths or [last], asked, strict=True):
        image = sd.text_to_image(
            prompt,
            # A list: of its seed alone each image can be generated again.
            seed=[seed],
            **{name: getattr(options, name) for name in sampling},
        )
        images.append(image)
        about = _about(options, prompt, seed)
        callbacks.save_png(callbacks.image_grid(image), path, about)
        print(path, flush=True)
    if paths:
        several = len(options.prompt) > 1
        grid = callbacks.image_grid(
            np.concatenate(images),
            columns=options.num_images if several else None,
            labels=options.prompt if several else None,
        )
        about = _about(options, " | ".join(options.prompt), options.seed)
        callbacks.save_png(grid, last, about)
        print(last)


def _about(options: Options, prompt: str, seed: int) -> dict[str, str]:
    """Returns the settings of an image, for the PNG's text chunks."""
    names = ("num_steps", "guidance_scale", "sampler", "model")
    used = [*(options.lora or ()), *(options.embedding or ())]
    return {
        **({"adapters": ", ".join(used)} if used else {}),
        **({"clip_skip": str(options.clip_skip)} if options.clip_skip else {}),
        "prompt": prompt,
        "negative_prompt": options.negative_prompt or "",
        "seed": str(seed),
        **{name: str(getattr(options, name)) for name in names},
    }


def _paths(options: Options, count: int) -> list[str]:
    """Returns the paths of the images and, if several, of their grid last."""
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
        models.ModelOptions,
        adapters.AdapterFileOptions,
        models.PredictionOptions,
    ),
    example=(
        'keras-sdft generate --model tiny --prompt "a red heart" '
        "--output heart.png"
    ),
)
