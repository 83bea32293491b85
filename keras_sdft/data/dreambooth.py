"""DreamBooth: photos of a subject, and images of its class -> batches.

This file orders the room's other files for two folders instead of one source.
It must not know models or losses, nor how class images are generated.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING
from typing import Any

from keras_sdft.data.captions import Tokenizer
from keras_sdft.data.dreambooth_folders import check_dreambooth_folders
from keras_sdft.data.dreambooth_prompts import check_dreambooth_prompts
from keras_sdft.data.epochs import EpochPlan
from keras_sdft.data.epochs import PriorPlan
from keras_sdft.data.examples import Examples
from keras_sdft.data.folders import read_photos
from keras_sdft.data.options import Options
from keras_sdft.data.options import options_from
from keras_sdft.data.pipeline import assigned
from keras_sdft.data.pipeline import check_plan
from keras_sdft.data.pipeline import checked
from keras_sdft.data.pipeline import dataset_of
from keras_sdft.data.prior import PriorRecords
from keras_sdft.data.prior import check_prior_loss_weight
from keras_sdft.data.sources import check_repeats

if TYPE_CHECKING:
    import tensorflow as tf


def load_dreambooth(
    instance_data_dir: str | os.PathLike,
    tokenizer: Tokenizer,
    *,
    instance_prompt: str,
    class_data_dir: str | os.PathLike | None = None,
    class_prompt: str | None = None,
    prior_loss_weight: float = 1.0,
    token: str | None = None,
    resolution: int | tuple[int, int] = 512,
    batch_size: int = 1,
    repeats: int = 1,
    drop_remainder: bool = False,
    **options: Any,
) -> tf.data.Dataset:
    """Loads photos of a subject as batches for `keras_sdft.Trainer`.

    All photos have the same caption, the instance prompt. With a class prompt
    there is prior preservation: each batch holds as many class images as
    photos, a photo and a class image in turn, so it is twice `batch_size`
    long. It then has the key `prior`, float32 of shape `(B,)`, 1 for class
    images and else 0, and `example_weight` makes the batch's mean loss the
    photos' mean plus `prior_loss_weight` times the class images' mean.

    An epoch is a pass over the photos. Class images go round in an order of
    their own: all are shown before one is shown again.

    Args:
        instance_data_dir: Folder of 3 to 30 photos of the subject. Caption
            files and tables in it are not read.
        tokenizer: The tokenizer of the model, `stable_diffusion.tokenizer`.
        instance_prompt: String that names the subject with a rare token: `"a
            photo of sks dog"`.
        class_data_dir: Folder of images of the class, see
            `keras_sdft.data.missing_class_images`.
        class_prompt: String that names the class: `"a photo of dog"`. `None`
            (the default) is without prior preservation.
        prior_loss_weight: Float >= 0. Defaults to `1.0`.
        token: String, the subject's token. `None` (the default) finds it as
            what only the instance prompt has.
        resolution: See `keras_sdft.data.load`. Defaults to `512`.
        batch_size: Integer, photos in a batch. Defaults to `1`.
        repeats: Integer >= 1, how often an epoch shows each photo. Defaults
            to `1`.
        drop_remainder: Boolean, whether an epoch leaves out the last photos
            that fill no batch. `False` (the default) fills their batch up
            with other photos, and lowers the weights of those that are shown
            twice.
        **options: More of `keras_sdft.data.load`: `shuffle`, `seed`, `epoch`,
            `repeat`, `crop`, `horizontal_flip`, `caption_dropout`, `masks`
            (photos; a class image without one counts whole), `buckets` (a
            class image is cropped to the size of the photo before it),
            `max_unreadable`, `report`, `cache`.

    Returns:
        `tf.data.Dataset` of batches, prefetched, of known length.

    Raises:
        FileNotFoundError: If a folder does not exist.
        ValueError: If an argument is out of its range, if a folder holds no
            images, if the two folders are the same, one inside the other or
            share an image, or if the prompts do not tell subject from class.

    Example:

    ```python
    dataset = keras_sdft.data.load_dreambooth(
        "photos",
        stable_diffusion.tokenizer,
        instance_prompt="a photo of sks dog",
        class_data_dir="class",
        class_prompt="a photo of dog",
    )
    ```
    """
    chosen = options_from(
        resolution=resolution,
        batch_size=batch_size,
        drop_remainder=drop_remainder,
        **options,
    )
    weight = check_prior_loss_weight(prior_loss_weight)
    check_dreambooth_prompts(instance_prompt, class_prompt, token)
    check_dreambooth_folders(instance_data_dir, class_data_dir, class_prompt)
    times = check_repeats(repeats)
    if times is None:
        raise ValueError(
            "`repeats` must be an integer for photos in a folder. Received: "
            f"repeats={repeats!r}."
        )
    photos = _checked_photos(instance_data_dir, instance_prompt, chosen)
    photos = photos.repeated(times)
    if class_prompt is None:
        return _batches(photos, photos, tokenizer, chosen, None)
    classes = _checked_photos(
        class_data_dir or "", class_prompt, chosen, needs_mask=False
    )
    both = Examples(PriorRecords(photos, classes, weight))
    return _batches(photos, both, tokenizer, chosen, len(photos))


def _checked_photos(
    folder: str | os.PathLike,
    prompt: str,
    options: Options,
    needs_mask: bool = True,
) -> Examples:
    photos = read_photos(os.fspath(folder), prompt)
    examples = checked(photos, options, needs_mask)
    if not len(examples):
        raise ValueError(
            f"No image in {os.fspath(folder)} can be read. Look at the report "
            "of unreadable images."
        )
    return examples


def _batches(
    photos: Examples,
    examples: Examples,
    tokenizer: Tokenizer,
    options: Options,
    first_class: int | None,
) -> tf.data.Dataset:
    assignment = assigned(photos, options)
    own = EpochPlan(
        assignment.bucket_of,
        options.batch_size,
        seed=options.seed,
        shuffle=options.shuffle,
        remainder="drop" if options.drop_remainder else "fill",
    )
    check_plan(own, assignment, options)
    if first_class is None:
        return dataset_of(
            photos, tokenizer, options, own, assignment, options.batch_size
        )
    plan = PriorPlan(
        own,
        first_class,
        len(examples) - first_class,
        seed=options.seed,
        shuffle=options.shuffle,
    )
    rows = 2 * options.batch_size
    return dataset_of(
        examples, tokenizer, options, plan, assignment, rows, first_class
    )
