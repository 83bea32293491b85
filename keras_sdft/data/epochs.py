"""Epochs: which examples one shows, in which order, size and number of copies.

Every order here is a function of (seed, epoch), so any batch can be made again
without those before it. This file must not know pixels, text or TensorFlow.
"""

import dataclasses
from typing import NamedTuple

import numpy as np

from keras_sdft.data.options import Options

# First words of the random streams, so that no two can coincide.
ORDER_STREAM, EXAMPLE_STREAM, CLASS_STREAM, TAG_STREAM = 1, 2, 3, 4


class Row(NamedTuple):
    """One place in an epoch; six integers.

    Attributes:
        example: The example that it shows.
        epoch: The epoch; for a class image, how often all class images have
            been shown before.
        bucket: The bucket whose size it is shown at.
        copy: 0 where the example is shown first in its epoch, else 1, 2, ...
        copies: How often the epoch shows the example; 0 for padding, which
            counts nothing.
        place: The place in the whole batch.
    """

    example: int
    epoch: int
    bucket: int
    copy: int
    copies: int
    place: int = 0


COLUMNS = len(Row._fields)
# Those of a plan; the place is that of the rows in a batch.
_PLANNED = COLUMNS - 1


@dataclasses.dataclass
class EpochPlan:
    """The rows of each epoch, in batches of one bucket.

    Args:
        bucket_of: Integer array of shape `(N,)`, the bucket of each example.
        options: `Options`. Without `shuffle` the examples keep their order,
            as far as buckets allow. Of a bucket's last examples, that fill no
            batch, the `remainder` `"drop"` leaves them out; `"pad"` fills
            their batch up with rows that count nothing; `"fill"` with others
            of the bucket. An example that is then shown twice counts half each
            time, so that all count alike.

    Attributes:
        length: Integer, the rows of an epoch.
        batch_size: Integer, the rows of a batch.
        weight: Float >= 1, by which examples are weighted so that their
            weights' mean over an epoch is one; 1 where batches are padded.
    """

    bucket_of: np.ndarray
    options: Options

    def __post_init__(self) -> None:
        self.batch_size = size = self.options.batch_size
        over = 0 if self.options.remainder == "drop" else size - 1
        self._lengths = (np.bincount(self.bucket_of) + over) // size * size
        self.length = int(self._lengths.sum())
        fills = self.options.remainder == "fill"
        self.weight = self.length / len(self.bucket_of) if fills else 1.0

    def __call__(self, epoch: int) -> np.ndarray:
        """Returns int64 of shape `(length, 5)`, whose rows are `Row`s."""
        shuffle, order = self.options.shuffle, np.arange(len(self.bucket_of))
        key = [ORDER_STREAM, self.options.seed, int(epoch)]
        draws = np.random.default_rng(key)
        order = draws.permutation(order) if shuffle else order
        parts = [
            self._rows(order, bucket, int(epoch))
            for bucket in range(len(self._lengths))
        ]
        if len(parts) == 1:
            return parts[0]
        batches = np.concatenate(parts).reshape(-1, self.batch_size, _PLANNED)
        if shuffle:
            batches = batches[draws.permutation(len(batches))]
        else:
            batches = batches[np.argsort(batches[:, 0, 0], kind="stable")]
        return batches.reshape(-1, _PLANNED)

    def _rows(self, order: np.ndarray, bucket: int, epoch: int) -> np.ndarray:
        members = order[self.bucket_of[order] == bucket]
        length, pads = self._lengths[bucket], self.options.remainder == "pad"
        rows = np.empty((length, _PLANNED), np.int64)
        if not length:
            return rows
        copy, place = np.divmod(np.arange(length), len(members))
        rows[:, 0] = members[place]
        rows[:, 1:3] = epoch, bucket
        rows[:, 3] = copy
        rows[:, 4] = 1 if pads else np.bincount(place)[place]
        if pads:
            rows[len(members) :, 3:] = 0
        return rows


@dataclasses.dataclass
class PriorPlan:
    """Each row of a plan followed by a class image: prior preservation.

    Class images, the `num_classes` examples behind those of the plan, go
    round: each is shown before any is shown again, in another order each time,
    over the ends of epochs. A class image is shown at the size of the row
    before it.
    """

    instances: EpochPlan
    num_classes: int

    def __post_init__(self) -> None:
        self.options = self.instances.options
        self.length = 2 * self.instances.length
        self.batch_size = 2 * self.instances.batch_size
        self.weight = self.instances.weight

    def __call__(self, epoch: int) -> np.ndarray:
        """Returns int64 of shape `(length, 5)`, whose rows are `Row`s."""
        own = self.instances(epoch)
        others = np.zeros_like(own)
        places = int(epoch) * len(own) + np.arange(len(own))
        rounds, place = np.divmod(places, self.num_classes)
        for number in np.unique(rounds):
            now, order = rounds == number, np.arange(self.num_classes)
            if self.options.shuffle:
                key = [CLASS_STREAM, self.options.seed, int(number)]
                order = np.random.default_rng(key).permutation(order)
            others[now, 0] = len(self.instances.bucket_of) + order[place[now]]
        others[:, 1] = rounds
        others[:, 2] = own[:, 2]
        others[:, 4] = 1
        return np.stack([own, others], axis=1).reshape(-1, _PLANNED)


@dataclasses.dataclass
class EpochRows:
    """The rows that a worker shows of each epoch, from a batch on.

    The first pass is empty where all batches of its epoch were shown. A pass
    over few images is too short for a validation or a line of logs, so with
    `batches_per_epoch` passes are cut into epochs in their order.

    Attributes:
        whole: Integer, rows of a whole batch.
        num_batches: Integer, batches of an epoch.
        batch_size: Integer, rows of this worker's batches.
    """

    plan: EpochPlan | PriorPlan

    def __post_init__(self) -> None:
        options, self.whole = self.plan.options, self.plan.batch_size
        self.start, batches = options.start, options.batches_per_epoch
        self.num_batches = batches or self.plan.length // self.whole
        if self.start[1] > self.num_batches:
            raise ValueError(
                "`start` must name a batch of an epoch. Received: start="
                f"{self.start}, and an epoch has {self.num_batches} batches."
            )
        index, count = options.worker or (0, 1)
        self.batch_size = self.whole // count
        first = index * self.batch_size
        self._part = slice(first, first + self.batch_size)

    def __call__(self, epoch: int) -> np.ndarray:
        """Returns int64 of shape `(rows, 6)`, whose rows are `Row`s."""
        return self.of_epoch(epoch, self.start[1] * (epoch == self.start[0]))

    def of_epoch(self, epoch: int, first: int = 0) -> np.ndarray:
        """Returns the rows of an epoch's batches from `first` on."""
        length = self.num_batches * self.whole
        number, skipped = divmod(int(epoch) * length, self.plan.length)
        parts = [self.plan(number)[skipped:]]
        while (missing := length - sum(map(len, parts))) > 0:
            number += 1
            parts.append(self.plan(number)[:missing])
        planned = np.concatenate(parts)[:length]
        planned = planned.reshape(-1, self.whole, _PLANNED)[first:]
        rows = np.empty((*planned.shape[:2], COLUMNS), np.int64)
        rows[..., :_PLANNED] = planned
        rows[..., _PLANNED] = np.arange(self.whole)
        return rows[:, self._part].reshape(-1, COLUMNS)
