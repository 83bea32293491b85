"""The cache: images and captions encoded once, then read in every epoch.

Orders the package's other files.
"""

import contextlib
import dataclasses
import errno
import functools
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from keras_sdft import checks
from keras_sdft import disk
from keras_sdft import files
from keras_sdft.data.buckets import Assignment
from keras_sdft.data.examples import Examples
from keras_sdft.data.options import Options
from keras_sdft.encoding import store
from keras_sdft.encoding.contents import DTYPES
from keras_sdft.encoding.contents import Contents
from keras_sdft.encoding.contents import identify_images
from keras_sdft.encoding.encoders import Encoders
from keras_sdft.encoding.rows import CachedExampleBuilder
from keras_sdft.encoding.rows import CacheReader
from keras_sdft.encoding.rows import Filling

# What a disk raises that a process can only read.
_READ_ONLY = (errno.EACCES, errno.EPERM, errno.EROFS)
# How long another worker may take to begin to fill the cache, and how often
# one that cannot write looks whether it is filled.
_PATIENCE_SECONDS = 60.0
_POLL_SECONDS = 1.0


@dataclasses.dataclass(eq=False)
class Cache:
    """Moments of images and contexts of captions, in a directory.

    `keras_sdft.data.load(..., cache=cache)` encodes what is not encoded yet,
    and its batches have `moments`, float32 of shape `(B, H/8, W/8, 8)`, and
    `context`, float32 of shape `(B, 77, D)`, where they would have `images`
    and `token_ids`. Everything else is the same: order, captions, flips,
    masks and weights. A directory serves one data set, one set of sizes and
    one model; what has changed is told, and nothing stale is read.

    An encoding that was interrupted goes on where it stopped. Where the
    encoders' weights come from the files that it was filled with, the
    encoders are not even built.

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
        unless: Function that returns a reason not to fill the cache, or
            `None`; it is asked where something is still to be encoded. It
            takes `num_images`, the images that the cache holds, mirrored
            ones included, `num_rows`, the examples that an epoch shows, and
            `num_bytes` still to be written. With a reason, `load` gives
            batches without the cache.

    Attributes:
        stale: List of strings, why the cache that was there is replaced.
        skip_reason: String, the reason of `unless`, or `None`.
        contents: What it holds, once `load` has planned it; else `None`.

    Example:

    ```python
    cache = keras_sdft.encoding.Cache("cache", stable_diffusion)
    dataset = keras_sdft.data.load(
        "photos", stable_diffusion.tokenizer, cache=cache
    )
    ```
    """

    directory: Any
    stable_diffusion: Any
    _: dataclasses.KW_ONLY
    dtype: str | None = None
    contexts: bool | None = None
    overwrite: bool = False
    defer: bool = False
    progress: bool = True
    unless: Callable[..., str | None] | None = None

    def __post_init__(self) -> None:
        if self.dtype is not None:
            checks.one_of("dtype", self.dtype, DTYPES)
        self.directory = os.path.abspath(self.directory)
        self.stale: list[str] = []
        self.skip_reason: str | None = None
        self.contents: Any = None
        self.encoders = Encoders(self.stable_diffusion)
        self._waits = False
        self._reader: CacheReader | None = None
        # A million images take seconds, and are asked for twice.
        self._identify = functools.lru_cache(1)(identify_images)

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

    def check(self, options: Any) -> None:
        """Refuses options that cannot be cached, with a `ValueError`."""
        if options.crop == "random":
            raise ValueError(
                "`crop='random'` cannot be cached: each epoch sees another "
                "part of an image. Use `crop='center'`, or no cache."
            )
        if options.shuffle_tags and self.contexts is not False:
            raise ValueError(
                "`shuffle_tags` cannot be cached: each epoch has other "
                "captions. Leave it out, use no cache, or cache without "
                "captions (`contexts=False`)."
            )

    def has_read(self, examples: Examples, options: Options) -> bool:
        """Returns whether all these images were decoded to fill the cache."""
        state = store.read_state(self.directory)
        if state is None or not state.complete:
            return False
        found = self._identify(examples, options.masks)
        return found.items() <= state.fingerprint.items()

    def plan(
        self,
        examples: Examples,
        assignment: Assignment,
        options: Options,
        num_rows: int,
    ) -> Callable[..., CachedExampleBuilder] | None:
        """Looks at the data and the directory, and encodes unless deferred.

        Class images are the last examples, beyond those of the assignment;
        an epoch shows `num_rows`. Returns what makes an `ExampleBuilder` that
        reads from the filled cache, or `None` if it is not to be used.
        """
        builder = functools.partial(CachedExampleBuilder, cache=self)
        contexts = self.contexts
        if contexts is None:
            state = store.read_state(self.directory)
            contexts = state is None or state.contexts
        contents = Contents(
            examples,
            self._identify(examples, options.masks),
            assignment,
            options,
            self.encoders,
            contexts,
            self.dtype,
        )
        if self.contents is not None and self.contents.data != contents.data:
            raise ValueError(
                "A `Cache` object serves one data set. Make another one, of "
                "another directory."
            )
        self.contents = contents
        state = self._valid_state()
        if state is not None and state.complete:
            self._reader = CacheReader(self.directory, state, contents)
            # Marks it as used now; a disk may be read-only.
            with contextlib.suppress(OSError):
                os.utime(os.path.join(self.directory, store.LOCK))
            return builder
        num_bytes = self._missing_bytes(state)
        if self.unless is not None:
            num_images = len(contents.used) * (1 + contents.flips)
            self.skip_reason = self.unless(
                num_images=num_images, num_rows=num_rows, num_bytes=num_bytes
            )
            if self.skip_reason:
                return None
        self._check_disk(num_bytes)
        self._waits = options.worker is not None
        if not self.defer:
            self.fill()
        return builder

    # === Filling ===

    def fill(self) -> None:
        """Encodes what is not encoded yet. Call `load` first.

        Raises:
            BlockingIOError: If another process fills the cache; one of
                several workers waits for it instead, also where it can only
                read the disk.
            OSError: If the disk is full or cannot be written to.
            ValueError: If the cache has become stale, or if the encoders
                give values that half precision does not hold.
        """
        if self._reader is not None:
            return
        if self.contents is None:
            raise RuntimeError(
                "The cache knows no data yet. Pass it to "
                "`keras_sdft.data.load(..., cache=cache)` first."
            )
        if self._waits:
            self.stable_diffusion.build_parts()
        path = os.path.join(self.directory, store.LOCK)
        try:
            with files.Lock(path, "is filling the cache", wait=self._waits):
                state = self._filled()
        except OSError as error:
            if not self._waits or error.errno not in _READ_ONLY:
                raise
            state = self._filled_by_another(path, error)
        self._reader = CacheReader(self.directory, state, self.contents)

    def _filled(self) -> store.State:
        """Returns the state once this process, which has the lock, is done."""
        # Another process may have filled it since it was looked at.
        state = self._valid_state()
        self._check_disk(self._missing_bytes(state))
        try:
            state = state or self._begin()
            if not state.complete:
                Filling(self, state).run()
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            text = (
                "The disk is full. What is encoded so far is kept; free "
                "some space and run this again, and it goes on from there"
            )
            raise OSError(error.errno, text, self.directory) from error
        return state

    def _filled_by_another(self, path: str, error: OSError) -> store.State:
        """Returns the state once a worker that can write has filled it.

        Raises `error`, which kept this worker from it, where for a minute
        no worker holds the lock at `path`.
        """
        since = time.monotonic()
        while time.monotonic() - since < _PATIENCE_SECONDS:
            state = self._valid_state()
            if state is not None and state.complete:
                return state
            if files.is_locked(path):
                since = time.monotonic()
            time.sleep(_POLL_SECONDS)
        raise error

    def _valid_state(self) -> store.State | None:
        """Returns the state on the disk; `None` if there is no valid cache.

        Raises `ValueError` if it is stale, and is not to be replaced.
        """
        contents, state = self.contents, store.read_state(self.directory)
        self.stale = [] if state is None else contents.differences(state)
        if state is not None and not self.stale:
            contents.adopt(state)
            try:
                for each in contents.stores():
                    if done := state.rows.get(each.name):
                        store.Rows(self.directory, each, done)
                return state
            except ValueError as error:
                self.stale = [f"it is damaged: {error}"]
        contents.adopt(None)
        if not self.stale or self.overwrite:
            return None
        raise ValueError(
            f"The cache {self.directory!r} is stale: {'; '.join(self.stale)}. "
            "Name another directory, remove this one, or encode again "
            "(`keras_sdft.encoding.Cache(..., overwrite=True)`, `keras-sdft "
            "encode --overwrite`)."
        )

    def _missing_bytes(self, state: store.State | None) -> int:
        rows = state.rows if state else {}
        return sum(
            (each.rows - rows.get(each.name, 0)) * each.row.itemsize
            for each in self.contents.stores()
        )

    def _check_disk(self, needed: int) -> None:
        disk.check_writable(self.directory, "cache")
        remedy = "Or train without a cache."
        disk.check_space(self.directory, needed, "The cache", remedy)

    def _begin(self) -> store.State:
        """Writes the state of an empty cache, in place of a stale one."""
        contents = self.contents
        made_from, kept = contents.fingerprint({}), contents.contexts
        state = store.State(made_from, contents.dtype, contents.flips, kept)
        # First: cut short, it is a cache without a row, and known as ours.
        state.write(self.directory)
        for path in Path(self.directory).glob("*.rows"):
            path.unlink()
        return state

    def summary(self) -> str:
        """Returns a line of what it holds, and where."""
        contents = self.contents
        parts = [f"{len(contents.used):,} images"]
        if contents.flips:
            parts.append("their mirror images")
        if contents.contexts:
            parts.append(f"{len(contents.keys):,} captions")
        size = disk.size_text(self._missing_bytes(None))
        return f"{', '.join(parts)} in {self.directory} ({size})"
