"""DreamBooth: photos of a subject, and images of its class -> batches.

Must not know models or losses, nor how class images are generated.
"""

import dataclasses
import os
from typing import TYPE_CHECKING
from typing import Any

import numpy as np

from keras_sdft import hub
from keras_sdft import signature
from keras_sdft.data.captions import Tokenizer
from keras_sdft.data.examples import Examples
from keras_sdft.data.options import DreamboothLoadOptions
from keras_sdft.data.pipeline import Pipeline
from keras_sdft.data.prompts import check_dreambooth_prompts
from keras_sdft.data.report import Report
from keras_sdft.data.sources.dreambooth import check_dreambooth_folders
from keras_sdft.data.sources.folders import read_photos

if TYPE_CHECKING:
    import tensorflow as tf


@signature.takes(DreamboothLoadOptions)
def load_dreambooth(
    instance_data_dir: str | os.PathLike,
    tokenizer: Tokenizer,
    *,
    cache: Any = None,
    report: Report | None = None,
    **options: Any,
) -> "tf.data.Dataset":
    """Loads photos of a subject as batches for `keras_sdft.Trainer`.

    All photos have the same caption, the instance prompt. With a class prompt
    there is prior preservation: each batch holds as many class images as
    photos, a photo and a class image in turn, so it is twice `batch_size`
    long. It then has the key `prior`, float32 of shape `(B,)`, 1 for class
    images and else 0, and `example_weight` makes the batch's mean loss the
    photos' mean plus `prior_loss_weight` times the class images' mean.

    With `prior_preservation="base"` the photos themselves, with the class
    prompt, stand in place of class images, and the key `base_target`, equal to
    `prior`, asks for the base's own prediction as their target.

    An epoch is a pass over the photos; class images have an order of their own.

    Args:
        instance_data_dir: Folder of 3 to 30 photos of the subject, or
            `"hf://owner/name"`. Caption files and tables in it are not read.
        tokenizer: The tokenizer of the model, `stable_diffusion.tokenizer`.
        **options: The fields of `keras_sdft.data.SubjectOptions`,
            `ImageOptions`, `EpochOptions`, `TagOptions` and `BatchOptions`.
        cache: See `keras_sdft.data.load`.
        report: See `keras_sdft.data.load`.

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
    chosen = signature.make(DreamboothLoadOptions, options)
    pipeline = Pipeline(tokenizer, chosen, cache, report)
    instance, folder = chosen.instance_prompt, chosen.class_data_dir
    check_dreambooth_prompts(instance, chosen.class_prompt, chosen.token)
    class_prompt = chosen.class_prompt if chosen.needs_class_images else None
    check_dreambooth_folders(instance_data_dir, folder, class_prompt)
    photos = read_photos(hub.local(instance_data_dir, "data"), instance)
    photos = pipeline.checked(os.fspath(instance_data_dir), photos)
    photos = photos.repeated(chosen.repeats)
    if chosen.class_prompt is None:
        return pipeline.batches(photos)
    classes, caption = photos, chosen.class_prompt
    if chosen.needs_class_images:
        classes = read_photos(folder, caption)
        classes = pipeline.checked(os.fspath(folder), classes, needs_mask=False)
    weight = chosen.prior_loss_weight
    both = with_class_examples(photos, classes, caption, weight)
    return pipeline.batches(photos, both)


def with_class_examples(
    instances: Examples,
    classes: Examples,
    class_prompt: str,
    prior_loss_weight: float,
) -> Examples:
    """Returns instance examples, then class examples, with their weights.

    A batch holds as many of the one as of the other. Instance examples weigh
    2 and class examples `2 * prior_loss_weight`, so the batch's mean of
    (weight * loss) is the mean over the instance examples plus
    `prior_loss_weight` times the mean over the class examples.

    References:
        Ruiz et al., DreamBooth, 2022, section 3.3.
    """

    def weighted(examples: Examples, factor: float, **changes: Any) -> list:
        return [
            dataclasses.replace(each, weight=factor * each.weight, **changes)
            for each in Examples(examples.records)
        ]

    first, factor = weighted(instances, 2.0), 2.0 * prior_loss_weight
    others = weighted(classes, factor, captions=(class_prompt,))
    rows = [instances.rows, len(first) + classes.rows]
    return Examples(first + others, np.concatenate(rows))
