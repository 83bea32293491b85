"""Class images of the base model, for prior preservation.

Must not know how an image is generated; what is missing is counted by
`keras_sdft.data`.
"""

from __future__ import annotations

import dataclasses
import os
from typing import Any

from keras_sdft import checks
from keras_sdft import data
from keras_sdft.files import check_writable


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClassImageOptions:
    """The class images: those that are missing are generated.

    Args:
        num_class_images: How many class images class_data_dir shall hold.
        sample_batch_size: Class images that are generated at once.
        class_num_steps: Sampling steps of a class image.
        class_guidance_scale: Guidance of a class image.
    """

    num_class_images: int = 200
    sample_batch_size: int = 4
    class_num_steps: int = 50
    class_guidance_scale: float = 7.5

    def __post_init__(self) -> None:
        checks.integer("num_class_images", self.num_class_images, 1)
        checks.integer("sample_batch_size", self.sample_batch_size, 1)
        checks.integer("class_num_steps", self.class_num_steps, 1, 1000)
        checks.number("class_guidance_scale", self.class_guidance_scale, 0)

    def missing(
        self, prompt: str, directory: str, side: tuple[int, int], seed: int = 0
    ) -> list[tuple[str, int]]:
        """Returns names and seeds of the images still to generate.

        Args:
            prompt: String, the class prompt.
            directory: Folder of class images; it need not exist.
            side: Height and width in pixels.
            seed: Integer >= 0, the first seed.

        Raises:
            OSError: If they cannot be written, or the disk has no room.
            ValueError: If those that are there were generated from another
                prompt.
        """
        count = self.num_class_images
        found = data.missing_class_images(directory, count, prompt, seed)
        if found:
            check_writable(directory, "class_data_dir")
        data.check_disk_space(directory, len(found), *side)
        return found


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
        "num_steps": options.class_num_steps,
        "guidance_scale": options.class_guidance_scale,
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
    data.add_to_record(os.path.dirname(path), row)
    text = {"prompt" if k == "text" else k: str(v) for k, v in about.items()}
    callbacks.save_png(Image.fromarray(image), path, text)
