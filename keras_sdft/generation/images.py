"""From requests to files of images, in batches that memory holds.

Must not know the formats of files.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np

from keras_sdft import adapters
from keras_sdft import models
from keras_sdft.generation.options import GenerateOptions
from keras_sdft.generation.options import Request
from keras_sdft.generation.output import paths_of
from keras_sdft.generation.output import save_image
from keras_sdft.host_memory import free_on_host
from keras_sdft.runs.memory import available_memory

_MAX_BATCH = 8
# Of the memory that is free, what a batch may take.
_SHARE = 0.5


def generate(
    options: GenerateOptions,
    model: models.ModelOptions,
    adapter_files: adapters.AdapterFileOptions | None = None,
    prediction_type: str | None = None,
) -> Iterator[str]:
    """Generates images, and yields the path of each file once it is written.

    Args:
        options: `GenerateOptions`.
        model: `keras_sdft.models.ModelOptions`.
        adapter_files: `keras_sdft.adapters.AdapterFileOptions`.
        prediction_type: What the model predicts, for files that do not say.

    Raises:
        FileExistsError: If a file is there and may not be replaced.
        ValueError: If an option is out of its range.
    """
    requests = options.requests()
    paths, grid = paths_of(options, requests)
    sd = model.load(
        height=options.height,
        width=options.width,
        prediction_type=prediction_type,
    )
    options = options.resolved(model.model, sd.spec)
    adapter_files = adapter_files or adapters.AdapterFileOptions()
    adapter_files.load_into(sd)
    about = _about(options, model, adapter_files)
    images = []
    from PIL import Image

    for path, one, image in zip(
        paths, requests, _images(sd, options, requests), strict=True
    ):
        save_image(Image.fromarray(image), path, about | _texts(one))
        images.append(image)
        yield path
    if grid is not None:
        _save_grid(options, requests, images, grid, about)
        yield grid


def _images(
    sd: Any, options: GenerateOptions, requests: list[Request]
) -> Iterator[np.ndarray]:
    """Yields the image of each request, in smaller batches if memory ends."""
    from tensorflow.errors import ResourceExhaustedError

    size = min(options.batch_size or _fitting(sd), len(requests))
    start = 0
    while start < len(requests):
        batch = requests[start : start + size]
        # Of one size, as another one is traced anew.
        filled = batch + batch[-1:] * (size - len(batch))
        try:
            images = _batch(sd, options, filled)
        except ResourceExhaustedError:
            if size == 1:
                raise
            size = size // 2
            continue
        yield from images[: len(batch)]
        start += size


def _batch(
    sd: Any, options: GenerateOptions, requests: list[Request]
) -> np.ndarray:
    negatives = [one.negative_prompt or "" for one in requests]
    return sd.text_to_image(
        [one.prompt for one in requests],
        negative_prompt=negatives if any(negatives) else None,
        num_steps=options.num_steps,
        guidance_scale=options.guidance_scale,
        sampler=options.sampler,
        # A list: of its seed alone each image can be generated again.
        seed=[one.seed for one in requests],
    )


def _fitting(sd: Any) -> int:
    """Returns how many images of a model memory holds, about."""
    import tensorflow as tf

    where, free = available_memory()
    if where == "CPU":
        free = free_on_host()
    elif free is not None:
        free -= tf.config.experimental.get_memory_info("GPU:0")["current"]
    if free is None:
        return 1
    return max(1, min(_MAX_BATCH, int(_SHARE * free / _image_bytes(sd))))


def _image_bytes(sd: Any) -> int:
    """Returns what one image takes at most, about.

    The largest attention of prompt and negative prompt together, or three
    activations of the decoder at full size.
    """
    spec = sd.spec
    places = sd.img_height * sd.img_width
    heads = spec.diffusion_model.num_heads[0]
    attention = 2 * heads * (places // 64) ** 2
    decoder = 3 * spec.autoencoder.decoder_widths[0] * places
    return 4 * max(attention, decoder)


def _about(
    options: GenerateOptions,
    model: models.ModelOptions,
    adapter_files: adapters.AdapterFileOptions,
) -> dict[str, str]:
    """Returns the settings that all images share, as texts."""
    used = [*(adapter_files.lora or ()), *(adapter_files.embedding or ())]
    found = {
        "adapters": ", ".join(used) or None,
        "clip_skip": model.clip_skip,
        "num_steps": options.num_steps,
        "guidance_scale": options.guidance_scale,
        "sampler": options.sampler,
        "model": model.model,
    }
    return {name: str(v) for name, v in found.items() if v is not None}


def _texts(request: Request) -> dict[str, str]:
    return {
        "prompt": request.prompt,
        "negative_prompt": request.negative_prompt or "",
        "seed": str(request.seed),
    }


def _save_grid(
    options: GenerateOptions,
    requests: list[Request],
    images: list[np.ndarray],
    path: str,
    about: dict[str, str],
) -> None:
    from keras_sdft import callbacks

    prompts = [one.prompt for one in requests[:: len(options.seeds)]]
    several = len(prompts) > 1
    grid = callbacks.image_grid(
        np.stack(images),
        columns=len(options.seeds) if several else None,
        labels=prompts if several else None,
    )
    texts = _texts(requests[0]) | {"prompt": " | ".join(prompts)}
    save_image(grid, path, about | texts)
