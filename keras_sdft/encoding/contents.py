"""What a cache holds: which rows, whose they are, and what they are made from.

All of it follows from the data, its options and the encoders. Files count by
name, size and time of change, which is cheap for a million of them; what is in
memory counts by content. This file must not know how rows are written or read,
or TensorFlow.
"""

import dataclasses
import hashlib
import os
from collections.abc import Iterator
from typing import Any

import numpy as np

from keras_sdft.data.buckets import Assignment
from keras_sdft.data.captions import read_captions
from keras_sdft.data.examples import Examples
from keras_sdft.data.masks import PIXELS_PER_LATENT
from keras_sdft.data.options import PLACEHOLDER
from keras_sdft.data.options import Options
from keras_sdft.encoding.encoders import Encoders
from keras_sdft.encoding.store import FORMAT
from keras_sdft.encoding.store import State
from keras_sdft.encoding.store import Store

DTYPES = ("float16", "float32")
# A sum of 64 pixels of 0 to 255, so that no precision is lost.
_MASK_DTYPE = "uint16"
_MASK_SCALE = PIXELS_PER_LATENT**2 * 255

# Parts of the fingerprint that follow from others, or may be missing.
_BUCKETS = "the buckets of the images"
_CAPTIONS = "the captions or `caption_template`"


