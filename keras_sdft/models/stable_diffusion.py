"""Stable Diffusion: its networks, built and loaded when first used.

Must not know training, datasets or other tools' file formats.
"""

import dataclasses
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

from keras_sdft import checks
from keras_sdft import collector
from keras_sdft import keras_internals
from keras_sdft import reprs
from keras_sdft.diffusion import NoiseSchedule
from keras_sdft.models import frozen_kernels
from keras_sdft.models import keras_cv_parts
from keras_sdft.models import packaged
from keras_sdft.models import words
from keras_sdft.models.adapter_methods import AdapterMethods
from keras_sdft.models.encoder_methods import EncoderMethods
from keras_sdft.models.exact_numerics import use_exact_numerics
from keras_sdft.models.generation import check_size
from keras_sdft.models.image_methods import ImageMethods
from keras_sdft.models.initialise import initialise
from keras_sdft.models.presets import fetch
from keras_sdft.models.presets import get_preset
from keras_sdft.models.small_encoders import skip_last_layers
from keras_sdft.models.sources import resolve
from keras_sdft.models.spec import StableDiffusionSpec
from keras_sdft.models.tokenizer import Tokenizer
from keras_sdft.models.unet.model import DiffusionModel
from keras_sdft.models.weight_files import load_weights

# The order fixes the seeds of parts that have no published weights.
PARTS = ("text_encoder", "image_encoder", "decoder", "diffusion_model")


class StableDiffusion(AdapterMethods, EncoderMethods, ImageMethods):
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
    ) -> "StableDiffusion":
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
            says which words it knows, as it was trained; a fine-tune or a
            LoRA knows more.
        """
        path = get_preset(self.base).words
        learned = bool(self.trained_parts) or bool(self.describe_adapters())
        if path is None or not self._is_preset or learned:
            return []
        return words.unknown(texts, path, self.tokenizer.added_tokens)

    def about_words(self, unknown: list[str]) -> str:
        """Returns a sentence, without its end, that names unknown words."""
        path: Any = get_preset(self.base).words
        return words.sentence(unknown, self.base, path)

    def __repr__(self) -> str:
        parts = [
            f"{name} ({part.count_params():,} weights)"
            for name, part in self.built_parts.items()
        ]
        return reprs.lines(
            f"StableDiffusion {self.spec.name!r}",
            {
                "images": f"{self.img_width} x {self.img_height} pixels",
                "predicts": self.spec.prediction_type,
                "dtype": self.dtype,
                "built upon": self.origin,
                "autoencoder": self.vae,
                "in memory": ", ".join(parts) or "no network yet",
                "trained": ", ".join(sorted(self.trained_parts)),
                "adapters": self.describe_adapters(),
            },
        )

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

    def _part(self, part: str) -> Any:
        """Returns a network, built and loaded when first asked for."""
        if not self.is_built(part):
            dtype = self._held.get(part)
            with keras_internals.repeated_names(), collector.paused():
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
