"""Class images of the base model, for prior preservation.

Must not know how an image is generated.
"""

import dataclasses
import os
import re
from typing import Any

from keras_sdft import checks
from keras_sdft.data.sources.dreambooth import add_to_record
from keras_sdft.data.sources.dreambooth import read_record
from keras_sdft.data.sources.filenames import is_photo
from keras_sdft.data.sources.filenames import walk
from keras_sdft.disk import check_space
from keras_sdft.disk import check_writable
from keras_sdft.reprs import first_five

_NAME = re.compile(r"seed-(\d+)\.png")
# What a file takes beside its pixels.
_HEADER_BYTES = 4096


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClassImageOptions:
    """The class images: those that are missing are generated.

    Args:
        num_class_images: How many class images class_data_dir shall hold.
        sample_batch_size: Class images that are generated at once.
        class_num_steps: Sampling steps of a class image. Defaults to the
            model's own.
        class_guidance_scale: Guidance of a class image. Defaults to the
            model's own.
    """

    num_class_images: int = 200
    sample_batch_size: int = 4
    class_num_steps: int | None = None
    class_guidance_scale: float | None = None

    def __post_init__(self) -> None:
        checks.integer("num_class_images", self.num_class_images, 1)
        checks.integer("sample_batch_size", self.sample_batch_size, 1)
        steps, scale = self.class_num_steps, self.class_guidance_scale
        checks.optional(checks.integer, "class_num_steps", steps, 1, 1000)
        checks.optional(checks.number, "class_guidance_scale", scale, 0)

    def missing(
        self, prompt: str, directory: str, side: tuple[int, int], seed: int = 0
    ) -> list[tuple[str, int]]:
        """Returns names and seeds of the images still to generate.

        All images in the folder count, whoever put them there. New ones get
        the next seeds that no image there has.

        Args:
            prompt: String, the class prompt.
            directory: Folder of class images; it need not exist.
            side: Height and width in pixels.
            seed: Integer >= 0, the first seed.

        Raises:
            OSError: If they cannot be written, or may need more of the disk
                than is free; each is counted as large as its pixels.
            ValueError: If those that are there were generated from another
                prompt.
        """
        checks.integer("seed", seed, 0)
        found = []
        if os.path.isdir(directory):
            found = [path for path in walk(directory) if is_photo(path)]
        _refuse_other_prompt(directory, found, prompt)
        used = {int(match[1]) for match in map(_NAME.fullmatch, found) if match}
        new: list[tuple[str, int]] = []
        while len(found) + len(new) < self.num_class_images:
            if seed not in used:
                new.append((f"seed-{seed:010d}.png", seed))
            seed += 1
        if new:
            check_writable(directory, "class_data_dir")
        check_space(
            directory,
            len(new) * (side[0] * side[1] * 3 + _HEADER_BYTES),
            f"`num_class_images` ({len(new)} still to generate)",
            "Or ask for fewer.",
        )
        return new


def _refuse_other_prompt(directory: str, found: list[str], prompt: str) -> None:
    record = read_record(directory)
    others = [
        name
        for name in found
        if name in record and record[name].get("text") != prompt
    ]
    if others:
        raise ValueError(
            f"{len(others)} images in {directory} were generated from another "
            f"class prompt: {first_five(others)} from "
            f"{record[others[0]].get('text')!r}. Received: "
            f"class_prompt={prompt!r}. Name another `class_data_dir`, or "
            "remove these images."
        )


def generate_class_images(
    stable_diffusion: Any,
    prompt: str,
    directory: str | os.PathLike,
    options: ClassImageOptions,
    *,
    seed: int = 0,
    negative_prompt: str | None = None,
    progress: bool = True,
) -> list[str]:
    """Generates class images until a folder holds as many as are wanted.

    Each image has its own seed, which its name, the PNG and a line of
    `class_images.jsonl` carry; `text_to_image(prompt, seed=...)` generates
    it again. A run that is stopped leaves whole images only, and the next one
    goes on.

    Args:
        stable_diffusion: A `keras_sdft.StableDiffusion`, before it is
            fine-tuned.
        prompt: String, the class prompt: `"a photo of dog"`.
        directory: Folder of class images; it is made if it is missing.
        options: `ClassImageOptions`.
        seed: Integer >= 0, the first seed. Defaults to `0`.
        negative_prompt: What to stay away from. Defaults to nothing.
        progress: Boolean, whether to show a bar. Defaults to `True`.

    Returns:
        List of strings, the paths of the new images.

    Raises:
        OSError, ValueError: See `ClassImageOptions.missing`.
    """
    from tqdm import tqdm

    directory = os.fspath(directory)
    side = stable_diffusion.img_height, stable_diffusion.img_width
    missing = options.missing(prompt, directory, side, seed)
    if not missing:
        return []
    os.makedirs(directory, exist_ok=True)
    about = {
        "text": prompt,
        "negative_prompt": negative_prompt or "",
        **stable_diffusion.spec.sampling(
            options.class_num_steps, options.class_guidance_scale
        ),
        "model": str(getattr(stable_diffusion, "base", "")),
    }
    paths: list[str] = []
    with tqdm(
        total=options.num_class_images,
        initial=options.num_class_images - len(missing),
        desc="class images",
        unit="image",
        disable=not progress,
    ) as bar:
        # The smallest size that all batches can have without a new trace.
        size = min(options.sample_batch_size, len(missing))
        for first in range(0, len(missing), size):
            batch = missing[first : first + size]
            images = _generate(
                stable_diffusion, [s for _, s in batch], size, about
            )
            for (name, own_seed), image in zip(batch, images, strict=True):
                paths.append(os.path.join(directory, name))
                _save(paths[-1], image, {**about, "seed": own_seed})
                bar.update()
    return paths


def _generate(
    sd: Any, seeds: list[int], size: int, about: dict[str, Any]
) -> Any:
    """Generates an image of each seed, in batches of always one size."""
    images = sd.generate_image(
        sd.encode_text(about["text"]),
        negative_prompt=about["negative_prompt"] or None,
        batch_size=size,
        num_steps=about["num_steps"],
        guidance_scale=about["guidance_scale"],
        seed=seeds + seeds[-1:] * (size - len(seeds)),
    )
    return images[: len(seeds)]


def _save(path: str, image: Any, about: dict[str, Any]) -> None:
    from PIL import Image

    from keras_sdft import callbacks

    height, width = image.shape[:2]
    row = {
        "file_name": os.path.basename(path),
        **about,
        "height": height,
        "width": width,
    }
    # First the line and then the image: none is there without its seed.
    add_to_record(os.path.dirname(path), row)
    text = {"prompt" if k == "text" else k: str(v) for k, v in about.items()}
    callbacks.save_png(Image.fromarray(image), path, text)
