"""The cache: images and captions encoded once, then read in every epoch.

It orders the room's other `cache_` files. The encoders are handed in; this
file must not know where they are made, TensorFlow or training.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import numpy as np

from keras_sdft import checks
from keras_sdft.data.buckets import Assignment
from keras_sdft.data.cache_data import DTYPES
from keras_sdft.data.cache_data import CacheData
from keras_sdft.data.cache_data import CacheNeeds
from keras_sdft.data.cache_encoders import Encoders
from keras_sdft.data.cache_filling import Filling
from keras_sdft.data.cache_filling import stored_rows
from keras_sdft.data.cache_fingerprint import image_table
from keras_sdft.data.cache_fingerprint import table_digests
from keras_sdft.data.cache_layout import Layout
from keras_sdft.data.cache_reading import CacheReader
from keras_sdft.data.cache_reading import damage
from keras_sdft.data.cache_shards import write_whole
from keras_sdft.data.cache_state import FORMAT_VERSION
from keras_sdft.data.cache_state import IMAGES
from keras_sdft.data.cache_state import check_space
from keras_sdft.data.cache_state import locked
from keras_sdft.data.cache_state import read_state
from keras_sdft.data.cache_state import remove
from keras_sdft.data.cache_state import size_text
from keras_sdft.data.cache_state import write_state
from keras_sdft.data.cache_state import writing
from keras_sdft.data.examples import Examples
from keras_sdft.data.options import Options
from keras_sdft.files import free_bytes


class Cache:
    """Moments of images and contexts of captions, in a directory.

    `keras_sdft.data.load(..., cache=cache)` encodes what is not encoded yet,
    and its batches have `moments`, float32 of shape `(B, H/8, W/8, 8)`, and
    `context`, float32 of shape `(B, 77, D)`, where they would have `images`
    and `token_ids`. Everything else is the same: order, captions, flips,
    masks and weights. A directory serves one data set, one set of sizes and
    one model; what has changed is told, and nothing stale is read.

    An encoding that was interrupted goes on where it stopped.

    Args:
        directory: Path; made if it is missing.
        stable_diffusion: A `keras_sdft.StableDiffusion`, whose encoders and
            tokenizer are used.
        dtype: `"float16"` or `"float32"`, on the disk. `None` (the default)
            takes what is there, and `"float16"` for a new cache.
        contexts: Boolean, whether captions are encoded too. `False` keeps
            `token_ids` in the batches, for a text encoder that learns.
            `None` (the default) takes what is there, and `True` for a new
            cache.
        overwrite: Boolean, whether a stale cache in the directory is
            replaced instead of refused. Defaults to `False`.
        defer: Boolean, whether `load` leaves the encoding to a call of
            `fill`. Defaults to `False`.
        progress: Boolean, whether to show a bar. Defaults to `True`.
        sources: Function that returns a dict of texts, by `"image_encoder"`
            and `"text_encoder"`, which say where the weights come from; see
            `keras_sdft.models.encoder_sources`. Where they are those that
            the cache was filled with, the encoders are not even built.
            `None` always hashes the weights.
        unless: Function of `keras_sdft.data.CacheNeeds` that returns a
            reason not to use the cache, or `None`. With a reason, `load`
            gives batches without it.

    Attributes:
        directory: String.
        stale: List of strings, why the cache that was there is replaced.
        declined: String, the reason of `unless`, or `None`.

    Example:

    ```python
    cache = keras_sdft.data.Cache("cache", stable_diffusion)
    dataset = keras_sdft.data.load(
        "photos", stable_diffusion.tokenizer, cache=cache
    )
    ```
    """

    def __init__(
        self,
        directory: str | os.PathLike,
        stable_diffusion: Any,
        *,
        dtype: str | None = None,
        contexts: bool | None = None,
        overwrite: bool = False,
        defer: bool = False,
        progress: bool = True,
        sources: Callable[[], dict[str, str]] | None = None,
        unless: Callable[[CacheNeeds], str | None] | None = None,
    ):
        if dtype is not None:
            checks.one_of("dtype", dtype, DTYPES)
        self.directory = os.path.abspath(os.fspath(directory))
        self.stale: list[str] = []
        self.declined: str | None = None
        self._encoders = Encoders(stable_diffusion, sources)
        self._dtype = dtype
        self._contexts = contexts
        self._overwrite = overwrite
        self._defer = defer
        self._progress = progress
        self._unless = unless
        self._data: CacheData | None = None
        self._layout: Layout | None = None
        self._reader: CacheReader | None = None
        self._seen: tuple[Examples, np.ndarray] | None = None

    @staticmethod
    def obstacle(crop: str = "center", shuffle_tags: bool = False) -> str:
        """Says which option cannot be cached, and what to do.

        Args:
            crop: `"center"` or `"random"`.
            shuffle_tags: Boolean; tags of captions that are encoded.

        Returns:
            String, `""` if there is none.
        """
        if crop == "random":
            return (
                "`crop='random'` cannot be cached: each epoch sees another "
                "part of an image. Use `crop='center'`, or no cache."
            )
        if shuffle_tags:
            return (
                "`shuffle_tags` cannot be cached: each epoch has other "
                "captions. Leave it out, use no cache, or cache without "
                "captions (`contexts=False`)."
            )
        return ""

    def check(self, crop: str, shuffle_tags: bool) -> None:
        """Refuses options that cannot be cached.

        Raises:
            ValueError: If there is such an option.
        """
        encoded = self._contexts is not False
        problem = self.obstacle(crop, shuffle_tags and encoded)
        if problem:
            raise ValueError(problem)

    @property
    def is_complete(self) -> bool:
        """Whether everything is encoded and can be read."""
        return self._reader is not None

    @property
    def layout(self) -> Layout:
        """Which image stands where, once `load` has planned it."""
        if self._layout is None:
            raise RuntimeError(
                "The cache knows no data yet. Pass it to "
                "`keras_sdft.data.load(..., cache=cache)` first."
            )
        return self._layout

    @property
    def reader(self) -> CacheReader:
        """What reads it, once it is filled."""
        if self._reader is None:
            raise RuntimeError(
                "The cache is not filled yet: call `cache.fill()` before "
                "training."
            )
        return self._reader

    def has_read(self, examples: Examples, options: Options) -> bool:
        """Tells whether all these images were decoded to fill the cache.

        Args:
            examples: `Examples`.
            options: `keras_sdft.data.options.Options`.
        """
        state = read_state(self.directory)
        if state is None or not state["complete"]:
            return False
        if state["format_version"] != FORMAT_VERSION:
            return False
        used = np.unique(examples.rows)
        masks = options.masks is not None
        table = image_table(examples.records, used, masks)
        self._seen = (examples, table)
        stored = state["fingerprint"]
        found = table_digests(table, options.masks)
        return all(stored[part] == found[part] for part in found)

    def plan(
        self,
        examples: Examples,
        assignment: Assignment,
        options: Options,
        num_rows: int,
    ) -> bool:
        """Looks at the data and the directory, and encodes unless deferred.

        `load` calls this.

        Args:
            examples: `Examples`, class images last.
            assignment: `Assignment` of the examples that are not.
            options: `keras_sdft.data.options.Options`.
            num_rows: Integer, examples that an epoch shows.

        Returns:
            Boolean, whether the cache is to be used.

        Raises:
            ValueError: If the cache is stale or damaged, or the disk is too
                small for it.
            OSError: If the directory is not a cache's, or cannot be used.
        """
        if self._data is not None:
            raise ValueError(
                "A `Cache` object serves one data set. Make another one; of "
                "the same directory, if it is the same data."
            )
        known = self._seen is not None and self._seen[0] is examples
        self._data = CacheData(
            examples,
            assignment,
            options,
            self._encoders,
            self._with_contexts(),
            self._dtype,
            self._seen[1] if known else None,
        )
        state = self._valid_state()
        self._layout = self._data.layout(state)
        needs = self._needs(state, num_rows)
        self.declined = self._unless(needs) if self._unless else None
        if self.declined:
            return False
        if needs.is_complete:
            self._open(state)
            return True
        check_space(self.directory, needs.num_bytes)
        if not self._defer:
            self.fill()
        return True

    def _with_contexts(self) -> bool:
        if self._contexts is not None:
            return self._contexts
        return (read_state(self.directory) or {}).get("contexts", True)

    def _valid_state(self) -> dict[str, Any] | None:
        """The state on the disk; `None` if it is empty or to be replaced."""
        state = read_state(self.directory)
        if state is None:
            return None
        self.stale = self._data.reasons(state, self.directory)
        if not self.stale:
            layout = self._data.layout(state)
            self.stale = damage(self.directory, state, layout)[:1]
        if not self.stale:
            return state
        if self._overwrite:
            return None
        raise ValueError(
            f"The cache {self.directory!r} is stale: {'; '.join(self.stale)}. "
            "Name another directory, remove this one, or encode again "
            "(`keras_sdft.data.Cache(..., overwrite=True)`, `keras-sdft "
            "encode --overwrite`)."
        )

    def _needs(self, state: dict[str, Any] | None, rows: int) -> CacheNeeds:
        layout, stores = self.layout, self.layout.stores()
        missing = [
            store.rows - (stored_rows(state, store) if state else 0)
            for store in stores
        ]
        return CacheNeeds(
            num_images=len(self._data.used) * layout.per_image,
            num_captions=layout.num_captions,
            num_rows=rows,
            num_bytes=sum(
                count * store.row_bytes
                for count, store in zip(missing, stores, strict=True)
            ),
            free_bytes=free_bytes(self.directory),
            is_complete=bool(state and state["complete"]),
        )

    def fill(self) -> None:
        """Encodes what is not encoded yet. Call `load` first.

        Raises:
            BlockingIOError: If another process fills the cache.
            OSError: If the disk is full or cannot be written to.
            ValueError: If the cache has become stale, or if the encoders
                give values that half precision does not hold.
        """
        if self.is_complete:
            return
        _ = self.layout
        with locked(self.directory):
            # Another process may have filled it since it was looked at.
            state = self._valid_state()
            self._layout = self._data.layout(state)
            if state is None:
                state = self._begin()
            if not state["complete"]:
                self._encode(state)
                state["complete"] = True
                with writing(self.directory):
                    write_state(self.directory, state)
        self._open(state)

    def _begin(self) -> dict[str, Any]:
        """Writes the state of an empty cache, in place of a stale one."""
        state = self._data.new_state(self.layout)
        table = self._data.table
        with writing(self.directory):
            remove(self.directory)
            write_state(self.directory, state)
            write_whole(
                os.path.join(self.directory, IMAGES),
                lambda file: np.save(file, table, allow_pickle=False),
            )
        return state

    def _encode(self, state: dict[str, Any]) -> None:
        data, layout = self._data, self.layout
        check_space(self.directory, self._needs(state, 0).num_bytes)
        filling = Filling(
            self.directory,
            state,
            layout,
            self._encoders,
            data.records,
            data.options.masks,
        )
        store = layout.contexts
        if store is not None:
            done = stored_rows(state, store)
            with self._bar("caption", layout.num_captions, done) as bar:
                if done < store.rows:
                    filling.fill_contexts(data.texts(), bar)
        buckets = range(len(layout.sizes))
        done = sum(stored_rows(state, layout.moments(b)) for b in buckets)
        done //= layout.per_image
        with self._bar("image", len(data.used), done) as bar:
            for bucket in buckets:
                filling.fill_images(bucket, bar)

    def _bar(self, unit: str, total: int, done: int) -> Any:
        from tqdm import tqdm

        return tqdm(
            total=total,
            initial=done,
            desc=f"encode {unit}s",
            unit=unit,
            disable=not self._progress,
        )

    def _open(self, state: dict[str, Any]) -> None:
        self._reader = CacheReader(
            self.directory, state, self.layout, self._data.keys
        )

    def summary(self) -> str:
        """Returns what it holds, where, and what rounding has cost."""
        layout = self.layout
        size = sum(store.rows * store.row_bytes for store in layout.stores())
        parts = [f"{len(self._data.used):,} images"]
        if layout.flips:
            parts.append("their mirror images")
        if layout.contexts is not None:
            parts.append(f"{layout.num_captions:,} captions")
        text = f"{', '.join(parts)} in {self.directory} ({size_text(size)})"
        return "\n".join([text, *self._rounding()])

    def _rounding(self) -> list[str]:
        return [
            f"  half precision changed {name} by {error.largest:.1e} at "
            f"most; root mean square {error.relative:.1e} of the values'"
            for name, error in self.reader.rounding().items()
        ]
