"""The caches of a run: which ones, where, when they are worth it."""

import dataclasses
import functools
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from typing import Literal

from keras_sdft import disk
from keras_sdft.runs.cache_folder import CACHE_FOLDER
from keras_sdft.runs.cache_folder import prune_caches
from keras_sdft.runs.options import RunOptions

# Beside the runs, so that those on the same data share what is in it.
# What no run has used for so long is removed there, and beyond so much.
_MAX_DAYS, _MAX_BYTES = 30, 50e9
# Of the free space, what is taken without being asked to.
_SHARE = 0.5


@dataclasses.dataclass(frozen=True, kw_only=True)
class CacheOptions:
    """The cache: images and captions encoded once, not in every step.

    Args:
        cache: Directory of the cache, as encode makes it. Defaults to one
            beside output_dir, where it fits on the disk and the run is long
            enough for it to pay.
        no_cache: Encode in every step.
        cache_dtype: Numbers on the disk. Defaults to float16, or to what
            the cache has.
    """

    cache: str | None = None
    no_cache: bool = False
    cache_dtype: Literal["float16", "float32"] | None = None

    def __post_init__(self) -> None:
        for name in ("cache", "cache_dtype"):
            value = getattr(self, name)
            if self.no_cache and value is not None:
                raise ValueError(
                    f"`{name}` has no effect with `no_cache`. Received: "
                    f"{name}={value!r}. Leave out the one or the other."
                )


class RunCaches:
    """The caches of a run, for `keras_sdft.data.load(..., cache=)`.

    They are planned when data is read, and filled by `fill`.

    Args:
        stable_diffusion: A `keras_sdft.StableDiffusion`.
        options: `CacheOptions`.
        run: `RunOptions`, how long the run is.
        deciding: Dict of plain values, of all that decides what is encoded;
            `data` among them. It gives the directory its name if none was
            asked for; there is a cache then only where it pays.
        checked: Options of the data, with `crop` and `shuffle_tags`.
        captions: Boolean, whether captions may come from the cache too.
        overwrite: Boolean, whether a stale cache is replaced in a directory
            that was asked for. One that nobody asked for always is.

    Attributes:
        training: `keras_sdft.encoding.Cache`, or `None`.
        validation: The same for validation data.
        reason: String, why there is none.
    """

    def __init__(
        self,
        stable_diffusion: Any,
        options: CacheOptions,
        run: RunOptions,
        deciding: Mapping[str, Any],
        checked: Any,
        captions: bool = True,
        overwrite: bool = False,
    ) -> None:
        self.training = self.validation = None
        self.reason = ""
        self._sd, self._asked = stable_diffusion, options.cache is not None
        if options.no_cache:
            return
        from keras_sdft.encoding import Cache

        asked, side = self._asked, stable_diffusion.img_height
        default = default_cache(run.output_dir, side, deciding)
        directory = options.cache or default
        make = functools.partial(
            Cache,
            stable_diffusion=stable_diffusion,
            dtype=options.cache_dtype,
            # As the cache has it, unless the text encoder is to learn.
            contexts=None if captions else False,
            overwrite=overwrite or not asked,
            defer=True,
        )
        pays = functools.partial(_why_not, directory, run)
        training = make(directory, unless=None if asked else pays)
        self.reason = "" if asked else _why_no_default(training, checked)
        if not self.reason:
            self.training = training
            self.validation = make(
                os.path.join(str(directory), "validation"),
                unless=lambda **_: training.skip_reason,
            )

    def fill(self, keep_text_encoder: bool) -> None:
        """Encodes what is missing, says so, and releases the encoders.

        Args:
            keep_text_encoder: Boolean, whether it is needed further on.

        Raises:
            OSError: If the disk is full or another process fills a cache.
        """
        reason = self.reason or getattr(self.training, "skip_reason", "")
        if reason:
            print(f"No cache: {reason}", flush=True)
        if reason or self.training is None:
            return
        for name in ("training", "validation"):
            cache = getattr(self, name)
            if cache.contents is None:
                continue
            if cache.stale:
                print(
                    f"The cache {cache.directory} is stale and encoded "
                    f"again: {'; '.join(cache.stale)}",
                    flush=True,
                )
            cache.fill()
            print(f"Cache of {name}: {cache.summary()}", flush=True)
        if not self._asked:
            self._prune(self.training.directory)
        released = ["image_encoder"]
        if self.training.contents.contexts and not keep_text_encoder:
            released.append("text_encoder")
        self._sd.release(released)

    def _prune(self, used: str) -> None:
        folder = os.path.dirname(used)
        for one in prune_caches(folder, _MAX_BYTES, _MAX_DAYS, keep=[used]):
            print(f"Removed {one.path}, unused for {one.days:.0f} days")


def default_cache(
    output_dir: str, resolution: int, deciding: Mapping[str, Any]
) -> str:
    """Returns where a run's cache is if no other place is given.

    Each set of options that are encoded has a folder of its own, so that
    going back and forth between two encodes nothing twice.
    """
    text = json.dumps([resolution, deciding], sort_keys=True)
    key = hashlib.blake2b(text.encode(), digest_size=4).hexdigest()
    stem = Path(deciding["data"].rstrip("/\\")).stem.replace(":", "-") or "data"
    beside = Path(output_dir).absolute().parent / CACHE_FOLDER
    return str(beside / f"{stem}-{resolution}-{key}")


def _why_no_default(cache: Any, checked: Any) -> str:
    """Returns why there can be none where nobody asked for one."""
    try:
        cache.check(checked)
    except ValueError as error:
        return str(error)
    if os.path.isdir(cache.directory) or disk.writable(cache.directory):
        return ""
    place = os.path.dirname(cache.directory)
    return f"{place} cannot be written to. `--cache DIR` puts it elsewhere."


def _why_not(
    directory: str,
    run: RunOptions,
    *,
    num_images: int,
    num_rows: int,
    num_bytes: int,
) -> str | None:
    """Returns why a cache is not worth it; see `unless` of `Cache`."""
    free = disk.free_bytes(directory)
    if num_bytes > _SHARE * free:
        return (
            f"it would take {num_bytes / 1e9:.1f} GB of the "
            f"{free / 1e9:.1f} GB that are free. `--cache DIR` puts it on "
            "another disk."
        )
    shown = run.images_per_step * (run.max_train_steps or 0)
    if run.num_train_epochs is not None:
        shown = run.num_train_epochs * num_rows
    if shown < num_images:
        return (
            f"the run shows {shown:,} images, and {num_images:,} "
            "would be encoded. `--cache DIR` does it all the same."
        )
    return None
