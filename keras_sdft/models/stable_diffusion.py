"""Stable Diffusion: its networks, and images from text.

Must not know training, datasets or other tools' file formats.
"""

from __future__ import annotations

import dataclasses
import gc
import logging
import os
from collections.abc import Iterable
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from keras_sdft import checks
from keras_sdft import keras_internals
from keras_sdft.diffusion import NoiseSchedule
from keras_sdft.models import frozen_kernels
from keras_sdft.models import keras_cv_parts
from keras_sdft.models import network_calls
from keras_sdft.models import packaged
from keras_sdft.models import words
from keras_sdft.models.adapter_methods import AdapterMethods
from keras_sdft.models.exact_numerics import use_exact_numerics
from keras_sdft.models.generation import check_finite
from keras_sdft.models.generation import check_options
from keras_sdft.models.generation import check_size
from keras_sdft.models.generation import given_context
from keras_sdft.models.generation import guided_prediction
from keras_sdft.models.generation import sample
from keras_sdft.models.generation import starting_noise
from keras_sdft.models.initialise import initialise
from keras_sdft.models.presets import fetch
from keras_sdft.models.presets import get_preset
from keras_sdft.models.prompts import tokenize_prompts
from keras_sdft.models.small_encoders import skip_last_layers
from keras_sdft.models.sources import resolve
from keras_sdft.models.spec import StableDiffusionSpec
from keras_sdft.models.tokenizer import Tokenizer
from keras_sdft.models.unet.model import DiffusionModel
from keras_sdft.models.weight_files import load_weights

_logger = logging.getLogger(__name__)

# The order fixes the seeds of parts that have no published weights.
PARTS = ("text_encoder", "image_encoder", "decoder", "diffusion_model")
ENCODERS = ("image_encoder", "text_encoder")


