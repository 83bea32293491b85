"""The builder: a row of an epoch -> pixels, token ids, weight and mask.

Every random number here is a function of (seed, epoch, example, copy). This
file must not know TensorFlow, or how rows are ordered.
"""

import dataclasses
import functools
import logging
from collections.abc import Iterable
from typing import Any

import numpy as np

from keras_sdft.data.captions import CaptionTokens
from keras_sdft.data.captions import choose_caption
from keras_sdft.data.epochs import EXAMPLE_STREAM
from keras_sdft.data.epochs import TAG_STREAM
from keras_sdft.data.epochs import Row
from keras_sdft.data.examples import Example
from keras_sdft.data.examples import Examples
from keras_sdft.data.masks import PIXELS_PER_LATENT
from keras_sdft.data.masks import read_cropped
from keras_sdft.data.options import Options
from keras_sdft.data.report import Report
from keras_sdft.data.unreadable import attempt

logger = logging.getLogger(__name__)


@dataclasses.dataclass(kw_only=True, eq=False)
class ExampleBuilder:
    """Makes one example of an epoch, a tuple of arrays for its `keys`.

    Args:
        sizes: Sequence of `(height, width)` in pixels, the buckets.
        report: `Report`, which receives the images that cannot be read.
        first_class: Integer, where class images begin among the examples.
        weight: Float, by which the weights of all others are multiplied.
        whole: Integer, rows of the whole batch.
    """

    examples: Examples
    tokens: CaptionTokens
    sizes: tuple[tuple[int, int], ...]
    options: Options
    report: Report
    first_class: int | None = None
    weight: float = 1.0
    whole: int = 0

    max_attempts = 100

    def __post_init__(self) -> None:
        options = self.options
        self.keys: tuple[str, ...] = ("images", "token_ids", "example_weight")
        if self.first_class is not None:
            self.keys += ("prior",)
        if getattr(options, "prior_preservation", None) == "base":
            self.keys += ("base_target",)
        if options.masks is not None:
            self.keys += ("loss_mask",)
        if options.worker is not None:
            self.keys += ("place", "whole")

    def __call__(self, numbers: np.ndarray) -> tuple[Any, ...]:
        """Makes the arrays of a row, six integers, in the order of `keys`.

        Raises:
            OSError: If 100 images in a row cannot be read.
        """
        row, options = Row(*(int(number) for number in numbers)), self.options
        if not row.copies:
            return self.padding(row)
        draws = self._draws(EXAMPLE_STREAM, row)
        # All are drawn, used or not: an option does not move the others.
        caption, template, dropout, top, left, flip = draws.random(6)
        corner = (top, left) if options.crop == "random" else (None, None)
        flips = bool(options.horizontal_flip and flip < 0.5)
        last = len(self.examples)
        first_class = self.first_class or last
        is_class = row.example >= first_class
        # An unreadable one is replaced by another of its own kind.
        kind = (first_class, last) if is_class else (0, first_class)
        example, made = self._found(row, draws, kind, corner, flips)
        text = choose_caption(
            example.captions,
            options,
            (caption, template, dropout),
            functools.partial(self._draws, TAG_STREAM, row),
        )
        made.update(self._said(text))
        weight = example.weight / row.copies * (1 if is_class else self.weight)
        made["example_weight"] = np.float32(weight)
        made["prior"] = made["base_target"] = np.float32(is_class)
        return self._placed(made, row)

    def padding(self, numbers: Iterable[int]) -> tuple[Any, ...]:
        """Makes an example of zeros, which has no weight, for a row."""
        row = Row(*numbers)
        specs = self.specs(self.sizes[row.bucket])
        return self._placed({k: np.zeros(*specs[k]) for k in self.keys}, row)

    def _placed(self, made: dict[str, Any], row: Row) -> tuple[Any, ...]:
        made["place"] = np.int32(row.place)
        made["whole"] = np.int32(self.whole)
        return tuple(made[key] for key in self.keys)

    def specs(
        self, size: tuple[int | None, int | None]
    ) -> dict[str, tuple[tuple[int | None, ...], Any]]:
        """Returns shape and dtype of what an example may have, by key.

        A side of `size`, in pixels, is `None` where it varies.
        """
        latents = tuple(side and side // PIXELS_PER_LATENT for side in size)
        numbers = ("example_weight", "prior", "base_target")
        return {
            "images": ((*size, 3), np.uint8),
            "token_ids": ((self.tokens.max_length,), np.int32),
            "loss_mask": ((*latents, 1), np.float32),
            **{name: ((), np.float32) for name in numbers},
            **{name: ((), np.int32) for name in ("place", "whole")},
        }

    def _draws(self, stream: int, row: Row) -> np.random.Generator:
        key = [stream, self.options.seed, row.epoch, row.example]
        # A second showing in one epoch has draws of its own.
        return np.random.default_rng([*key, row.copy] if row.copy else key)

    def _found(
        self,
        row: Row,
        draws: np.random.Generator,
        kind: tuple[int, int],
        corner: Any,
        flips: bool,
    ) -> tuple[Example, dict[str, Any]]:
        """Returns what is seen of a row's example, or of one in its place."""
        index = row.example
        for _ in range(self.max_attempts):
            seen = self._seen(index, row, corner, flips)
            if seen is not None:
                return seen
            index = int(draws.integers(*kind))
        raise OSError(
            f"{self.max_attempts} images in a row could not be read while "
            "training. Are the files still there? Among them are:\n"
            f"{self.report.table(5)}"
        )

    def _seen(
        self, index: int, row: Row, corner: Any, flips: bool
    ) -> tuple[Example, dict[str, Any]] | None:
        """Returns an example with its pixels and mask, if it can be shown."""
        masks, size = self.options.masks, self.sizes[row.bucket]

        def read(example: Example) -> tuple[Example, dict[str, Any]]:
            pixels, mask = read_cropped(example, masks, size, corner, flips)
            return example, {"images": pixels, "loss_mask": mask}

        name, found, reason = attempt(self.examples, index, read)
        if reason:
            self._note(name, reason)
        return found

    def _said(self, text: str) -> dict[str, Any]:
        """Returns what is made of a caption, by key."""
        return {"token_ids": self.tokens(text)}

    def _note(self, name: str, reason: str) -> None:
        if self.report.add(name, reason):
            logger.warning("Unreadable image, skipped: %s: %s", name, reason)
