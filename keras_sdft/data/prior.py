"""Prior preservation: instance and class examples side by side, weighted.

This file knows which examples belong to the subject and which to its class.
It must not know files, pixels, tokens or TensorFlow.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from keras_sdft.data.examples import Example
from keras_sdft.data.examples import Examples


class PriorRecords:
    """Instance examples, then class examples, with their weights.

    A batch holds as many of the one as of the other. Instance examples weigh
    2 and class examples `2 * prior_loss_weight`, so the batch's mean of
    (weight * loss) is the mean over the instance examples plus
    `prior_loss_weight` times the mean over the class examples.

    References:
        Ruiz et al., DreamBooth, 2022, section 3.3.
    """

    def __init__(
        self, instances: Examples, classes: Examples, prior_loss_weight: float
    ):
        self._instances = instances
        self._classes = classes
        self._class_weight = prior_loss_weight

    def __len__(self) -> int:
        return len(self._instances) + len(self._classes)

    def __getitem__(self, index: int) -> Example:
        count = len(self._instances)
        if index < count:
            return _weighted(self._instances[index], 2.0)
        return _weighted(self._classes[index - count], 2.0 * self._class_weight)

    @property
    def captions(self) -> list[Any]:
        """List of the captions of every example."""
        return [
            example.captions
            for examples in (self._instances, self._classes)
            for example in examples
        ]


class Recaptioned:
    """The same examples with another caption."""

    def __init__(self, examples: Examples, caption: str):
        self._examples = examples
        self._captions = (caption,)

    def __len__(self) -> int:
        return len(self._examples)

    def __getitem__(self, index: int) -> Example:
        example = self._examples[index]
        return dataclasses.replace(example, captions=self._captions)


def _weighted(example: Example, weight: float) -> Example:
    return dataclasses.replace(example, weight=example.weight * weight)