class StableDiffusion(AdapterMethods, keras_cv_parts.KerasCVStableDiffusion):
    """KerasCV `StableDiffusion` of any preset, size and dtype.

    Parts are built when first used. Make one with `from_preset`.

    Args:
        img_height: Integer, pixels, a multiple of 64.
        img_width: Integer, pixels, a multiple of 64.
        jit_compile: Boolean, whether networks are compiled by XLA.
        spec: A `StableDiffusionSpec`. Defaults to that of `"sd1.4"`.
        base: Name of the preset whose weights fill in what `files` lacks.
        files: Dict of weight files by part, from `PARTS` and
            `"tokenizer"`; or of functions, as `Resolved.files`.
        random_weights: Boolean, whether parts without a file are drawn
            from `seed` instead of being the preset's.
        dtype: Name of a dtype policy, for example `"mixed_bfloat16"`, or
            `None` for the global one.
        numerics: `"exact"` or `"keras_cv"`, see `DiffusionModel`.
        remat: Boolean, see `DiffusionModel`.
        seed: Integer >= 0, of random weights.
    """

    def __init__(
        self,
        img_height: int = 512,
        img_width: int = 512,
        jit_compile: bool = False,
        *,
        spec: StableDiffusionSpec | None = None,
        base: str = "sd1.4",
        files: dict[str, Any] | None = None,
        random_weights: bool = False,
        dtype: str | None = None,
        numerics: str = "exact",
        remat: bool = False,
        seed: int = 0,
    ):
        check_size(img_height, img_width)
        # Not the parent's own constructor: it rounds to multiples of 128
        # and prints the licence of weights that may not be these.
        keras_cv_parts.StableDiffusionBase.__init__(
            self, img_height, img_width, jit_compile
        )
        self.img_height = img_height
        self.img_width = img_width
        self.spec = spec or get_preset(base).spec
        self.base = base
        self.origin: str | None = None
        self.vae: str | None = None
        self.trained_parts: set[str] = set()  # what an export must hold
        self.dtype = dtype
        self._files = dict(files or {})
        self._random_weights = random_weights
        self._numerics = numerics
        self._remat = remat
        self._seed = seed
        self._moments_model = None
        # Whether its text encoder is the preset's own, with its words.
        self._is_preset = not (files or random_weights)
        self._told_words: set[str] = set()

    @classmethod
    def from_preset(
        cls,
        name_or_path: str | Path,
        height: int | None = None,
        width: int | None = None,
        *,
        dtype: str | None = None,
        numerics: str = "exact",
        remat: bool = False,
        jit_compile: bool = False,
        weights_directory: str | Path | None = None,
        prediction_type: str | None = None,
        vae: str | Path | None = None,
        clip_skip: int | None = None,
    ) -> StableDiffusion:
        """Makes a model by name, or from what a fine-tune wrote.

        Args:
            name_or_path: A preset (`"tiny"`, `"sd1.4"`, `"sd2.1-base"`), a
                run directory, an exported directory, or a diffusion model's
                weight file.
            height: Integer, pixels of generated images, a multiple of 64.
                Defaults to what the model was trained on.
            width: Likewise.
            dtype: Name of a dtype policy (`"mixed_bfloat16"`, ...).
            numerics: `"exact"` or `"keras_cv"`, see `DiffusionModel`.
            remat: Boolean, see `DiffusionModel`.
            jit_compile: Boolean, whether networks are compiled by XLA.
            weights_directory: Directory with copies of the published files.
            prediction_type: What it predicts, for files that do not
                declare it.
            vae: Path of another autoencoder to use: a folder or file of one
                alone, or of a whole model that has one.
            clip_skip: Integer >= 1, which of the text encoder's layers,
                counted from the last, gives the context. Defaults to what
                the model declares, usually 1.

        Returns:
            A `StableDiffusion`.

        Raises:
            ValueError: If the name or path is not understood, a file is
                damaged, or `prediction_type` contradicts what it says.
            FileNotFoundError: If published weights cannot be had.
        """
        resolved = resolve(name_or_path, prediction_type, vae)
        spec = resolved.spec
        if clip_skip is not None:
            checks.integer("clip_skip", clip_skip, 1, spec.text_encoder.depth)
            spec = dataclasses.replace(spec, clip_skip=clip_skip)
        preset = get_preset(resolved.base)
        files = {
            part: fetch(source, weights_directory)
            for part, source in preset.sources.items()
            if part not in resolved.files
        }
        files.update(resolved.files)
        model = cls(
            spec.resolution if height is None else height,
            spec.resolution if width is None else width,
            jit_compile,
            spec=spec,
            base=resolved.base,
            files=files,
            dtype=dtype,
            numerics=numerics,
            remat=remat,
        )
        model.origin = resolved.origin
        model.vae = resolved.vae
        model.trained_parts.update(resolved.trained_parts)
        for path in resolved.adapters:
            model.adapters.load_any(path)
        return model

    @property
    def schedule(self) -> NoiseSchedule:
        """The noise schedule that the model was trained with."""
        return NoiseSchedule(zero_terminal_snr=self.spec.zero_terminal_snr)

    @property
    def is_pretrained(self) -> bool:
        """Whether the diffusion model's weights are more than random."""
        return not self._is_random("diffusion_model")

    def unknown_words(self, texts: Iterable[str]) -> list[str]:
        """Finds the words of texts that no caption of the training had.

        Args:
            texts: Strings, prompts or captions.

        Returns:
            List of words, each once. Empty unless the model is a preset that
            says which words it knows, as it was trained; a fine-tune learns
            more.
        """
        path = get_preset(self.base).words
        if path is None or not self._is_preset or self.trained_parts:
            return []
        return words.unknown(texts, path, self.tokenizer.added_tokens)

    def about_words(self, unknown: list[str]) -> str:
        """Returns a sentence, without its end, that names unknown words."""
        path: Any = get_preset(self.base).words
        return words.sentence(unknown, self.base, path)

    # === Parts ===

    @property
    def built_parts(self) -> dict[str, Any]:
        """The networks that are in memory, by name."""
        found = {name: vars(self).get(f"_{name}") for name in PARTS}
        return {name: part for name, part in found.items() if part is not None}

    @property
    def tokenizer(self) -> Tokenizer:
        """The byte-pair tokenizer."""
        if self._tokenizer is None:
            source = self._file("tokenizer")
            make = source if callable(source) else partial(Tokenizer, source)
            tokenizer = make(
                self.spec.text_encoder.max_length, self.spec.pad_token
            )
            words = self.spec.text_encoder.vocabulary_size
            if len(tokenizer.encoder) > words:
                raise ValueError(
                    f"The tokenizer has {len(tokenizer.encoder)} tokens, and "
                    f"the text encoder's embedding {words} rows. Expected the "
                    "vocabulary that the model was trained with."
                )
            self._tokenizer = tokenizer
        return self._tokenizer

    @property
    def text_encoder(self) -> Any:
        """Tokens and positions `(B, 77)` to a context `(B, 77, D)`."""
        return self._part("text_encoder")

    @property
    def image_encoder(self) -> Any:
        """Images in [-1, 1] to the scaled mean of the latents."""
        return self._part("image_encoder")

    @property
    def moments_model(self) -> Any:
        """Images to moments `(B, H/8, W/8, 8)`; shares `image_encoder`."""
        if self._moments_model is None:
            self._moments_model = keras_cv_parts.moments_model(
                self.image_encoder
            )
        return self._moments_model

    @property
    def decoder(self) -> Any:
        """Latents to images in about [-1, 1]."""
        return self._part("decoder")

    @property
    def diffusion_model(self) -> Any:
        """Noised latents, timestep embedding and context to noise."""
        return self._part("diffusion_model")

    @diffusion_model.setter
    def diffusion_model(self, model: Any) -> None:
        """Puts another network in its place, for example KerasCV's own."""
        self._diffusion_model = model

    def is_built(self, part: str) -> bool:
        """Returns whether a part, from `PARTS`, is in memory."""
        return getattr(self, f"_{part}") is not None

    def build_parts(self) -> None:
        """Builds and loads all parts; else each is when it is first used.

        Workers that train together make variables together, so that none may
        build a part alone.
        """
        for part in PARTS:
            self._part(part)
        _ = self.moments_model

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

    def _part(self, part: str) -> Any:
        """Returns a network, built and loaded when first asked for."""
        if not self.is_built(part):
            dtype = self._held.get(part)
            with keras_internals.repeated_names():
                with frozen_kernels.new_kernels_held_in(dtype):
                    model = self._build(part)
                self._load(part, model)
            if dtype is not None:
                frozen_kernels.hold(model, dtype)
            setattr(self, f"_{part}", model)
        return getattr(self, f"_{part}")

    def _build(self, part: str) -> Any:
        """Builds a network with fresh weights."""
        spec = self.spec
        if part == "text_encoder":
            return keras_cv_parts.build_text_encoder(
                spec.text_encoder, self.dtype
            )
        if part == "image_encoder":
            return keras_cv_parts.build_image_encoder(
                spec.autoencoder, self.dtype
            )
        if part == "decoder":
            return keras_cv_parts.build_decoder(
                spec.autoencoder, self.img_height, self.img_width, self.dtype
            )
        return DiffusionModel(
            spec.diffusion_model,
            numerics=self._numerics,
            remat=self._remat,
            max_length=spec.text_encoder.max_length,
            kernel_initializer="zeros",  # weights follow
            dtype=self.dtype,
            name="diffusion_model",
        )

    def _load(self, part: str, model: Any) -> None:
        """Puts a part's weights into its network, which is then final."""
        path = None if self._is_random(part) else self._file(part)
        if self._numerics == "exact" and part != "diffusion_model":
            use_exact_numerics(model)
        if callable(path):
            path(model)
        elif path is not None:
            load_weights(model, path)
        else:
            initialise(model, self._seed + 1000 * PARTS.index(part))
        if part == "text_encoder":
            skip_last_layers(model, self.spec.clip_skip - 1)
        if self.jit_compile:
            model.compile(jit_compile=True)

    def _is_random(self, part: str) -> bool:
        return self._random_weights and part not in self._files

    def _file(self, part: str) -> Any:
        """Returns the file of a part, fetched if need be."""
        preset = get_preset(self.base)
        if part not in self._files:
            if part == "tokenizer":
                self._files[part] = preset.merges
            elif preset.weights is not None:
                self._files[part] = partial(packaged.read, preset.weights, part)
            else:
                self._files[part] = fetch(preset.sources[part])
        return self._files[part]

    # === Images from text ===

    def text_to_image(
        self,
        prompt: str | Sequence[str],
        negative_prompt: str | Sequence[str] | None = None,
        batch_size: int = 1,
        num_steps: int = 50,
        guidance_scale: float = 7.5,
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
            num_steps: Integer in [1, 1000], sampling steps.
            guidance_scale: Float >= 0, how closely to follow the prompt; up
                to 1 the prompt is used alone, without guidance.
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
        # Before the text encoder is built.
        check_options(
            batch_size,
            num_steps,
            guidance_scale,
            guidance_rescale,
            seed,
            sampler,
        )
        return self.generate_image(
            self.encode_text(prompt),
            negative_prompt=negative_prompt,
            batch_size=batch_size,
            num_steps=num_steps,
            guidance_scale=guidance_scale,
            seed=seed,
            guidance_rescale=guidance_rescale,
            sampler=sampler,
        )

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
        num_steps: int = 50,
        guidance_scale: float = 7.5,
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
