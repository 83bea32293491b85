"""Reading a complete cache: a record's moments and mask, a caption's context.

This file must not know encoders, the data's files or TensorFlow.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from keras_sdft.data.cache_filling import HalfError
from keras_sdft.data.cache_fingerprint import caption_key
from keras_sdft.data.cache_layout import Layout
from keras_sdft.data.cache_layout import loaded_mask
from keras_sdft.data.cache_shards import Rows
from keras_sdft.data.cache_shards import shard_damage


class CacheReader:
    """Reads what is in a cache, from any thread.

    Args:
        directory: String.
        state: Dict, the state of a complete cache.
        layout: `Layout`.
        keys: uint64 array, sorted, one for each caption.

    Attributes:
        unreadable: Dict, why images could not be read, by record.
    """

    def __init__(
        self,
        directory: str,
        state: dict[str, Any],
        layout: Layout,
        keys: np.ndarray,
    ):
        self._layout = layout
        self._keys = keys
        self._state = state
        self._rows = {
            store.name: Rows(
                directory, store, state["stores"][store.name]["shards"]
            )
            for store in layout.stores()
        }
        self.unreadable = {
            int(record): reason
            for record, reason in state["unreadable"].items()
        }

    def moments(self, record: int, flip: bool) -> np.ndarray:
        """Returns the moments of a record, float32 `(H/8, W/8, 8)`."""
        layout = self._layout
        row = int(layout.place_of[record]) * layout.per_image + flip
        store = layout.moments(int(layout.bucket_of[record]))
        return self._rows[store.name][row].astype(np.float32)

    def mask(self, record: int, flip: bool) -> np.ndarray:
        """Returns the mask of a record, float32 `(H/8, W/8, 1)`."""
        layout = self._layout
        store = layout.mask(int(layout.bucket_of[record]))
        mask = loaded_mask(self._rows[store.name][int(layout.place_of[record])])
        return np.ascontiguousarray(mask[:, ::-1]) if flip else mask

    def context(self, text: str) -> np.ndarray:
        """Returns the context of a caption, float32 `(77, D)`."""
        key = caption_key(text)
        row = int(np.searchsorted(self._keys, key))
        if row == len(self._keys) or self._keys[row] != key:
            raise RuntimeError(f"The cache holds no caption {text!r}.")
        return self._rows["contexts"][row].astype(np.float32)

    def rounding(self) -> dict[str, HalfError]:
        """Returns what half precision has cost, by store; `{}` if none."""
        return {
            store.name: HalfError(self._state["stores"][store.name]["error"])
            for store in self._layout.stores()
            if store.dtype == "float16"
        }


def damage(directory: str, state: dict[str, Any], layout: Layout) -> list[str]:
    """Says which shards are missing, or are not what was written.

    Args:
        directory: String.
        state: Dict, the state of a cache, complete or not.
        layout: `Layout`, its own.

    Returns:
        List of strings, empty if all are there.
    """
    found = [
        shard_damage(directory, store, first, count)
        for store in layout.stores()
        for first, count in state["stores"][store.name]["shards"]
    ]
    return [text for text in found if text is not None]
