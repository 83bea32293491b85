"""What a `StableDiffusion` tells of its encoders, and how it frees them.

Must not know what is kept of what they compute.
"""

import gc
import hashlib
import os
from collections.abc import Iterable
from typing import Any

import numpy as np

from keras_sdft import checks
from keras_sdft.models import keras_cv_parts
from keras_sdft.models import packaged

ENCODERS = ("image_encoder", "text_encoder")


class EncoderMethods(keras_cv_parts.KerasCVStableDiffusion):
    """Identifies and releases the encoders."""

    def release(self, parts: Iterable[str]) -> None:
        """Frees the memory of encoders.

        One that is asked for again, by a preview for example, is built again
        and loaded from its file.

        Args:
            parts: Names of encoders: `"image_encoder"`, `"text_encoder"`.

        Raises:
            ValueError: If a part is no encoder, or is being trained: its
                file does not hold what it has learned.
        """
        for part in parts:
            checks.one_of("parts", part, ENCODERS)
            if part in self.trained_parts:
                raise ValueError(
                    f"{part!r} is being trained, so it cannot be released: "
                    "what it has learned is nowhere else."
                )
            setattr(self, f"_{part}", None)
            if part == "image_encoder":
                self._moments_model = None
        # Layers and their model hold each other.
        gc.collect()

    def encoder_sources(self) -> dict[str, str]:
        """Tells where the encoders' weights come from, without reading them.

        Returns:
            Dict of a text for each of `"image_encoder"` and `"text_encoder"`
            that changes when what it computes does. One that is in memory
            already is left out, since its weights may have been changed
            there, and so is one whose file cannot be told.
        """
        kind: tuple[Any, ...] = (self.dtype, self._numerics)
        if self.spec.clip_skip > 1:
            kind = (*kind, self.spec.clip_skip)
        sources = {
            part: self._source(part)
            for part in ENCODERS
            if not self.is_built(part)
        }
        return {
            part: f"{source}; dtype and numerics {kind}"
            for part, source in sources.items()
            if source is not None
        }

    def _source(self, part: str) -> str | None:
        if self._is_random(part):
            parts = (self.spec.text_encoder, self.spec.autoencoder)
            return f"drawn from seed {self._seed} for {parts}"
        file = self._file(part)
        if getattr(file, "func", None) is packaged.read:
            directory, name = file.args
            return f"packaged {packaged.checksum(directory, name)}"
        if callable(file):
            file = file.describe()["file"]
        if not os.path.isfile(file):
            return None
        status = os.stat(file)
        path = os.path.abspath(file)
        return f"{path}, {status.st_size} bytes of {status.st_mtime_ns}"

    def encoder_digest(self, part: str) -> tuple[str, str]:
        """Returns what identifies an encoder's weights, and its dtype.

        Args:
            part: `"image_encoder"` or `"text_encoder"`, which is built.

        Returns:
            Tuple of a hash of what the encoder computes with, and of the
            name of the dtype in which it computes.
        """
        images = part == "image_encoder"
        model = self.moments_model if images else self.text_encoder
        weights = hashlib.blake2b(digest_size=16)
        for variable in model.weights:
            array = np.ascontiguousarray(variable)
            weights.update(f"{array.shape}{array.dtype}".encode())
            weights.update(array.tobytes())
        if not images and self.spec.clip_skip > 1:
            # The same weights, of which the last layers are not run.
            weights.update(f"clip_skip {self.spec.clip_skip}".encode())
        dtype = getattr(model, "compute_dtype", "float32")
        return f"#{weights.hexdigest()}", dtype
