"""Epochs: which examples one shows, in which order, and each as arrays.

Every random number here is a function of (seed, epoch, example), so any batch
can be made again without those before it. This file must not know TensorFlow.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np

from keras_sdft.data.captions import CaptionTokens
from keras_sdft.data.captions import choose_caption
from keras_sdft.data.examples import Examples
from keras_sdft.data.images import UnreadableImage
from keras_sdft.data.images import fit
from keras_sdft.data.images import read_rgb
from keras_sdft.data.unreadable import Unreadable

logger = logging.getLogger(__name__)

# First words of the random streams, so that no two can coincide.
_ORDER_STREAM, _EXAMPLE_STREAM = 1, 2
_MAX_ATTEMPTS = 100


def epoch_order(
    epoch: int, count: int, used: int, seed: int, shuffle: bool
) -> np.ndarray:
    """Returns the examples of an epoch, in order.

    Args:
        epoch: Integer >= 0.
        count: Integer, the number of examples.
        used: Integer <= `count`, how many of them the epoch shows.
        seed: Integer >= 0.
        shuffle: Boolean.

    Returns:
        int64 array of shape `(used, 2)`: the example, and the epoch.
    """
    if shuffle:
        draws = np.random.default_rng([_ORDER_STREAM, seed, int(epoch)])
        order = draws.permutation(count)[:used]
    else:
        order = np.arange(used)
    return np.stack([order, np.full(used, epoch)], axis=1).astype(np.int64)


class ExampleMaker:
    """Makes one example of an epoch: pixels, token ids and weight.

    Args:
        examples: `Examples`.
        tokens: `CaptionTokens`.
        size: `(height, width)` in pixels.
        seed: Integer >= 0.
        random_crop: Boolean; `False` crops the centre.
        horizontal_flip: Boolean, whether half of the images are mirrored.
        templates: Sequence of strings that hold `"{caption}"`.
        caption_dropout: Float in `[0, 1]`.
        report: `Unreadable`, which receives the images that cannot be read.
    """

    def __init__(
        self,
        examples: Examples,
        tokens: CaptionTokens,
        size: tuple[int, int],
        *,
        seed: int,
        random_crop: bool,
        horizontal_flip: bool,
        templates: Sequence[str],
        caption_dropout: float,
        report: Unreadable,
    ):
        self._examples = examples
        self._tokens = tokens
        self.size = size
        self._seed = seed
        self._random_crop = random_crop
        self._horizontal_flip = horizontal_flip
        self._templates = templates
        self._caption_dropout = caption_dropout
        self._report = report

    def __call__(
        self, row: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.float32]:
        """Makes the example of a row of `epoch_order`.

        Args:
            row: int64 array of shape `(2,)`: the example, and the epoch.

        Returns:
            `(image, token_ids, weight)`: uint8 of shape `(H, W, 3)`, int32 of
            shape `(77,)` and float32.

        Raises:
            RuntimeError: If 100 images in a row cannot be read.
        """
        index, epoch = (int(number) for number in row)
        draws = np.random.default_rng(
            [_EXAMPLE_STREAM, self._seed, epoch, index]
        )
        # All are drawn, used or not: an option does not move the others.
        caption, template, dropout, top, left, flip = draws.random(6)
        for _ in range(_MAX_ATTEMPTS):
            example = self._examples[index]
            try:
                image = read_rgb(example.image, self.size)
                break
            except UnreadableImage as error:
                self._note(example.name, str(error))
            index = int(draws.integers(len(self._examples)))
        else:
            raise RuntimeError(
                f"{_MAX_ATTEMPTS} images in a row could not be read while "
                "training. Is the disk that holds them still there? The last "
                f"were:\n{self._report.table(5)}"
            )
        pixels = fit(
            image,
            *self.size,
            top=top if self._random_crop else None,
            left=left if self._random_crop else None,
            flip=self._horizontal_flip and flip < 0.5,
        )
        text = choose_caption(
            example.captions,
            self._templates,
            self._caption_dropout,
            (caption, template, dropout),
        )
        return pixels, self._tokens(text), np.float32(example.weight)

    def _note(self, name: str, reason: str) -> None:
        if self._report.add(name, reason):
            logger.warning("Unreadable image, skipped: %s: %s", name, reason)
