"""Class images of the base model, for prior preservation.

Must not know how an image is generated; what is missing is counted by
`keras_sdft.data`.
"""

from __future__ import annotations

import os
from typing import Any

from keras_sdft import checks


def generate_class_images(
    stable_diffusion: Any,
    prompt: str,
    directory: str | os.PathLike,
    num_images: int,
    *,
    batch_size: int = 4,
    seed: int = 0,
    num_steps: int = 50,
    guidance_scale: float = 7.5,
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
        num_images: Integer >= 1, how many it shall hold.
        batch_size: Integer >= 1, images generated together. Defaults to `4`.
        seed: Integer >= 0, the first seed. Defaults to `0`.
        num_steps: Integer >= 1, sampling steps. Defaults to `50`.
        guidance_scale: Float, how closely to follow the prompt. Defaults to
            `7.5`.
        negative_prompt: What to stay away from. Defaults to nothing.
        progress: Boolean, whether to show a bar. Defaults to `True`.

    Returns:
        List of strings, the paths of the new images.

    Raises:
        ValueError: If `num_images` or `batch_size` is less than 1, if the
            disk has no room for the images, or if those in the folder were
            generated from another prompt.
    """
    from tqdm import tqdm

    from keras_sdft import data

    checks.integer("batch_size", batch_size, 1)
    directory = os.fspath(directory)
    missing = data.missing_class_images(directory, num_images, prompt, seed)
    data.check_disk_space(
        directory,
        len(missing),
        stable_diffusion.img_height,
        stable_diffusion.img_width,
    )
    if not missing:
        return []
    os.makedirs(directory, exist_ok=True)
    about = {
        "text": prompt,
        "negative_prompt": negative_prompt or "",
        "num_steps": num_steps,
        "guidance_scale": guidance_scale,
        "model": str(getattr(stable_diffusion, "base", "")),
    }
    paths: list[str] = []
    with tqdm(
        total=num_images,
        initial=num_images - len(missing),
        desc="class images",
        unit="image",
        disable=not progress,
    ) as bar:
        # The smallest size that all batches can have without a new trace.
        size = min(batch_size, len(missing))
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
    from keras_sdft import data

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
