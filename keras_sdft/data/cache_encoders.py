"""The encoders of a cache, as functions of arrays, and who they are.

They come in as the attributes of an object: `moments_model`, `text_encoder`,
`tokenizer` and `spec`. This file must not know where they are made, files,
shards or TensorFlow.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import numpy as np

from keras_sdft.data.cache_fingerprint import digest
from keras_sdft.data.captions import CaptionTokens

# So many pixels are encoded at once, or so many captions: always as many, so
# that nothing depends on where an encoding was interrupted.
_PIXELS_AT_ONCE = 512 * 512
_MOST_IMAGES_AT_ONCE = 16
TEXTS_AT_ONCE = 16

IMAGE_ENCODER, TEXT_ENCODER = "image_encoder", "text_encoder"

# Some text of every kind, to tell one tokenizer from another.
_PROBE = "A photo of sks dog, 35 mm; the café's 12th « naïve » 東京 🙂 <token>"


class Encoders:
    """What encodes images and captions.

    Args:
        stable_diffusion: A `keras_sdft.StableDiffusion`, or what has its
            attributes `moments_model`, `text_encoder`, `tokenizer` and
            `spec`. The networks are asked for when they are needed.
        sources: Function that returns a dict, by part, of a text that says
            where its weights come from; a part may be missing. A cache
            that was filled from the same source is valid without a look at
            the weights. `None` always looks.
    """

    def __init__(
        self,
        stable_diffusion: Any,
        sources: Callable[[], dict[str, str]] | None = None,
    ):
        self._model = stable_diffusion
        self._sources = sources
        self._known: dict[str, dict[str, Any]] = {}

    @property
    def context_shape(self) -> tuple[int, int]:
        """`(77, D)`, of the context of a caption."""
        spec = self._model.spec.text_encoder
        return (spec.max_length, spec.width)

    @property
    def moments_channels(self) -> int:
        """Twice the channels of the latents."""
        return 2 * self._model.spec.autoencoder.latent_channels

    def images_at_once(self, height: int, width: int) -> int:
        """How many images of a size are encoded together."""
        fitting = _PIXELS_AT_ONCE // (height * width)
        return max(1, min(_MOST_IMAGES_AT_ONCE, fitting))

    def moments(self, images: np.ndarray) -> np.ndarray:
        """Encodes images.

        Args:
            images: uint8 array of shape `(n, H, W, 3)`, at most
                `images_at_once` of them.

        Returns:
            Float32 array of shape `(n, H/8, W/8, 8)`.
        """
        at_once = self.images_at_once(*images.shape[1:3])
        # As `batches.scale_images` does it, to the bit.
        scaled = images.astype(np.float32) / np.float32(127.5) - np.float32(1)
        model = self._model.moments_model
        result = model.predict_on_batch(_filled(scaled, at_once))
        return np.asarray(result, np.float32)[: len(images)]

    def contexts(self, texts: list[str]) -> np.ndarray:
        """Encodes captions, cut to the tokenizer's length.

        Args:
            texts: List of at most `TEXTS_AT_ONCE` strings.

        Returns:
            Float32 array of shape `(n, 77, D)`.
        """
        tokens = CaptionTokens(self._model.tokenizer)
        ids = np.stack([tokens(text) for text in texts])
        ids = _filled(ids, TEXTS_AT_ONCE)
        positions = np.arange(ids.shape[1], dtype=np.int32)
        result = self._model.text_encoder.predict_on_batch(
            {
                "tokens": ids,
                "positions": np.tile(positions, (len(ids), 1)),
            }
        )
        return np.asarray(result, np.float32)[: len(texts)]

    def tokenizer(self) -> str:
        """Returns what tells the tokenizer from others."""
        ids = CaptionTokens(self._model.tokenizer)(_PROBE)
        return digest(ids.astype(np.int64).tobytes())

    def fingerprint(
        self, part: str, stored: dict[str, Any] | None
    ) -> dict[str, Any]:
        """Returns what tells an encoder from others.

        Args:
            part: `"image_encoder"` or `"text_encoder"`.
            stored: The same of a cache, or `None`.

        Returns:
            Dict of `weights`, a hash; `dtype` that it computes in; and
            `source`, where the weights come from, or `None`.
        """
        if part not in self._known:
            source = (self._sources() if self._sources else {}).get(part)
            if stored and source and stored.get("source") == source:
                return stored
            self._known[part] = self._looked_at(part, source)
        return self._known[part]

    def _looked_at(self, part: str, source: str | None) -> dict[str, Any]:
        images = part == IMAGE_ENCODER
        model = getattr(self._model, "moments_model" if images else part)
        weights = hashlib.blake2b(digest_size=16)
        for variable in model.weights:
            array = np.ascontiguousarray(variable)
            weights.update(f"{array.shape}{array.dtype}".encode())
            weights.update(array.tobytes())
        return {
            "weights": weights.hexdigest(),
            "dtype": str(getattr(model, "compute_dtype", "float32")),
            "source": source,
        }


def _filled(rows: np.ndarray, count: int) -> np.ndarray:
    """Returns the rows and the last one again, `count` in all."""
    missing = count - len(rows)
    return np.concatenate([rows, np.repeat(rows[-1:], missing, axis=0)])
