"""Examples of a TensorFlow Datasets (TFDS) dataset, by random access.

TFDS is imported only here, when it is needed. Must not know pixels or tokens.
"""

import dataclasses
import logging
import os
import re
from typing import Any

import numpy as np

from keras_sdft import checks
from keras_sdft import keras_internals
from keras_sdft.data.examples import Example
from keras_sdft.data.examples import Examples
from keras_sdft.data.examples import check_captions
from keras_sdft.data.examples import several
from keras_sdft.data.images import UnreadableImage
from keras_sdft.data.options import SourceOptions

logger = logging.getLogger(__name__)

PREFIX = "tfds:"

_VERSION = re.compile(r"[\d*]+\.[\d*]+\.[\d*]+")
# A TFRecord is a length (8 bytes), its checksum (4), the data, another (4).
_BESIDE_DATA = 16


def read_tfds(source: Any, options: SourceOptions) -> Examples:
    """Reads a TFDS dataset; a record is fetched when an example is needed.

    The records of TFRecord files (TFDS's default) are found once by walking
    over the lengths in them; ArrayRecord and Parquet are read by TFDS. A
    dataset that is not prepared yet is prepared, which may download it. The
    split is that of the options, of the source, or `"train"`.

    Raises:
        ValueError: If the dataset, split or feature is not known.
    """
    import tensorflow_datasets as tfds

    builder, split = source, None
    if isinstance(source, str):
        name, split = split_name(source)
        try:
            builder = tfds.builder(name)
        except tfds.core.DatasetNotFoundError as error:
            raise ValueError(
                f"TFDS knows no dataset {name!r}. {error}"
            ) from error
    split = options.split or split or "train"
    if not builder.is_prepared():
        logger.warning("TFDS prepares %s now.", builder.info.full_name)
        builder.download_and_prepare()
    features = _flat_features(builder.info.features)
    image = _choose(options, "image_column", features, tfds.features.Image)
    caption = _choose(options, "caption_column", features, tfds.features.Text)
    name = f"{PREFIX}{builder.info.full_name}:{split}"
    records = _open(builder, split, image, tfds)
    return Examples(TfdsRecords(records, image, caption, name))


def split_name(source: str) -> tuple[str, str | None]:
    """Returns the dataset's name and the split of `"tfds:NAME:SPLIT"`."""
    name, *rest = source.removeprefix(PREFIX).split(":")
    if rest and _VERSION.fullmatch(rest[0]):
        name = f"{name}:{rest.pop(0)}"
    return name, ":".join(rest) or None


@dataclasses.dataclass
class TfdsRecords:
    """Decoded TFDS records as examples; `"/"` stands between nested names."""

    records: Any
    image: str
    caption: str
    # TFDS changes a dataset's version, which is in it, with its content.
    identity: str

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> Example:
        name = f"{self.identity}[{index}]"
        try:
            record = value = self.records[index]
            for level in self.caption.split("/"):
                value = value[level]
            captions = several(check_captions(_as_text(value), name))
            return Example(record[self.image], captions, name=name)
        except UnreadableImage:
            raise
        # A reader may raise anything on a damaged record.
        except Exception as error:
            raise UnreadableImage(f"{type(error).__name__}: {error}") from error


@dataclasses.dataclass(frozen=True)
class TfRecords:
    """The records of TFRecord files on a local disk, decoded by TFDS.

    Args:
        file_of: Integer array of shape `(N,)`, the file of each record.
        offsets: Integer array of shape `(N,)`, where each record begins.
    """

    files: list[str]
    file_of: np.ndarray
    offsets: np.ndarray
    features: Any
    decoders: dict

    def __len__(self) -> int:
        return len(self.offsets)

    def __getitem__(self, index: int) -> dict:
        path, offset = self.files[self.file_of[index]], self.offsets[index]
        try:
            data = keras_internals.read_tfrecord(path, int(offset))
        except Exception as error:
            raise UnreadableImage(f"a record of {path}: {error}") from error
        return self.features.deserialize_example_np(
            data, decoders=self.decoders
        )


def index_tfrecord(path: str) -> np.ndarray:
    """Returns where each record of a TFRecord file begins, an int64 array.

    Raises:
        ValueError: If the file ends within a record.
    """
    offsets, position, size = [], 0, os.path.getsize(path)
    with open(path, "rb") as file:
        while position < size:
            offsets.append(position)
            file.seek(position)
            position += int.from_bytes(file.read(8), "little") + _BESIDE_DATA
    if position > size:
        raise ValueError(
            f"The TFRecord file {path} ends within a record, at byte {size} "
            f"instead of {position}. Prepare the dataset again."
        )
    return np.array(offsets, np.int64)


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
    files = [part.filename for part in instructions]
    offsets = [
        index_tfrecord(part.filename)[part.skip : part.skip + part.take]
        for part in instructions
    ]
    file_of = np.repeat(np.arange(len(files)), list(map(len, offsets)))
    whole = np.concatenate(offsets)
    return TfRecords(files, file_of, whole, info.features, decoders)


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
    options: SourceOptions, argument: str, features: dict, wanted: Any
) -> str:
    """Returns the feature that an option names, or the only one there is."""
    name, kind = getattr(options, argument), wanted.__name__.lower()
    found = [
        key
        for key, feature in features.items()
        if isinstance(feature, wanted) and ("/" not in key or kind == "text")
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
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if isinstance(value, (list, tuple)):
        return [_as_text(item) for item in value]
    return value.decode("utf-8") if isinstance(value, bytes) else value
