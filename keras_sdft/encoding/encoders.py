"""The encoders of a cache, as functions of arrays, and what identifies them.

This file must not know files, rows or batches.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from keras_sdft.data.captions import CaptionTokens
from keras_sdft.models import network_calls

# So many pixels are encoded at once, or so many captions: always as many, so
# that nothing depends on where an encoding was interrupted.
_PIXELS_AT_ONCE = 512 * 512
_MOST_IMAGES_AT_ONCE = 16
TEXTS_AT_ONCE = 16

# Some text of every kind, to tell one tokenizer from another.
_PROBE = "A photo of sks dog, 35 mm; the café's 12th « naïve » 東京 🙂 <token>"
# Parts of the fingerprint. A source may change while the weights do not.
_OF_ENCODER = ("source", "the weights", "the precision")


class Encoders:
    """The encoders of a `StableDiffusion`; networks are built when needed."""

    def __init__(self, stable_diffusion: Any):
        self._model = stable_diffusion
        # Where weights come from is only known of what is not built yet.
        self._sources = stable_diffusion.encoder_sources()
        self._look_at = functools.cache(stable_diffusion.encoder_digest)
        text = stable_diffusion.spec.text_encoder
        self.context_shape = (text.max_length, text.width)
        channels = stable_diffusion.spec.autoencoder.latent_channels
        self.moments_channels = 2 * channels

    def images_at_once(self, height: int, width: int) -> int:
        """Returns how many images of a size are encoded together."""
        fitting = _PIXELS_AT_ONCE // (height * width)
        return max(1, min(_MOST_IMAGES_AT_ONCE, fitting))

    def moments(self, images: np.ndarray) -> np.ndarray:
        """Encodes images: uint8 `(n, H, W, 3)` to float32 `(n, h, w, 2 * C)`.

        There are at most `images_at_once` of them.
        """
        at_once = self.images_at_once(*images.shape[1:3])
        # As `batches.scale_images` does it, to the bit.
        scaled = images.astype(np.float32) / np.float32(127.5) - np.float32(1)
        model = self._model.moments_model
        result = network_calls.predict(model, _filled(scaled, at_once))
        return np.asarray(result, np.float32)[: len(images)]

    def contexts(self, texts: list[str]) -> np.ndarray:
        """Encodes at most `TEXTS_AT_ONCE` captions: float32 `(n, 77, D)`."""
        tokens = CaptionTokens(self._model.tokenizer)
        ids = np.stack([tokens(text) for text in texts])
        result = self._model.encode_tokens(_filled(ids, TEXTS_AT_ONCE))
        return np.asarray(result, np.float32)[: len(texts)]

    def token_ids(self) -> bytes:
        """Returns what tells the tokenizer from others."""
        return CaptionTokens(self._model.tokenizer)(_PROBE).tobytes()

    def fingerprint(self, part: str, stored: dict[str, Any]) -> dict[str, Any]:
        """Returns what tells an encoder from others.

        Args:
            part: `"image_encoder"` or `"text_encoder"`.
            stored: Dict, the fingerprint of a cache. Where that has the same
                source, the weights are not looked at.
        """
        source, name = self._sources.get(part), part.replace("_", " ")
        names = [f"{what} of the {name}" for what in _OF_ENCODER]
        if source and stored.get(names[0]) == source:
            return {name: stored.get(name) for name in names}
        return dict(zip(names, (source, *self._look_at(part)), strict=True))


def _filled(rows: np.ndarray, count: int) -> np.ndarray:
    """Returns the rows and the last one again, `count` in all."""
    missing = count - len(rows)
    return np.concatenate([rows, np.repeat(rows[-1:], missing, axis=0)])
