"""`keras-sdft generate`: images from prompts, as PNG files.

Knows prompts, seeds and files; generating is the model's.
"""

from __future__ import annotations

import dataclasses
import os
from typing import Any
from typing import Literal

from keras_sdft import checks
from keras_sdft.cli.command import Command
from keras_sdft.cli.command import Options
from keras_sdft.cli.model import MixedPrecision
from keras_sdft.cli.model import PredictionType
from keras_sdft.cli.model import load_model

Sampler = Literal["ddim", "dpmpp_2m"]


@dataclasses.dataclass(frozen=True)
class GenerateOptions:
    """What to generate, with which model, and where to.

    Args:
        model: A preset, a run, an exported directory or a weight file.
        prompt: One text or several; `--prompt` may be repeated.
        output: Path of the PNG file. With several images it is their grid,
            and OUT_0.png, OUT_1.png and so on are the images.
        num_images: Images for each prompt.
        num_steps: Sampling steps, 1 to 1000.
        guidance_scale: How much the prompt counts; up to 1 it is used
            alone.
        sampler: ddim, or dpmpp_2m (DPM++ 2M), which needs about half as
            many steps.
        clip_skip: Text encoder's layer that gives the context, counted from
            the last: 2 is the one before it. Defaults to the model's own.
        seed: Seed of a prompt's first image; each next one adds 1.
        negative_prompt: What the image should not show.
        height: Height in pixels. Defaults to the model's own.
        width: Width in pixels. Defaults to the model's own.
        mixed_precision: Numbers to compute with: no, bf16 or fp16.
        weights_directory: Directory with local copies of a preset's
            published files.
        prediction_type: What the model predicts, for files that do not say.
        overwrite: Replace the files if they exist.
    """

    model: str
    prompt: list[str]
    output: str
    num_images: int = 1
    num_steps: int = 25
    guidance_scale: float = 7.5
    sampler: Sampler = "ddim"
    clip_skip: int | None = None
    seed: int = 0
    negative_prompt: str | None = None
    height: int | None = None
    width: int | None = None
    mixed_precision: MixedPrecision = "no"
    weights_directory: str | None = None
    prediction_type: PredictionType | None = None
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


def generate(options: Options) -> None:
    """Generates images from prompts.

    Args:
        options: `Options`.

    Raises:
        ValueError: If an option is out of its range.
        FileExistsError: If a file is there and `overwrite` is not given.
    """
    paths = _paths(options)
    sd = load_model(
        options.model,
        options.height,
        options.width,
        options.mixed_precision,
        options.weights_directory,
        options.prediction_type,
        clip_skip=options.clip_skip,
    )
    from keras_sdft import callbacks

    images = []
    for index, path in enumerate(paths[: _count(options)]):
        image = _generate(sd, options, index)
        images.append(image)
        text = _text(options, index)
        callbacks.save_png(callbacks.image_grid(image), path, text)
        print(path, flush=True)
    if len(images) > 1:
        _save_grid(options, images, paths[-1])
        print(paths[-1])


def _generate(sd: Any, options: Options, index: int) -> Any:
    """Generates the image `index`; its seed alone gives it again."""
    return sd.text_to_image(
        options.prompt[index // options.num_images],
        negative_prompt=options.negative_prompt,
        batch_size=1,
        num_steps=options.num_steps,
        guidance_scale=options.guidance_scale,
        sampler=options.sampler,
        seed=options.seed + index % options.num_images,
    )


def _text(options: Options, index: int) -> dict[str, str]:
    """Returns the settings of an image, for the PNG's text chunks."""
    return {
        "prompt": options.prompt[index // options.num_images],
        "negative_prompt": options.negative_prompt or "",
        "seed": str(options.seed + index % options.num_images),
        "num_steps": str(options.num_steps),
        "guidance_scale": str(options.guidance_scale),
        "sampler": options.sampler,
        "model": options.model,
    }


def _save_grid(options: Options, images: list, path: str) -> None:
    import numpy as np

    from keras_sdft import callbacks

    several = len(options.prompt) > 1
    grid = callbacks.image_grid(
        np.concatenate(images),
        columns=options.num_images if several else None,
        labels=options.prompt if several else None,
    )
    text = _text(options, 0)
    text["prompt"] = " | ".join(options.prompt)
    callbacks.save_png(grid, path, text)


def _count(options: Options) -> int:
    return len(options.prompt) * options.num_images


def _paths(options: Options) -> list[str]:
    """Returns the paths of the images and, if several, of their grid last.

    Raises:
        FileExistsError: If one is there and may not be replaced.
    """
    paths = [options.output]
    if _count(options) > 1:
        stem, extension = os.path.splitext(options.output)
        numbered = [f"{stem}_{i}{extension}" for i in range(_count(options))]
        paths = numbered + paths
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
    groups=(GenerateOptions,),
    example=(
        'keras-sdft generate --model tiny --prompt "a red heart" '
        "--output heart.png"
    ),
)
