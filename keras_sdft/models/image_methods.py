"""What a `StableDiffusion` does to generate images from text.

Must not know where weights come from.
"""

import logging
from collections.abc import Iterable
from collections.abc import Sequence
from typing import Any

import numpy as np

from keras_sdft.models import keras_cv_parts
from keras_sdft.models import network_calls
from keras_sdft.models.generation import check_finite
from keras_sdft.models.generation import check_options
from keras_sdft.models.generation import given_context
from keras_sdft.models.generation import guided_prediction
from keras_sdft.models.generation import sample
from keras_sdft.models.generation import starting_noise
from keras_sdft.models.prompts import tokenize_prompts

_logger = logging.getLogger(__name__)


class ImageMethods(keras_cv_parts.KerasCVStableDiffusion):
    """Encodes prompts, samples latents and decodes them to images."""

    def text_to_image(
        self,
        prompt: str | Sequence[str],
        negative_prompt: str | Sequence[str] | None = None,
        batch_size: int = 1,
        num_steps: int | None = None,
        guidance_scale: float | None = None,
        seed: int | Sequence[int] | None = None,
        guidance_rescale: float = 0.0,
        sampler: str = "ddim",
        unconditional_guidance_scale: float | None = None,
    ) -> np.ndarray:
        """Generates images from prompts.

        Args:
            prompt: What to generate; of a list, each of its prompts.
            negative_prompt: What to stay away from; `None` for the empty
                prompt.
            batch_size: Integer >= 1, images per prompt.
            num_steps: Integer in [1, 1000], sampling steps. `None` for the
                model's own, `spec.num_steps`.
            guidance_scale: Float >= 0, how closely to follow the prompt; up
                to 1 the prompt is used alone, without guidance. `None` for
                the model's own, `spec.guidance_scale`.
            seed: Integer for the same images each time; a list of one for
                each image, which is then the same in any batch; or `None`.
            guidance_rescale: Float in [0, 1], against burnt colours; `0.7`
                suits zero-terminal-SNR models.
            sampler: `"ddim"`, or `"dpmpp_2m"`, which needs about half as
                many steps.
            unconditional_guidance_scale: KerasCV's name of
                `guidance_scale`.

        Returns:
            Uint8 array `(prompts * batch_size, height, width, 3)`, the
            images of one prompt in a row.

        Raises:
            ValueError: If an option is out of its range.
            NonFiniteImage: If the image is not finite.
        """
        if unconditional_guidance_scale is not None:
            guidance_scale = unconditional_guidance_scale
        options: dict[str, Any] = {
            "batch_size": batch_size,
            **self.spec.sampling(num_steps, guidance_scale),
            "guidance_rescale": guidance_rescale,
            "seed": seed,
            "sampler": sampler,
        }
        # Before the text encoder is built.
        check_options(**options)
        context = self.encode_text(prompt)
        return self.generate_image(context, negative_prompt, **options)

    def encode_text(self, prompt: str | Sequence[str]) -> Any:
        """Encodes prompts to a context `(prompts, 77, D)`.

        Prompts longer than the tokenizer's length are cut, with a warning
        that has the rest; so are told weights such as `(word:1.3)`, which
        are read as text, and, once each, `unknown_words`.
        """
        token_ids = tokenize_prompts(self.tokenizer, prompt)
        self._tell_unknown([prompt] if isinstance(prompt, str) else prompt)
        return self.encode_tokens(token_ids)

    def _tell_unknown(self, prompts: Iterable[str]) -> None:
        words = set(self.unknown_words(prompts)) - self._told_words
        if words:
            self._told_words |= words
            about, base = self.about_words(sorted(words)), self.base
            text = "%s. `keras-sdft inspect %s` lists those that it knows."
            _logger.warning(text, about, base)

    def encode_tokens(self, token_ids: Any) -> Any:
        """Encodes token ids `(B, 77)` to a context `(B, 77, D)`."""
        rows, length = token_ids.shape
        positions = np.tile(np.arange(length, dtype="int32"), (rows, 1))
        return network_calls.predict(
            self.text_encoder, {"tokens": token_ids, "positions": positions}
        )

    def generate_image(
        self,
        encoded_text: Any,
        negative_prompt: str | Sequence[str] | None = None,
        batch_size: int = 1,
        num_steps: int | None = None,
        guidance_scale: float | None = None,
        diffusion_noise: Any = None,
        seed: int | Sequence[int] | None = None,
        guidance_rescale: float = 0.0,
        sampler: str = "ddim",
        unconditional_guidance_scale: float | None = None,
    ) -> np.ndarray:
        """Generates images from encoded text.

        The arguments that are not described here are as for
        `text_to_image`.

        Args:
            encoded_text: Context `(prompts, 77, D)` or `(77, D)`.
            diffusion_noise: Noise to begin with, `(B, h, w, 4)`, or
                `(h, w, 4)` to begin every image alike; excludes `seed`.

        Returns:
            Uint8 array `(prompts * batch_size, height, width, 3)`.

        Raises:
            ValueError: If an option is out of its range.
            NonFiniteImage: If the image is not finite.
        """
        if unconditional_guidance_scale is not None:
            guidance_scale = unconditional_guidance_scale
        sampling = self.spec.sampling(num_steps, guidance_scale)
        num_steps, guidance_scale = sampling.values()
        check_options(
            batch_size,
            num_steps,
            guidance_scale,
            guidance_rescale,
            seed,
            sampler,
        )
        text = self.spec.text_encoder
        context = given_context(encoded_text, (text.max_length, text.width))
        context = np.repeat(context, batch_size, axis=0)
        noise = starting_noise(
            (len(context), *self._latent_shape()), diffusion_noise, seed
        )
        negative = None
        if guidance_scale <= 1 and negative_prompt:
            _logger.warning(
                "`negative_prompt` has no effect at guidance_scale=%s; it "
                "needs more than 1.",
                guidance_scale,
            )
        if guidance_scale > 1:
            negative = np.asarray(self.encode_text(negative_prompt or ""))
        predict = guided_prediction(
            self.diffusion_model,
            self.spec.diffusion_model.timestep_width,
            context,
            negative,
            guidance_scale,
            guidance_rescale,
        )
        latents = sample(predict, noise, self.spec, num_steps, sampler)
        return self.decode(latents)

    def decode(self, latents: Any) -> np.ndarray:
        """Decodes latents `(B, h, w, 4)` to uint8 images `(B, H, W, 3)`.

        Raises:
            NonFiniteImage: If the decoder's output is not finite.
        """
        images = network_calls.predict(self.decoder, latents)
        images = np.asarray(images, "float32")
        check_finite(images, "pixels")
        return np.clip(np.round((images + 1) * 127.5), 0, 255).astype("uint8")

    def _latent_shape(self) -> tuple[int, int, int]:
        spec = self.spec.diffusion_model
        return (self.img_height // 8, self.img_width // 8, spec.latent_channels)
