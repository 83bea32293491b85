"""The pipeline: a source of captioned images -> batches.

Orders the package's other files. This file must not know models or losses.
"""

import dataclasses
import logging
import os
from typing import TYPE_CHECKING
from typing import Any

import numpy as np

from keras_sdft import signature
from keras_sdft.data import buckets
from keras_sdft.data import captions
from keras_sdft.data import epochs
from keras_sdft.data.example_builder import ExampleBuilder
from keras_sdft.data.examples import Examples
from keras_sdft.data.masks import check_masks
from keras_sdft.data.options import LoadOptions
from keras_sdft.data.options import Options
from keras_sdft.data.report import Report
from keras_sdft.data.shown import show
from keras_sdft.data.sources.reading import read_source
from keras_sdft.data.unreadable import UNREADABLE
from keras_sdft.data.unreadable import drop_unreadable

if TYPE_CHECKING:
    import tensorflow as tf

logger = logging.getLogger(__name__)


@signature.takes(LoadOptions)
def load(
    source: Any,
    tokenizer: captions.Tokenizer,
    *,
    cache: Any = None,
    report: Report | None = None,
    **options: Any,
) -> "tf.data.Dataset":
    """Loads captioned images as batches for `keras_sdft.Trainer`.

    A batch is a dict of `images`, float32 of shape `(B, H, W, 3)` in
    `[-1, 1]`; `token_ids`, int32 of shape `(B, 77)`; and `example_weight`,
    float32 of shape `(B,)`. With `masks` there is `loss_mask` as well, float32
    of shape `(B, H/8, W/8, 1)` in `[0, 1]`.

    Each epoch shuffles the whole set, and every image of it counts: where the
    last ones fill no batch, rows of zeros with an `example_weight` of 0 do,
    or with `buckets` other images, at lower weights. The first pass over the
    dataset is epoch `start[0]`, the next one the epoch after it; a pass
    begins when an iterator gives its first batch. Batches that are looked at
    before `Trainer.fit` do not count: the first pass of the first `fit` is
    epoch `start[0]`, and each validation shows epoch 0. Order, crop, flip and
    caption depend on nothing but `seed`, the epoch and the example, so a new
    dataset with a later `start` goes on where this one would.

    With `worker` a batch is this worker's part of the whole one, and has
    `place`, int32 of shape `(B,)`, the rows' places in the whole batch, and
    `whole`, int32 of shape `(B,)`, its rows.

    Up to 2,000 images are decoded before training; the unreadable among them
    are left out. Where another turns out unreadable later, a random example is
    read in its place, so that every epoch keeps its length.

    Args:
        source: A folder, a `.csv`, `.jsonl` or `.parquet` file, `"tfds:NAME"`
            or `"tfds:NAME:SPLIT"`, a TFDS builder, `"hf://owner/name"` on the
            Hub, or an iterable of `(image, caption)` or
            `keras_sdft.data.Example`s, where an image is a path, a
            `PIL.Image.Image` or a uint8 array and a caption a string or a
            list. A sequence that opens its images when it is indexed keeps
            memory free.
        tokenizer: The tokenizer of the model, `stable_diffusion.tokenizer`.
        **options: The fields of `keras_sdft.data.SourceOptions`,
            `ImageOptions`, `EpochOptions`, `TagOptions` and `BatchOptions`.
        cache: `keras_sdft.encoding.Cache`, to encode images and captions once;
            batches then have `moments` and `context` in their places. `None`
            (the default) has none.
        report: `keras_sdft.data.Report`, which receives how many images are
            found, used and left out, and every unreadable one, also those
            found while training. `None` logs it.

    Returns:
        `tf.data.Dataset` of batches, prefetched; its `cardinality()` is the
        length of an epoch, also where the first pass begins within one.

    Raises:
        FileNotFoundError: If the source, or an image it names, is missing.
        TypeError: If an option does not exist.
        ValueError: If an argument is out of its range, if the source breaks
            its convention, or if more than `max_unreadable` of the images
            cannot be read.

    Example:

    ```python
    dataset = keras_sdft.data.load(
        "photos", stable_diffusion.tokenizer, resolution=256, crop="random"
    )
    ```
    """
    chosen = signature.make(LoadOptions, options)
    pipeline = Pipeline(tokenizer, chosen, cache, report)
    examples = read_source(source, chosen, chosen.masks == "files")
    named = isinstance(source, (str, os.PathLike))
    name = str(source) if named else type(source).__name__
    name += f" ({chosen.split})" if chosen.split else ""
    return pipeline.batches(pipeline.checked(name, examples))


