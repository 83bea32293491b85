"""Masks: where the loss counts, cut as their image and shrunk to latents.

Must not know captions, tokens or TensorFlow.
"""

import numpy as np
from PIL import Image

from keras_sdft.data import images
from keras_sdft.data import unreadable
from keras_sdft.data.examples import Example
from keras_sdft.data.examples import Examples
from keras_sdft.reprs import first_five

# Pixels on a side that one latent stands for; part of the batch's contract.
PIXELS_PER_LATENT = 8


def read_masked(
    example: Example, kind: str | None, size: tuple[int, int] | None = None
) -> tuple[Image.Image, Image.Image | None]:
    """Reads an image and its mask, both upright.

    The mask is `example.mask` for `kind="files"`, the alpha channel for
    `"alpha"`, and white without one; of mode `"L"`. It may have another size
    than the image, a JPEG that is decoded at a smaller scale. The kind `None`
    reads no mask.

    Raises:
        UnreadableImage: If one of the two cannot be read, or if their files
            have two sizes.
    """
    if kind == "alpha":
        both = images.read_image(example.image, size, rgb_and_alpha)
        return both.convert("RGB"), both.getchannel("A")
    image = images.read_image(example.image, size)
    if kind is None:
        return image, None
    if not _has_mask(example):
        return image, Image.new("L", image.size, 255)
    try:
        # By way of RGB, which scales 16 bits and lays alpha on white.
        mask = images.read_image(example.mask)
    except images.UnreadableImage as error:
        raise images.UnreadableImage(f"its mask: {error}") from error
    return image, mask.convert("L")


@images.DECODING.held()
def read_cropped(
    example: Example,
    masks: str | None,
    size: tuple[int, int],
    corner: tuple[float | None, float | None] = (None, None),
    flip: bool = False,
) -> tuple[np.ndarray, np.ndarray | None]:
    """Reads the part of an image that is shown, and of its mask.

    The kind of `masks` is that of `read_masked`, `size` is `(height, width)`
    in pixels, and `corner` is `(top, left)` of `images.crop_box`.

    Returns:
        `(pixels, mask)`: uint8 array of shape `(H, W, 3)`; and float32 array
        of shape `(H/8, W/8, 1)` or `None`.
    """
    image, mask = read_masked(example, masks, size)
    box = images.crop_box(image.size, *size, *corner)
    pixels = np.asarray(images.cut(image, box, *size, flip))
    if mask is None:
        return pixels, None
    return pixels, latent_mask(mask, image.size, box, *size, flip)


def latent_mask(
    mask: Image.Image,
    image_size: tuple[int, int],
    box: tuple[float, float, float, float],
    height: int,
    width: int,
    flip: bool = False,
) -> np.ndarray:
    """Cuts a mask as its image, and averages it over each latent's pixels.

    `image_size` is `(width, height)` of the image that `box` was found for by
    `images.crop_box`; the others are those of `images.cut`.

    Returns:
        Float32 array of shape `(height / 8, width / 8, 1)`, in `[0, 1]`.
    """
    across = mask.size[0] / image_size[0]
    down = mask.size[1] / image_size[1]
    part = (
        box[0] * across,
        box[1] * down,
        min(box[2] * across, mask.size[0]),
        min(box[3] * down, mask.size[1]),
    )
    # Bilinear, because Lanczos would ring at the mask's edges.
    resample, side = Image.Resampling.BILINEAR, PIXELS_PER_LATENT
    shown = images.cut(mask, part, height, width, flip, resample)
    blocks = np.asarray(shown, np.float32).reshape(
        height // side, side, width // side, side
    )
    return blocks.mean(axis=(1, 3), dtype=np.float32)[..., None] / 255


def check_masks(examples: Examples, kind: str, needed: bool = True) -> None:
    """Looks at the masks before training, without decoding them.

    Of more than `unreadable.CHECK_LIMIT` images an even sample is looked at.

    Raises:
        ValueError: If none has a mask where one is `needed`, or if a mask
            cannot be read or has another size than its image.
    """
    files = kind == "files"
    look = _has_mask if files else lambda e: images.has_alpha(e.image)
    rows = unreadable.sample_records(examples)
    seen = list(unreadable.attempts(examples.records, rows, look))
    wrong = [f"{name}: {why}" for name, _, why in seen if why and files]
    if wrong:
        raise ValueError(
            f"{len(wrong)} of {len(seen)} images have a mask that cannot be "
            f"used: {first_five(wrong)}. A mask must be an image of exactly "
            "the size of its own. Draw these again, or remove them to count "
            "the whole image."
        )
    if needed and not any(one.found for one in seen):
        raise ValueError(_NO_MASKS[kind].format(count=len(seen)))


_NO_MASKS = {
    "files": (
        "`masks='files'` needs masks, and none of {count} images has one. Put "
        "one beside each image, named as '0001-masklabel.png' for "
        "'0001.jpg'; in a table, name it in the column `mask_column`; or hand "
        "over `keras_sdft.data.Example(image, captions, mask=...)`."
    ),
    "alpha": (
        "`masks='alpha'` takes the mask from the images' alpha channel, and "
        "none of {count} images has one. Save them as PNG or WebP with "
        "transparency, or leave `masks` out."
    ),
}


def rgb_and_alpha(image: Image.Image) -> Image.Image:
    """Converts any mode to RGBA, with the colours as they are on white."""
    rgb = images.to_rgb(image)
    if image.has_transparency_data:
        rgb.putalpha(images.to_rgba(image).getchannel("A"))
    return rgb.convert("RGBA")


def _has_mask(example: Example) -> bool:
    """Returns whether there is a mask, and refuses one of another size."""
    if example.mask is None:
        return False
    own = images.image_size(example.image)
    try:
        height, width = images.image_size(example.mask)
    except images.UnreadableImage as error:
        raise images.UnreadableImage(f"its mask: {error}") from error
    if (height, width) != own:
        raise images.UnreadableImage(
            f"its mask has {width}x{height} pixels and the image "
            f"{own[1]}x{own[0]}"
        )
    return True
