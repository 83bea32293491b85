"""What a cache is of: the data, its options and the encoders.

Lays out the rows and says whether what is on the disk is still true. This
file must not know how rows are written or read, or TensorFlow.
"""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Iterator
from typing import Any

import numpy as np

from keras_sdft.data.buckets import Assignment
from keras_sdft.data.cache_encoders import IMAGE_ENCODER
from keras_sdft.data.cache_encoders import TEXT_ENCODER
from keras_sdft.data.cache_encoders import Encoders
from keras_sdft.data.cache_fingerprint import all_texts
from keras_sdft.data.cache_fingerprint import caption_keys
from keras_sdft.data.cache_fingerprint import differences
from keras_sdft.data.cache_fingerprint import digest
from keras_sdft.data.cache_fingerprint import image_changes
from keras_sdft.data.cache_fingerprint import image_table
from keras_sdft.data.cache_fingerprint import table_digests
from keras_sdft.data.cache_layout import Layout
from keras_sdft.data.cache_layout import buckets_of_records
from keras_sdft.data.cache_state import FORMAT_VERSION
from keras_sdft.data.cache_state import IMAGES
from keras_sdft.data.examples import Examples
from keras_sdft.data.options import Options

DTYPES = ("float16", "float32")


class CacheData:
    """The data of a cache.

    Args:
        examples: `Examples`, class images last.
        assignment: `Assignment` of the examples that are not.
        options: `Options`.
        encoders: `Encoders`.
        contexts: Boolean, whether captions are encoded too.
        dtype: `"float16"`, `"float32"` or `None` for any.
        table: `image_table` of the same examples, if it is known.

    Attributes:
        used: int64 array, the records that are encoded.
        keys: uint64 array, sorted, one for each distinct caption.

    Raises:
        ValueError: If class images would be needed at several sizes.
    """

    def __init__(
        self,
        examples: Examples,
        assignment: Assignment,
        options: Options,
        encoders: Encoders,
        contexts: bool,
        dtype: str | None,
        table: np.ndarray | None = None,
    ):
        self.records = examples.records
        self._table = table
        self.options = options
        self._encoders = encoders
        self._contexts = contexts
        self._dtype = dtype
        self._sizes = assignment.sizes
        self._bucket_of, self._place_of, self._images = buckets_of_records(
            examples, assignment
        )
        self.used = np.flatnonzero(self._bucket_of >= 0)
        self.keys = np.zeros(0, np.uint64)
        self._places = np.zeros(0, np.int64)
        if contexts:
            self.keys, self._places = caption_keys(self._texts())

    def layout(self, state: dict[str, Any] | None) -> Layout:
        """Returns which row is whose.

        Args:
            state: Dict, the state of a cache that is valid. What it has more
                of than is asked for stays. `None` for a new cache.
        """
        state = state or {}
        shape = self._encoders.context_shape if self._contexts else None
        return Layout(
            sizes=self._sizes,
            images=self._images,
            place_of=self._place_of,
            bucket_of=self._bucket_of,
            flips=bool(self.options.horizontal_flip or state.get("flips")),
            masks=self.options.masks is not None,
            moments_channels=self._encoders.moments_channels,
            context_shape=shape,
            num_captions=len(self.keys),
            dtype=state.get("dtype") or self._dtype or DTYPES[0],
        )

    def texts(self) -> list[str]:
        """Returns the distinct captions, in the order of `keys`."""
        texts = list(self._texts())
        return [texts[place] for place in self._places.tolist()]

    def _texts(self) -> Iterator[str]:
        return all_texts(self.records, self.used, self.options.templates)

    # === What makes it valid ===

    @functools.cached_property
    def table(self) -> np.ndarray:
        """What identifies each image, see `image_table`."""
        if self._table is not None:
            return self._table
        masks = self.options.masks is not None
        return image_table(self.records, self.used, masks)

    def new_state(self, layout: Layout) -> dict[str, Any]:
        """Returns the state of a cache of this data that is still empty."""
        return {
            "complete": False,
            "format_version": FORMAT_VERSION,
            "fingerprint": self._fingerprint({}),
            "dtype": layout.dtype,
            "flips": layout.flips,
            "contexts": self._contexts,
            "stores": {
                store.name: {"shards": [], "error": None}
                for store in layout.stores()
            },
            "unreadable": {},
        }

    def reasons(self, state: dict[str, Any], directory: str) -> list[str]:
        """Says why a cache is not one of this data, or not good enough.

        Args:
            state: Dict, its state.
            directory: String, where it is.

        Returns:
            List of strings, empty if it is valid.
        """
        version = state["format_version"]
        if version != FORMAT_VERSION:
            return [
                f"it has format version {version}, written by keras_sdft "
                f"{state.get('written_by')}, and this one reads version "
                f"{FORMAT_VERSION}"
            ]
        reasons = []
        if self.options.horizontal_flip and not state["flips"]:
            reasons.append("it holds no mirrored images (`horizontal_flip`)")
        if self._dtype == "float32" != state["dtype"]:
            reasons.append(f"it holds {state['dtype']}, not float32")
        if not state["complete"] and state["contexts"] != self._contexts:
            words = "with" if state["contexts"] else "without"
            reasons.append(f"it was begun {words} captions")
        stored = state["fingerprint"]
        wanted = self._fingerprint(stored)
        changes = ""
        if stored["images"] != wanted["images"]:
            changes = self._image_changes(directory)
        return reasons + differences(stored, wanted, changes)

    def _fingerprint(self, stored: dict[str, Any]) -> dict[str, Any]:
        encoders = self._encoders
        found: dict[str, Any] = {
            **table_digests(self.table, self.options.masks),
            "sizes": [list(size) for size in self._sizes],
            "assignment": digest(self._bucket_of[self.used].tobytes()),
        }
        parts = [IMAGE_ENCODER]
        if self._contexts:
            parts.append(TEXT_ENCODER)
            found["captions"] = [len(self.keys), digest(self.keys.tobytes())]
            found["tokenizer"] = encoders.tokenizer()
        for part in parts:
            found[part] = encoders.fingerprint(part, stored.get(part))
        return found

    def _image_changes(self, directory: str) -> str:
        try:
            path = os.path.join(directory, IMAGES)
            table = np.load(path, allow_pickle=False)
        except (OSError, ValueError):
            return "others than it was filled with"
        return image_changes(
            table,
            self.table,
            lambda place: self.records[int(self.used[place])].name,
        )


@dataclasses.dataclass(frozen=True)
class CacheNeeds:
    """What a cache would take, to decide whether it is worth it.

    Attributes:
        num_images: Integer, images to encode, mirrored ones included.
        num_captions: Integer, distinct captions to encode.
        num_rows: Integer, examples that an epoch shows.
        num_bytes: Integer, bytes still to be written.
        free_bytes: Integer, bytes that are free on the disk.
        is_complete: Boolean, whether all is encoded already.
    """

    num_images: int
    num_captions: int
    num_rows: int
    num_bytes: int
    free_bytes: int
    is_complete: bool
