"""Examples of a TensorFlow Datasets (TFDS) dataset, by random access.

This file knows TFDS, which is imported only here and when it is needed. It
must not know pixels, tokens or the batch.
"""

from __future__ import annotations

import logging
import re
from typing import Any

import numpy as np

from keras_sdft import checks
from keras_sdft.data.examples import Example
from keras_sdft.data.examples import Examples
from keras_sdft.data.examples import check_captions
from keras_sdft.data.examples import several
from keras_sdft.data.images import UnreadableImage
from keras_sdft.data.sources.tfrecords import TfRecords
from keras_sdft.data.sources.tfrecords import index_tfrecord

logger = logging.getLogger(__name__)

PREFIX = "tfds:"

_VERSION = re.compile(r"[\d*]+\.[\d*]+\.[\d*]+")


def read_tfds(
    source: Any,
    *,
    split: str | None = None,
    image_column: str | None = None,
    caption_column: str = "text",
) -> Examples:
    """Reads a TFDS dataset; a record is fetched when an example is needed.

    The records of TFRecord files (TFDS's default) are found once by walking
    over the lengths in them; ArrayRecord and Parquet are read by TFDS. A
    dataset that is not prepared yet is prepared, which may download it.

    Args:
        source: `"tfds:NAME"`, `"tfds:NAME:SPLIT"`, where NAME may hold a
            config and a version as TFDS writes them, or a TFDS builder.
        split: String, any TFDS split, `"train[:80%]"` for example. Defaults to
            the one in `source`, and else to `"train"`.
        image_column: String, the image feature. `None` takes the only one.
        caption_column: String, the text feature; one that is nested is written
            `"captions/text"`. Defaults to `"text"`, or the only text feature.

    Raises:
        ValueError: If the dataset, split or feature is not known.
    """
    import tensorflow_datasets as tfds

    if isinstance(source, str):
        name, named_split = split_name(source)
        split = split or named_split
        try:
            builder = tfds.builder(name)
        except tfds.core.DatasetNotFoundError as error:
            raise ValueError(
                f"TFDS knows no dataset {name!r}. {error}"
            ) from error
    else:
        builder = source
    split = split or "train"
    if not builder.is_prepared():
        logger.warning("TFDS prepares %s now.", builder.info.full_name)
        builder.download_and_prepare()
    features = _flat_features(builder.info.features)
    image = _choose("image_column", image_column, features, tfds, "image")
    caption = _choose("caption_column", caption_column, features, tfds, "text")
    name = f"{PREFIX}{builder.info.full_name}:{split}"
    records = _open(builder, split, image, tfds)
    return Examples(TfdsRecords(records, image, caption, name))


def split_name(source: str) -> tuple[str, str | None]:
    """Returns the dataset's name and the split of `"tfds:NAME:SPLIT"`."""
    name, *rest = source.removeprefix(PREFIX).split(":")
    if rest and _VERSION.fullmatch(rest[0]):
        name = f"{name}:{rest.pop(0)}"
    return name, ":".join(rest) or None


class TfdsRecords:
    """Decoded TFDS records as examples; `"/"` stands between nested names."""

    def __init__(self, records: Any, image: str, caption: str, name: str):
        self._records = records
        self._image = image
        self._caption = caption
        self._name = name
        # TFDS changes a dataset's version with its content.
        self.identity = name

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> Example:
        name = f"{self._name}[{index}]"
        try:
            record = value = self._records[index]
            for level in self._caption.split("/"):
                value = value[level]
            captions = several(check_captions(_as_text(value), name))
            return Example(record[self._image], captions, name=name)
        except UnreadableImage:
            raise
        # A reader of TFDS' may raise anything on a damaged record.
        except Exception as error:
            raise UnreadableImage(f"{type(error).__name__}: {error}") from error


def _open(builder: Any, split: str, image: str, tfds: Any) -> Any:
    info = builder.info
    try:
        instructions = info.splits[split].file_instructions
    except (KeyError, ValueError) as error:
        raise ValueError(
            f"{info.full_name} has no split {split!r}. Its splits are "
            f"{sorted(info.splits)}."
        ) from error
    # The bytes of the file, so that our own decoder sees EXIF and alpha.
    decoders = {image: tfds.decode.SkipDecoding()}
    if info.file_format.value != "tfrecord":
        return builder.as_data_source(split, decoders=decoders)
    parts = []
    for number, part in enumerate(instructions):
        rows = slice(part.skip, part.skip + part.take)
        offsets, lengths = (
            array[rows] for array in index_tfrecord(part.filename)
        )
        parts.append((np.full(len(offsets), number), offsets, lengths))
    file_of, offsets, lengths = (
        np.concatenate(column) for column in zip(*parts, strict=True)
    )
    return TfRecords(
        files=[part.filename for part in instructions],
        file_of=file_of,
        offsets=offsets,
        lengths=lengths,
        features=info.features,
        decoders=decoders,
    )


def _flat_features(features: Any, prefix: str = "") -> dict[str, Any]:
    """Maps `"captions/text"` to the feature found there."""
    flat = {}
    for name, feature in features.items():
        inner = getattr(feature, "feature", feature)
        if hasattr(inner, "items"):
            flat.update(_flat_features(inner, f"{prefix}{name}/"))
        else:
            flat[prefix + name] = inner
    return flat


def _choose(
    argument: str, name: str | None, features: dict, tfds: Any, kind: str
) -> str:
    classes = {"image": tfds.features.Image, "text": tfds.features.Text}
    found = [
        key
        for key, feature in features.items()
        if isinstance(feature, classes[kind])
        and ("/" not in key or kind == "text")
    ]
    if name is not None and name in found:
        return name
    # "text" is the default of `caption_column`, not yet a person's choice.
    if len(found) == 1 and name in (None, "text"):
        return found[0]
    if not found:
        raise ValueError(
            f"The dataset has no {kind} feature. Its features are "
            f"{sorted(features)}. Choose a dataset of captioned images."
        )
    raise ValueError(
        f"`{argument}` must name one of the dataset's {kind} features, "
        f"{found}. Received: {argument}={name!r}."
        f"{checks.did_you_mean(name, found)}"
    )


def _as_text(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode("utf-8")
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if isinstance(value, (list, tuple)):
        return [_as_text(item) for item in value]
    return _as_text(value) if isinstance(value, bytes) else value
