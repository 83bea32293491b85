"""The options of `load` and `load_dreambooth`, each written once.

Dataclasses that check themselves. Signatures, documentation and the flags of
the command are made from them: a field's name is the flag's, and its text in
the docstring is the flag's help.
"""

import dataclasses
import functools
import typing
from collections.abc import Iterable
from typing import Any
from typing import ClassVar
from typing import Literal

from keras_sdft import checks

PLACEHOLDER = "{caption}"

# Of an image or a bucket, in pixels.
MAX_SIDE = 16_384

Reader = Literal[
    "metadata_jsonl", "metadata_csv", "caption_files", "class_folders"
]
Masks = Literal["files", "alpha"]
Crop = Literal["center", "random"]
PriorPreservation = Literal["class_images", "base"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class SourceOptions:
    """The source: which images and captions are read from it.

    Args:
        reader: How a folder is read. Found if not given.
        split: Sub-folder train, validation or test of a folder, those of
            parquet files, or any split of a TFDS dataset.
        image_column: Column, key or feature of the image. Defaults to the
            first of file_name, image, image_path and path that there is.
        caption_column: Column, key or feature of the caption; in TFDS, by
            default, the only text feature.
        mask_column: Column or key of a table for the masks of masks=files.
        repeats: How often an epoch shows each image, or the column of a
            table that says so, in which 0 leaves an image out.
        caption: One caption for all images of a folder, whose captions are
            then not read.
        caption_template: Text with {caption} in it. Of several, each epoch
            draws one for each image.
    """

    reader: Reader | None = None
    split: str | None = None
    image_column: str | None = None
    caption_column: str = "text"
    mask_column: str = "mask_file_name"
    repeats: int | str = 1
    caption: str | None = None
    caption_template: str | list[str] | None = None

    def __post_init__(self) -> None:
        if self.reader is not None:
            checks.one_of("reader", self.reader, typing.get_args(Reader))
        _check_texts(self, "split", "image_column", "caption")
        _check_texts(self, "caption_column", "mask_column", required=True)
        if not isinstance(self.repeats, str):
            checks.integer("repeats", self.repeats, 1)
        elif not self.repeats:
            raise ValueError(
                "`repeats` must be an integer >= 1, or the name of a table's "
                f"column. Received: repeats={self.repeats!r}."
            )
        _ = self.templates

    @property
    def repeats_column(self) -> str | None:
        """The column of a table that says how often an image is shown."""
        return self.repeats if isinstance(self.repeats, str) else None

    @functools.cached_property
    def templates(self) -> tuple[str, ...]:
        """Strings that hold `"{caption}"`."""
        template = self.caption_template
        if template is None:
            return (PLACEHOLDER,)
        texts = (template,) if isinstance(template, str) else tuple(template)
        for text in texts or (texts,):
            if not isinstance(text, str) or PLACEHOLDER not in text:
                raise ValueError(
                    f"A `caption_template` must hold {PLACEHOLDER!r}, where "
                    f"the caption goes, or be a list of such. Received: "
                    f"{text!r}. For example: 'a photo of {PLACEHOLDER}'."
                )
        return texts


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImageOptions:
    """The images: how they are cut, and what of them counts.

    Args:
        horizontal_flip: Mirror half of the images, others in each epoch; a
            cache holds both.
        masks: Count only a part of each image in the loss. With files it is
            white in NAME-masklabel.png beside NAME.png, with alpha it is
            where the image is opaque.
        buckets: Train each image near its own aspect ratio, at no more than
            the resolution's area, instead of cropping all to one size.
        bucket_step: Pixels between the sides of two buckets, a multiple of
            64.
        bucket_min_side: Shortest side of a bucket in pixels. Defaults to
            half of the resolution.
        bucket_max_side: Longest side of a bucket in pixels. Defaults to
            twice the resolution.
        bucket_max_aspect_ratio: Longer side over shorter side, at most.
            Longer images are cut to it.
        max_unreadable: Share of unreadable images above which the data is
            refused.
    """

    horizontal_flip: bool = False
    masks: Masks | None = None
    buckets: bool = False
    bucket_step: int = 64
    bucket_min_side: int | None = None
    bucket_max_side: int | None = None
    bucket_max_aspect_ratio: float = 2.5
    max_unreadable: float = 0.1

    def __post_init__(self) -> None:
        checks.boolean("horizontal_flip", self.horizontal_flip)
        if self.masks is not None:
            checks.one_of("masks", self.masks, typing.get_args(Masks))
        checks.boolean("buckets", self.buckets)
        sides = ("bucket_step", "bucket_min_side", "bucket_max_side")
        for name in sides:
            checks.optional(_check_side, name, getattr(self, name))
        ratio = self.bucket_max_aspect_ratio
        checks.number("bucket_max_aspect_ratio", ratio, minimum=1)
        checks.number("max_unreadable", self.max_unreadable, 0, 1)
        limits = (*sides, "bucket_max_aspect_ratio")
        checks.effective(self, limits, "buckets", True)


@dataclasses.dataclass(frozen=True, kw_only=True)
class EpochOptions:
    """The epochs: what each of them does anew to an example.

    Args:
        crop: Where the part that is shown is cut from the resized image.
        caption_dropout: Share of captions replaced by the empty one, which
            guidance needs to know.
    """

    crop: Crop = "center"
    caption_dropout: float = 0.0

    def __post_init__(self) -> None:
        checks.one_of("crop", self.crop, typing.get_args(Crop))
        checks.number("caption_dropout", self.caption_dropout, 0, 1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TagOptions:
    """The tags: captions that are lists of words.

    Args:
        shuffle_tags: Put the tags of a caption in another order in each
            epoch.
        keep_tokens: How many tags stay first when they are shuffled.
        tag_separator: What stands between two tags.
    """

    shuffle_tags: bool = False
    keep_tokens: int = 0
    tag_separator: str = ","

    def __post_init__(self) -> None:
        checks.boolean("shuffle_tags", self.shuffle_tags)
        checks.integer("keep_tokens", self.keep_tokens, 0)
        _check_texts(self, "tag_separator", required=True)
        names = ("keep_tokens", "tag_separator")
        checks.effective(self, names, "shuffle_tags", True)


@dataclasses.dataclass(frozen=True, kw_only=True)
class BatchOptions:
    """The batches: their size and order.

    Args:
        resolution: Pixels on a side, or height and width; multiples of 64.
        batch_size: Images in a batch.
        shuffle: Put the images in another order in each epoch.
        seed: Seed of everything that is random.
        repeat: Give one endless stream of epochs instead of one in a pass.
        drop_remainder: Leave out the last images of an epoch that fill no
            batch, others in each epoch, instead of filling their batch up.
        batches_per_epoch: Batches of an epoch, where it is not one pass over
            the images: passes follow each other and are cut into epochs.
        start: Epoch and batch that the first pass begins with, as if those
            before had been shown.
        worker: This worker's number and how many there are. Each makes its
            own rows of every batch.
    """

    resolution: int | tuple[int, int] = 512
    batch_size: int = 4
    shuffle: bool = True
    seed: int = 0
    repeat: bool = False
    drop_remainder: bool = False
    batches_per_epoch: int | None = None
    start: tuple[int, int] = (0, 0)
    worker: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        _ = self.size
        checks.integer("batch_size", self.batch_size, 1, 2**16)
        checks.boolean("shuffle", self.shuffle)
        checks.integer("seed", self.seed, 0)
        checks.boolean("repeat", self.repeat)
        checks.boolean("drop_remainder", self.drop_remainder)
        batches = self.batches_per_epoch
        checks.optional(checks.integer, "batches_per_epoch", batches, 1, 10**7)
        if batches is not None and self.repeat:
            raise ValueError(
                "`batches_per_epoch` has no effect with `repeat=True`, whose "
                "stream has no epochs. Received: "
                f"batches_per_epoch={batches}."
            )
        for value in _pair("start", self.start):
            checks.integer("start", value, 0, 2**31)
        if self.worker is not None:
            index, count = _pair("worker", self.worker)
            checks.integer("worker[1]", count, 1)
            checks.integer("worker[0]", index, 0, count - 1)
            workers = ", the number of workers, so that each has as many rows"
            checks.multiple_of("batch_size", self.batch_size, count, workers)

    @functools.cached_property
    def size(self) -> tuple[int, int]:
        """`(height, width)` in pixels."""
        given: Any = self.resolution
        if isinstance(given, str) or not isinstance(given, Iterable):
            side = _check_side("resolution", given)
            return side, side
        sides = tuple(given)
        if len(sides) != 2:
            raise ValueError(
                "`resolution` must be an integer or (height, width), in "
                f"pixels. Received: {given!r}. For example: 512."
            )
        height = _check_side("resolution[0]", sides[0])
        return height, _check_side("resolution[1]", sides[1])


@dataclasses.dataclass(frozen=True, kw_only=True)
class SubjectOptions:
    """The subject: what it and its class are called.

    Args:
        instance_prompt: Names the subject with a rare token, as in "a photo
            of sks dog".
        class_prompt: Names its class, as in "a photo of dog". Without it
            there is no prior preservation.
        prior_preservation: What the class is held to, class images or what
            the frozen base under an adapter predicts for the photos with
            class_prompt, which needs no image.
        class_data_dir: Folder of class images.
        prior_loss_weight: Weight of the class images' loss.
        token: The rare token. Found as what only instance_prompt has, if not
            given.
        repeats: How often an epoch shows each photo.
    """

    instance_prompt: str
    class_prompt: str | None = None
    prior_preservation: PriorPreservation = "class_images"
    class_data_dir: str | None = None
    prior_loss_weight: float = 1.0
    token: str | None = None
    repeats: int = 1

    def __post_init__(self) -> None:
        checks.number("prior_loss_weight", self.prior_loss_weight, 0)
        value = self.prior_preservation
        known = typing.get_args(PriorPreservation)
        checks.one_of("prior_preservation", value, known)
        names = ("prior_loss_weight", "prior_preservation")
        checks.effective(self, names, "class_prompt")
        if value == "base" and self.class_data_dir is not None:
            raise ValueError(
                "`class_data_dir` has no effect with `prior_preservation="
                "base`, which needs no class images. Received: class_data_dir="
                f"{self.class_data_dir!r}. Leave out the one or the other."
            )
        checks.integer("repeats", self.repeats, 1)

    @property
    def needs_class_images(self) -> bool:
        """Whether the class is held to images of it."""
        uses = self.prior_preservation == "class_images"
        return uses and self.class_prompt is not None


_SHARED = (ImageOptions, EpochOptions, TagOptions, BatchOptions)


class Options(EpochOptions, ImageOptions, TagOptions, BatchOptions):
    """What both loaders take: its `parts`, in the order of documentation."""

    parts: ClassVar[tuple[Any, ...]] = ()

    def __post_init__(self) -> None:
        for part in self.parts:
            part.__post_init__(self)

    @property
    def templates(self) -> tuple[str, ...]:
        """Strings that hold `"{caption}"`."""
        return (PLACEHOLDER,)

    @property
    def remainder(self) -> str:
        """What `EpochPlan` does with the last examples; loses none unasked."""
        if self.drop_remainder:
            return "drop"
        return "fill" if self.buckets else "pad"


@dataclasses.dataclass(frozen=True, kw_only=True)
class LoadOptions(SourceOptions, Options):
    """The options of `keras_sdft.data.load`."""

    parts = (SourceOptions, *_SHARED)

    def __post_init__(self) -> None:
        Options.__post_init__(self)
        checks.effective(self, ("mask_column",), "masks", "files")


@dataclasses.dataclass(frozen=True, kw_only=True)
class DreamboothLoadOptions(Options, SubjectOptions):
    """The options of `keras_sdft.data.load_dreambooth`."""

    parts = (SubjectOptions, *_SHARED)

    batch_size: int = 1

    @property
    def remainder(self) -> str:
        """What `EpochPlan` does with the last photos; loses none unasked."""
        return "drop" if self.drop_remainder else "fill"


def _check_side(name: str, side: Any) -> int:
    side = checks.multiple_of(name, side, 64, " pixels")
    return checks.integer(name, side, 64, MAX_SIDE)


def _pair(name: str, value: Any) -> tuple[Any, Any]:
    if isinstance(value, (tuple, list)) and len(value) == 2:
        return tuple(value)
    raise ValueError(
        f"`{name}` must be a pair of integers. Received: {name}={value!r}."
    )


def _check_texts(options: Any, *names: str, required: bool = False) -> None:
    for name in names:
        if required or getattr(options, name) is not None:
            checks.text(name, getattr(options, name), blank=True)