@dataclasses.dataclass(eq=False)
class Contents:
    """What a `Cache` holds, or is to hold.

    Attributes:
        examples: `Examples`; those beyond the assignment are class images.
        data: Dict of `identify_images`; becomes the part of the fingerprint
            that is about the data.
        bucket_of: int64 array, the bucket of each record, or -1.
        used: int64 array, the records that are encoded.
        images: List of int64 arrays, the records of each bucket in order.
        keys: uint64 array, sorted, one for each distinct caption.
        flips: Boolean, whether each image has the moments of its mirror image.
    """

    examples: Examples
    data: dict[str, Any]
    assignment: Assignment
    options: Options
    encoders: Encoders
    contexts: bool
    wanted_dtype: str | None

    def __post_init__(self) -> None:
        self.adopt(None)
        self.records = self.examples.records
        self.sizes = self.assignment.sizes
        self.bucket_of = _buckets(self.examples, self.assignment)
        self.images = [
            np.flatnonzero(self.bucket_of == bucket)
            for bucket in range(len(self.sizes))
        ]
        self.used = np.flatnonzero(self.bucket_of >= 0)
        # Of a million texts, two have one key once in 30 million data sets.
        keys = np.fromiter(map(text_key, self._texts()), np.uint64)
        self.keys, self._places = np.unique(keys, return_index=True)
        self.data = self.data | {
            "the sizes (height, width)": [list(size) for size in self.sizes],
            _BUCKETS: _digest(self.bucket_of[self.used].tobytes()),
        }
        if self.contexts:
            self.data[_CAPTIONS] = _digest(self.keys.tobytes())

    def adopt(self, state: State | None) -> None:
        """Takes over what a valid cache has more of than is asked for."""
        self.flips = self.options.horizontal_flip
        self.dtype = self.wanted_dtype or DTYPES[0]
        if state is not None:
            self.flips, self.dtype = state.flips, state.dtype

    def captions(self) -> Store:
        """Returns the store of the contexts."""
        field = ("context", self.dtype, self.encoders.context_shape)
        return Store("captions", len(self.keys), (field,))

    def buckets(self) -> list[Store]:
        """Returns the store of each bucket: its images' moments and masks."""
        found, kinds = [], 1 + self.flips
        for size, images in zip(self.sizes, self.images, strict=True):
            height, width = (side // PIXELS_PER_LATENT for side in size)
            shape = (kinds, height, width, self.encoders.moments_channels)
            fields: list[Any] = [("moments", self.dtype, shape)]
            if self.options.masks is not None:
                fields.append(("mask", _MASK_DTYPE, (height, width, 1)))
            name = f"images-{width}x{height}"
            found.append(Store(name, len(images), tuple(fields)))
        return found

    def stores(self) -> list[Store]:
        """Returns all stores that the cache has."""
        return [self.captions()] * self.contexts + self.buckets()

    def texts(self) -> list[str]:
        """Returns the distinct captions, in the order of `keys`."""
        texts = list(self._texts())
        return [texts[place] for place in self._places.tolist()]

    def _texts(self) -> Iterator[str]:
        """Yields each caption that training may show, the empty one first."""
        if not self.contexts:
            return
        yield ""
        # Of an image that cannot be read, nothing is shown.
        for caption in read_captions(self.records, self.used):
            for template in self.options.templates:
                yield template.replace(PLACEHOLDER, caption)

    def fingerprint(self, stored: dict[str, Any]) -> dict[str, Any]:
        """Returns what it is made from; see `Encoders.fingerprint`."""
        encoders = self.encoders
        found = self.data | encoders.fingerprint("image_encoder", stored)
        if self.contexts:
            found["the tokenizer"] = _digest(encoders.token_ids())
            found |= encoders.fingerprint("text_encoder", stored)
        return found

    def differences(self, state: State) -> list[str]:
        """Says in what a cache is not what is wanted, or not enough."""
        if state.format != FORMAT:
            return [
                f"it has format {state.format}, and this version of "
                f"keras_sdft reads format {FORMAT}"
            ]
        if self.options.horizontal_flip and not state.flips:
            return ["it holds no mirrored images (`horizontal_flip`)"]
        if self.wanted_dtype == "float32" != state.dtype:
            return [f"it holds {state.dtype}, not float32"]
        if not state.complete and state.contexts != self.contexts:
            words = "with" if state.contexts else "without"
            return [f"it was begun {words} captions"]
        reasons: list[str] = []
        for part, value in self.fingerprint(state.fingerprint).items():
            before = state.fingerprint.get(part)
            # Buckets follow from images and sizes, which come first.
            if before == value or (part == _BUCKETS and reasons):
                continue
            if part == _CAPTIONS and before is None:
                return [*reasons, "it holds no captions (`contexts=True`)"]
            if not part.startswith("source"):
                is_hash = str(value).startswith("#")
                values = "" if is_hash else f" (now {value}, were {before})"
                reasons.append(f"{part} changed{values}")
        return reasons


def _buckets(examples: Examples, assignment: Assignment) -> np.ndarray:
    """Returns the bucket of each record, or -1; refuses several for a class."""
    own = len(assignment.bucket_of)
    if own < len(examples) and len(assignment.sizes) > 1:
        raise ValueError(
            "Class images cannot be cached with buckets: each is shown at "
            "the size of the photo before it, another one each time. Leave "
            "`buckets` or the cache out."
        )
    bucket_of = np.full(len(examples.records), -1, np.int64)
    bucket_of[examples.rows] = 0
    bucket_of[examples.rows[:own]] = assignment.bucket_of
    return bucket_of


def stored_mask(mask: np.ndarray) -> np.ndarray:
    """Returns a mask of `masks.latent_mask` as whole numbers, exactly."""
    return np.rint(mask * np.float32(_MASK_SCALE)).astype(_MASK_DTYPE)


def loaded_mask(stored: np.ndarray) -> np.ndarray:
    """Returns the mask of `stored_mask`, float32, to the bit."""
    area = np.float32(PIXELS_PER_LATENT**2)
    return stored.astype(np.float32) / area / np.float32(255)


# === The fingerprint ===


def identify_images(examples: Examples, masks: str | None) -> dict[str, Any]:
    """Returns the part of a fingerprint that is about images and masks."""
    records, used = examples.records, examples.shown.tolist()
    identity = getattr(records, "identity", None)
    keys = hashlib.blake2b(f"{identity}".encode(), digest_size=16)
    for index in used:
        key: Any = index
        if identity is None:
            example = records[index]
            mask = example.mask if masks == "files" else None
            key = example.name, _identity(example.image), _identity(mask)
        keys.update(f"\n{key}".encode(errors="surrogatepass"))
    return {
        "the number of images": len(used),
        "the images (names, sizes, times of change)": f"#{keys.hexdigest()}",
        "the masks": masks or "none",
    }


def _identity(image: Any) -> Any:
    """Returns what changes with an image's content."""
    if image is None or isinstance(image, bytes):
        return image and _digest(image)
    if not isinstance(image, (str, os.PathLike)):
        # Pillow's images tell their mode by their array's shape and dtype.
        array = np.ascontiguousarray(image)
        return array.shape, array.dtype.str, _digest(array.tobytes())
    try:
        status = os.stat(image)
    # It will be reported as unreadable when it is read.
    except OSError:
        return None
    return status.st_size, status.st_mtime_ns


def text_key(text: str) -> int:
    """Returns a hash of a text as an integer of 64 bits."""
    # Lone surrogates come from file names that are no UTF-8.
    content = text.encode("utf-8", "surrogatepass")
    return int.from_bytes(
        hashlib.blake2b(content, digest_size=8).digest(), "little"
    )


def _digest(content: bytes) -> str:
    return "#" + hashlib.blake2b(content, digest_size=16).hexdigest()
