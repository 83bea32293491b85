"""The encoders: images to moments, captions to context.

Of a batch in the training step, and of arrays for the cache. This file must
not know noise schedules, losses, optimizers, files or rows.
"""

import functools
from typing import Any

import numpy as np
from keras import ops

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


def sample_latents(moments: Any, noise: Any, latent_scale: float) -> Any:
    """Samples latents from the image encoder's distribution.

    Args:
        moments: Tensor `(B, h, w, 2 * C)`: the mean, then the logarithm of
            the variance, as the image encoder gives them.
        noise: Float32 tensor `(B, h, w, C)`, unit variance.
        latent_scale: Float, what latents are multiplied by to have about
            unit variance.

    Returns:
        Float32 tensor `(B, h, w, C)`.

    References:
        Kingma & Welling, Auto-Encoding Variational Bayes, 2014, section 2.4.
    """
    moments = ops.cast(moments, "float32")
    mean, log_variance = ops.split(moments, 2, axis=-1)
    # The bounds of the original implementation: a variance of e^20 has
    # left every use, and half precision would overflow beyond.
    deviation = ops.exp(0.5 * ops.clip(log_variance, -30.0, 20.0))
    return (mean + deviation * noise) * latent_scale


def latent_shape(
    stable_diffusion: Any, batch: dict[str, Any]
) -> tuple[Any, ...]:
    """Returns the shape `(B, h, w, C)` of the latents of a batch."""
    channels = stable_diffusion.spec.autoencoder.latent_channels
    name, side = ("moments", 1) if "moments" in batch else ("images", 8)
    size, height, width = ops.shape(batch[name])[:3]
    return (size, height // side, width // side, channels)


def encode_images(stable_diffusion: Any, batch: dict[str, Any]) -> Any:
    """Returns the moments `(B, h, w, 2 * C)` of a batch, given or encoded."""
    if "moments" in batch:
        return batch["moments"]
    return stable_diffusion.moments_model(batch["images"], training=False)


def encode_captions(stable_diffusion: Any, batch: dict[str, Any]) -> Any:
    """Returns the context `(B, 77, D)` of a batch, given or encoded."""
    if "context" in batch:
        return batch["context"]
    token_ids = ops.convert_to_tensor(batch["token_ids"], dtype="int32")
    length = stable_diffusion.spec.text_encoder.max_length
    positions = ops.broadcast_to(
        ops.arange(length, dtype="int32"), ops.shape(token_ids)
    )
    return stable_diffusion.text_encoder(
        {"tokens": token_ids, "positions": positions}, training=False
    )


def build_encoders(stable_diffusion: Any, spec: dict[str, Any]) -> None:
    """Builds and loads the encoders that batches of `spec` need.

    They are built when first used, and the first use in `fit` would be
    inside a graph, where weights are neither initialized nor loaded.
    """
    if "moments" not in spec:
        _ = stable_diffusion.moments_model
    if "context" not in spec:
        _ = stable_diffusion.text_encoder


class Encoders:
    """The encoders as functions of arrays; networks are built when needed."""

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
        """Returns what tells an encoder, `"image_encoder"`, from others.

        Where `stored`, the fingerprint of a cache, has the same source, the
        weights are not looked at.
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
