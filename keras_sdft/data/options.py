"""Options: what batches shall be made of, checked where it enters.

The arguments that `load` and `load_dreambooth` share. This file must not know
files, pixels or TensorFlow.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable
from collections.abc import Sequence
from typing import Any

import numpy as np

from keras_sdft.data.buckets import Buckets
from keras_sdft.data.captions import check_templates
from keras_sdft.data.examples import check_choice
from keras_sdft.data.examples import nearest
from keras_sdft.data.masks import KINDS
from keras_sdft.data.unreadable import Unreadable

CROPS = ("center", "random")


@dataclasses.dataclass(frozen=True)
class Options:
    """What batches are made of; see `keras_sdft.data.load`.

    Raises:
        ValueError: If one is out of its range, or two contradict each other.
    """

    resolution: Any = 512
    batch_size: int = 4
    shuffle: bool = True
    seed: int = 0
    epoch: int = 0
    repeat: bool = False
    drop_remainder: bool | None = None
    crop: str = "center"
    horizontal_flip: bool = False
    caption_template: str | Sequence[str] | None = None
    caption_dropout: float = 0.0
    shuffle_tags: bool = False
    keep_tokens: int = 0
    tag_separator: str = ","
    masks: str | None = None
    buckets: bool | Buckets = False
    max_unreadable: float = 0.1
    report: Unreadable | None = None
    # A `Cache`, which itself knows these options.
    cache: Any = None

    def __post_init__(self) -> None:
        check_resolution(self.resolution)
        _check_whole("batch_size", self.batch_size, least=1)
        _check_whole("seed", self.seed, least=0)
        _check_whole("epoch", self.epoch, least=0)
        _check_whole("keep_tokens", self.keep_tokens, least=0)
        _check_share("caption_dropout", self.caption_dropout)
        _check_share("max_unreadable", self.max_unreadable)
        check_choice("crop", self.crop, CROPS)
        check_templates(self.caption_template)
        if self.masks is not None:
            check_choice("masks", self.masks, KINDS)
        if not isinstance(self.buckets, (bool, Buckets)):
            raise ValueError(
                "`buckets` must be True, False or a "
                f"`keras_sdft.data.Buckets`. Received: {self.buckets!r}."
            )
        self._check_tags()
        if self.cache is not None:
            self.cache.check(self.crop, self.shuffle_tags)

    def _check_tags(self) -> None:
        if not isinstance(self.tag_separator, str) or not self.tag_separator:
            raise ValueError(
                "`tag_separator` must be a string that is not empty, ',' for "
                f"example. Received: {self.tag_separator!r}."
            )
        if self.keep_tokens and not self.shuffle_tags:
            raise ValueError(
                "`keep_tokens` says how many tags stay first when they are "
                "shuffled, and `shuffle_tags` is False. Received: "
                f"keep_tokens={self.keep_tokens}. Pass `shuffle_tags=True`, "
                "or leave `keep_tokens` out."
            )

    @functools.cached_property
    def size(self) -> tuple[int, int]:
        """`(height, width)` in pixels."""
        return check_resolution(self.resolution)

    @functools.cached_property
    def templates(self) -> tuple[str, ...]:
        """Strings that hold `"{caption}"`."""
        return check_templates(self.caption_template)

    @functools.cached_property
    def bucket_limits(self) -> Buckets | None:
        """`Buckets`, or `None` where all images have one size."""
        if isinstance(self.buckets, Buckets):
            return self.buckets
        return Buckets() if self.buckets else None

    @property
    def remainder(self) -> str:
        """One of `epochs.REMAINDERS`; buckets lose nothing unless asked to."""
        if self.bucket_limits is None:
            return "keep" if self.drop_remainder is False else "drop"
        return "drop" if self.drop_remainder else "fill"


def options_from(**given: Any) -> Options:
    """Returns `Options`, and names the nearest of one that does not exist.

    Raises:
        TypeError: If an option does not exist.
    """
    names = [field.name for field in dataclasses.fields(Options)]
    for name in given:
        if name not in names:
            raise TypeError(
                f"There is no option {name!r}. Did you mean "
                f"{nearest(name, names)!r}? The options are {names}."
            )
    return Options(**given)


def check_resolution(resolution: Any) -> tuple[int, int]:
    """Returns `(height, width)` of a resolution.

    Args:
        resolution: Integer or `(height, width)`, in pixels.

    Raises:
        ValueError: If a side is no positive multiple of 64.
    """
    pair = resolution
    if not isinstance(resolution, Iterable):
        pair = (resolution, resolution)
    sides = tuple(pair)
    whole = all(isinstance(side, (int, np.integer)) for side in sides)
    if len(sides) != 2 or not whole or isinstance(resolution, str):
        raise ValueError(
            "`resolution` must be an integer or (height, width), in pixels. "
            f"Received: {resolution!r}. For example: 512."
        )
    if any(side < 64 or side % 64 for side in sides):
        near = tuple(max(64, round(side / 64) * 64) for side in sides)
        raise ValueError(
            "`resolution` must be a multiple of 64 pixels on both sides. "
            f"Received: height={sides[0]}, width={sides[1]}. Nearest valid: "
            f"{near}."
        )
    return int(sides[0]), int(sides[1])


def _check_whole(argument: str, value: Any, least: int) -> None:
    whole = isinstance(value, (int, np.integer))
    if not whole or isinstance(value, bool) or value < least:
        raise ValueError(
            f"`{argument}` must be an integer of at least {least}. "
            f"Received: {argument}={value!r}."
        )


def _check_share(argument: str, value: Any) -> None:
    number = isinstance(value, (int, float, np.number))
    if not number or not 0 <= value <= 1:
        raise ValueError(
            f"`{argument}` must be a number from 0 to 1. "
            f"Received: {argument}={value!r}."
        )