@dataclasses.dataclass
class Pipeline:
    """The way from examples to batches, the same for both loaders."""

    tokenizer: captions.Tokenizer
    options: Options
    cache: Any
    report: Report | None

    def __post_init__(self) -> None:
        if self.cache is not None:
            self.cache.check(self.options)
        # What was checked: images, then class images.
        self._sources: list[Examples] = []
        self._report = Report() if self.report is None else self.report

    def checked(
        self, name: str, examples: Examples, needs_mask: bool = True
    ) -> Examples:
        """Leaves out unreadable images, and refuses masks that are wrong.

        `name` is what the report calls the source. With `needs_mask`, one
        image at least must have a mask where `masks` asks for them.
        """
        options, report, cache = self.options, self._report, self.cache
        has_read = cache is not None and cache.has_read(examples, options)
        if not has_read:
            examples = drop_unreadable(examples, options, report)
        self._sources.append(report.add_source(name, examples))
        if has_read:
            return examples
        unreadable = examples.left_out.get(UNREADABLE)
        if self.report is None and unreadable:
            logger.warning(
                "%d images cannot be read and are left out:\n%s",
                len(unreadable),
                report.table(10),
            )
        if not len(examples):
            raise ValueError(
                "No image can be read, so there is nothing to train on. Look "
                "at the report of unreadable images."
            )
        unused = getattr(examples.records, "masks", {})
        if options.masks is not None:
            check_masks(examples, options.masks, needs_mask)
        elif unused:
            logger.warning(
                "%d masks lie beside the images and are not used. Pass "
                "`masks='files'` to train with them.",
                len(unused),
            )
        return examples

    def batches(
        self, examples: Examples, both: Examples | None = None
    ) -> "tf.data.Dataset":
        """Returns the batches of examples that were checked.

        With `both`, the same examples and class images behind them, each batch
        shows as many of these.
        """
        # TensorFlow takes seconds to import, and the options need none.
        from keras_sdft.data.batches import batched

        options = self.options
        assignment = buckets.assign(examples, options)
        plan: Any = epochs.EpochPlan(assignment.bucket_of, options)
        _check_plan(plan, assignment, options)
        self._tell(assignment)
        first_class = None
        if both is not None:
            first_class, examples = len(examples), both
            plan = epochs.PriorPlan(plan, len(both) - first_class)
        rows = epochs.EpochRows(plan)
        tokens = captions.CaptionTokens(self.tokenizer)
        captions.warn_about_captions(examples, tokens, options.templates)
        make: Any = None
        if self.cache is not None:
            make = self.cache.plan(examples, assignment, options, plan.length)
        builder = (make or ExampleBuilder)(
            examples=examples,
            tokens=tokens,
            sizes=assignment.sizes,
            options=options,
            report=self._report,
            first_class=first_class,
            weight=plan.weight,
            whole=rows.whole,
        )
        dataset = batched(rows, builder, options.repeat)
        return show(dataset, examples, self._sources)

    def _tell(self, assignment: buckets.Assignment) -> None:
        """Notes the buckets, and logs what nobody asked a report for."""
        if self.options.buckets:
            # Class images have the sizes of those they are shown with.
            self._sources[0].buckets = assignment.counts()
            table = assignment.table().replace("\n", ", ")
            self._sources[0].notes.append(
                f"{len(assignment.sizes)} buckets (width x height: images): "
                f"{table}"
            )
        for source in self._sources if self.report is None else ():
            level = logging.WARNING if source.left_out else logging.INFO
            logger.log(level, "%s", source.summary())


def _check_plan(
    plan: epochs.EpochPlan, assignment: buckets.Assignment, options: Options
) -> None:
    """Refuses a plan without a batch, and says how many images it lacks."""
    counts = np.bincount(assignment.bucket_of)
    if not plan.length:
        raise ValueError(
            "`batch_size` must not be larger than the data set, or than its "
            "largest bucket, with `drop_remainder=True`. Received: batch_size="
            f"{options.batch_size} and {counts.sum()} examples, by width x "
            f"height:\n{assignment.table()}\nUse a batch size of at most "
            f"{counts.max()}, or leave `drop_remainder` out."
        )
    left_out = counts.sum() - plan.length
    if options.drop_remainder and left_out:
        never = counts[counts < options.batch_size].sum()
        logger.warning(
            "`drop_remainder` leaves %d of %d images out of each epoch, others "
            "in each%s.",
            left_out,
            counts.sum(),
            f"; {never} of them always, whose buckets hold fewer than a batch"
            if never
            else "",
        )
