"""The cache: images and captions encoded once, then read in every epoch.

Orders the package's other files.
"""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from keras_sdft import checks
from keras_sdft import files
from keras_sdft import parsing
from keras_sdft.data.buckets import Assignment
from keras_sdft.data.examples import Examples
from keras_sdft.data.options import Options
from keras_sdft.encoding import fingerprint
from keras_sdft.encoding import state as states
from keras_sdft.encoding.contents import DTYPES
from keras_sdft.encoding.contents import CacheNeeds
from keras_sdft.encoding.contents import Contents
from keras_sdft.encoding.encoders import Encoders
from keras_sdft.encoding.filling import Filling
from keras_sdft.encoding.reading import CachedExampleBuilder
from keras_sdft.encoding.reading import CacheReader
from keras_sdft.encoding.store import Rows

# What identifies each image, to tell which have changed.
_IMAGES = "images.npy"

_WAIT_SECONDS = 1.0


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
        sources: Dict of `StableDiffusion.encoder_sources`, which says where
            the encoders' weights come from. Where they are those that the
            cache was filled with, the encoders are not even built. `None`
            (the default) asks for it when data is loaded.
        unless: Function of `keras_sdft.encoding.CacheNeeds` that returns a
            reason not to use the cache, or `None`. With a reason, `load`
            gives batches without it.

    Attributes:
        directory: String.
        stale: List of strings, why the cache that was there is replaced.
        skip_reason: String, the reason of `unless`, or `None`.

    Example:

    ```python
    cache = keras_sdft.encoding.Cache("cache", stable_diffusion)
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
        sources: dict[str, str] | None = None,
        unless: Callable[[CacheNeeds], str | None] | None = None,
    ):
        if dtype is not None:
            checks.one_of("dtype", dtype, DTYPES)
        self.directory = os.path.abspath(os.fspath(directory))
        self.stale: list[str] = []
        self.skip_reason: str | None = None
        self._encoders = Encoders(stable_diffusion, sources)
        self._dtype = dtype
        self._contexts = contexts
        self._overwrite = overwrite
        self._defer = defer
        self._progress = progress
        self._unless = unless
        self._waits = False
        self._contents: Contents | None = None
        self._reader: CacheReader | None = None
        # A million images take seconds, and are asked for twice.
        self._table_of = functools.lru_cache(1)(fingerprint.image_table)
        self._table = np.zeros((0, 2), np.uint64)

    @staticmethod
    def unsupported(crop: str = "center", shuffle_tags: bool = False) -> str:
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

    @property
    def is_complete(self) -> bool:
        """Whether everything is encoded and can be read."""
        return self._reader is not None

    @property
    def contents(self) -> Contents:
        """What it holds, once `load` has planned it."""
        if self._contents is None:
            raise RuntimeError(
                "The cache knows no data yet. Pass it to "
                "`keras_sdft.data.load(..., cache=cache)` first."
            )
        return self._contents

    @property
    def reader(self) -> CacheReader:
        """What reads it, once it is filled."""
        if self._reader is None:
            raise RuntimeError(
                "The cache is not filled yet: call `cache.fill()` before "
                "training."
            )
        return self._reader

    # === What `keras_sdft.data` calls ===

    def check(self, options: Options) -> None:
        """Refuses options that cannot be cached.

        Raises:
            ValueError: If there is such an option.
        """
        tags = options.shuffle_tags and self._contexts is not False
        problem = self.unsupported(options.crop, tags)
        if problem:
            raise ValueError(problem)

    def has_read(self, examples: Examples, options: Options) -> bool:
        """Returns whether all these images were decoded to fill the cache."""
        state = states.read_state(self.directory)
        if state is None or not state.complete:
            return False
        table = self._table_of(examples, options.masks)
        found = fingerprint.of_images(table, options.masks)
        return found.items() <= state.fingerprint.items()

    def plan(
        self,
        examples: Examples,
        assignment: Assignment,
        options: Options,
        num_rows: int,
    ) -> bool:
        """Looks at the data and the directory, and encodes unless deferred.

        Args:
            examples: `Examples`, class images last.
            assignment: `Assignment` of the examples that are not.
            options: `Options`.
            num_rows: Integer, examples that an epoch shows.

        Returns:
            Boolean, whether the cache is to be used.
        """
        if self._contents is not None:
            raise ValueError(
                "A `Cache` object serves one data set. Make another one; of "
                "the same directory, if it is the same data."
            )
        contexts = self._contexts
        if contexts is None:
            state = states.read_state(self.directory)
            contexts = state is None or state.contexts
        self._table = self._table_of(examples, options.masks)
        self._contents = Contents(
            examples, assignment, options, self._encoders, contexts, self._dtype
        )
        state = self._valid_state()
        needs = self._needs(state, num_rows)
        self.skip_reason = self._unless(needs) if self._unless else None
        if self.skip_reason:
            return False
        if state is not None and state.complete:
            self._reader = CacheReader(self.directory, state, self.contents)
            return True
        self._check_disk(needs.num_bytes)
        self._waits = options.worker is not None
        if not self._defer:
            self.fill()
        return True

    def example_builder(
        self, *arguments: Any, **options: Any
    ) -> CachedExampleBuilder:
        """Returns what makes examples from the cache, once it is filled.

        The arguments are those of `ExampleBuilder`.
        """
        return CachedExampleBuilder(
            self.contents, lambda: self.reader, *arguments, **options
        )

    # === Filling ===

    def fill(self) -> None:
        """Encodes what is not encoded yet. Call `load` first.

        Raises:
            BlockingIOError: If another process fills the cache; one of
                several workers waits for it instead.
            OSError: If the disk is full or cannot be written to.
            ValueError: If the cache has become stale, or if the encoders
                give values that half precision does not hold.
        """
        if self.is_complete:
            return
        contents, directory = self.contents, self.directory
        with self._locked():
            # Another process may have filled it since it was looked at.
            state = self._valid_state()
            self._check_disk(self._needs(state, 0).num_bytes)
            with states.full_disk(directory):
                state = state or self._begin()
                if not state.complete:
                    Filling(
                        directory,
                        state,
                        contents,
                        self._encoders,
                        self._progress,
                    ).run()
        self._reader = CacheReader(directory, state, contents)

    def _locked(self) -> files.Lock:
        """Returns the lock of the directory against other processes."""
        path = os.path.join(self.directory, states.LOCK)
        while True:
            try:
                return files.Lock(path, "is filling the cache")
            except BlockingIOError:
                # One of several workers fills the cache, the others wait.
                if not self._waits:
                    raise
                time.sleep(_WAIT_SECONDS)

    def _valid_state(self) -> states.State | None:
        """Returns the state on the disk; `None` if there is no valid cache.

        Raises:
            ValueError: If it is stale, and is not to be replaced.
        """
        state = states.read_state(self.directory)
        self.stale = [] if state is None else self._reasons(state)
        if state is not None and not self.stale:
            return state
        self.contents.adopt(None)
        if not self.stale or self._overwrite:
            return None
        raise ValueError(
            f"The cache {self.directory!r} is stale: {'; '.join(self.stale)}. "
            "Name another directory, remove this one, or encode again "
            "(`keras_sdft.encoding.Cache(..., overwrite=True)`, `keras-sdft "
            "encode --overwrite`)."
        )

    def _reasons(self, state: states.State) -> list[str]:
        if state.format != states.FORMAT:
            return [
                f"it has format {state.format}, and this version of "
                f"keras_sdft reads format {states.FORMAT}"
            ]
        contents, stored = self.contents, state.fingerprint
        wanted = contents.fingerprint(self._table, stored)
        reasons = contents.shortcomings(state)
        reasons += fingerprint.differences(stored, wanted, self._image_changes)
        if not reasons:
            contents.adopt(state)
            reasons = self._damage(state)
        return reasons

    def _damage(self, state: states.State) -> list[str]:
        for store in self.contents.stores():
            done = state.rows.get(store.name, 0)
            try:
                if state.complete and done != store.rows:
                    raise ValueError(f"{store.name} has {done} rows")
                if done:
                    Rows(self.directory, store, done)
            except ValueError as error:
                return [f"it is damaged: {error}"]
        return []

    def _image_changes(self) -> str:
        path = os.path.join(self.directory, _IMAGES)
        try:
            with parsing.reading(path, "table of images"):
                old = np.load(path, allow_pickle=False).reshape(-1, 2)
        except (OSError, ValueError):
            return "others than it was filled with"
        records, used = self.contents.records, self.contents.used.tolist()
        return fingerprint.image_changes(
            old, self._table, lambda row: records[used[row]].name
        )

    def _needs(self, state: states.State | None, rows: int) -> CacheNeeds:
        contents, done = self.contents, state.rows if state else {}
        return CacheNeeds(
            num_images=len(contents.used) * contents.per_image,
            num_captions=len(contents.keys),
            num_rows=rows,
            num_bytes=sum(
                (store.rows - done.get(store.name, 0)) * store.row.itemsize
                for store in contents.stores()
            ),
            free_bytes=files.free_bytes(self.directory),
            is_complete=bool(state and state.complete),
        )

    def _check_disk(self, needed: int) -> None:
        remedy = "Or train without a cache."
        files.check_writable(self.directory, "cache")
        files.check_space(self.directory, needed, "The cache", remedy)

    def _begin(self) -> states.State:
        """Writes the state of an empty cache, in place of a stale one."""
        contents = self.contents
        state = states.State(
            contents.fingerprint(self._table, {}),
            contents.dtype,
            contents.flips,
            contents.contexts,
        )
        # First: cut short, it is a cache without a row, and known as ours.
        state.write(self.directory)
        for name in os.listdir(self.directory):
            if name.endswith(".rows"):
                os.unlink(os.path.join(self.directory, name))
        with files.atomic_file(os.path.join(self.directory, _IMAGES)) as file:
            np.save(file, self._table, allow_pickle=False)
        return state

    def summary(self) -> str:
        """Returns what it holds, where, and what rounding has changed."""
        contents, rounding = self.contents, self.reader.rounding
        size = sum(s.rows * s.row.itemsize for s in contents.stores())
        parts = [f"{len(contents.used):,} images"]
        if contents.flips:
            parts.append("their mirror images")
        if contents.contexts:
            parts.append(f"{len(contents.keys):,} captions")
        place = f"in {self.directory} ({files.size_text(size)})"
        lines = [f"{', '.join(parts)} {place}"]
        lines += [
            f"  half precision changed {name} by {most:.1e} at most"
            for name, most in rounding.items()
            if most
        ]
        return "\n".join(lines)
