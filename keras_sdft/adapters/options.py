"""The options of adapters, as the command's flags have them.

Must import neither Keras nor TensorFlow: the help of the command reads it.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

from keras_sdft import checks
from keras_sdft import hub
from keras_sdft.models.spec import FROZEN_DTYPES

# For the images of a new word, by what it stands for; after the lists of the
# paper's appendix. They have no meaning of their own, so that what images
# have in common goes into the word.
CAPTION_TEMPLATES = {
    "object": (
        "a photo of a {caption}",
        "a rendering of a {caption}",
        "a close-up photo of a {caption}",
        "a cropped photo of the {caption}",
        "a photo of the {caption}",
        "a photo of my {caption}",
        "a photo of one {caption}",
        "a bright photo of the {caption}",
        "a dark photo of a {caption}",
        "a good photo of a {caption}",
        "a photo of a small {caption}",
        "a photo of a large {caption}",
    ),
    "style": (
        "a painting in the style of {caption}",
        "a rendering in the style of {caption}",
        "a cropped painting in the style of {caption}",
        "the painting in the style of {caption}",
        "a close-up painting in the style of {caption}",
        "a bright painting in the style of {caption}",
        "a dark painting in the style of {caption}",
        "a small painting in the style of {caption}",
        "a large painting in the style of {caption}",
        "a picture in the style of {caption}",
    ),
}


def _pinned_lora(text: Any) -> Any:
    """Returns a LoRA's address with its commit, and its strength."""
    if text is None:
        return None
    path = split_scale(text)[0]
    return hub.pinned(path, "lora") + text.removeprefix(path)


@dataclasses.dataclass(frozen=True, kw_only=True)
class AdapterFileOptions:
    """The adapters: files that are added to the model.

    Args:
        lora: LoRA files, runs or hf://owner/name, each with a strength
            after a colon if it is not 1, as in style.safetensors:0.8.
        embedding: Files of new words, which prompts can then use, or
            hf://owner/name.

    Raises:
        ValueError: If a strength is no number.
    """

    lora: list[str] | None = dataclasses.field(
        default=None, metadata={"pinned": _pinned_lora}
    )
    embedding: list[str] | None = dataclasses.field(
        default=None, metadata=hub.pinning("embedding")
    )

    def __post_init__(self) -> None:
        for text in self.lora or ():
            split_scale(text)

    def load_into(self, stable_diffusion: Any) -> None:
        """Loads the files.

        Args:
            stable_diffusion: A `keras_sdft.StableDiffusion`.

        Raises:
            ValueError: If a file is none for this model.
        """
        for text in self.lora or ():
            path, scale = split_scale(text)
            # Runs have one name for their file.
            stable_diffusion.load_adapter(path, scale, name=text)
        for path in self.embedding or ():
            stable_diffusion.load_embedding(path)


def split_scale(text: str) -> tuple[str, float]:
    """Returns the path and the strength of `FILE` or `FILE:0.8`.

    Raises:
        ValueError: If what follows a `.safetensors` file is no number.
    """
    path, colon, scale = text.rpartition(":")
    try:
        return (path, float(scale)) if colon else (text, 1.0)
    except ValueError:
        if not path.endswith(".safetensors"):
            return text, 1.0
    raise ValueError(
        "What follows the colon of `lora` must be a number, the strength. "
        f"Received: {text!r}. For example: {path}:0.8."
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class TextualInversionOptions:
    """The new word: whose embedding learns, and nothing else.

    Args:
        new_token: Train the embedding of this new word, <cat-toy> for
            example, instead of all weights. Captions must contain it.
        init_word: Word that the embedding begins with, toy for example.
        num_vectors: Embeddings that stand for the word in a caption.

    Raises:
        ValueError: If an option is out of its range or has no effect.
    """

    new_token: str | None = None
    init_word: str | None = None
    num_vectors: int = 1

    def __post_init__(self) -> None:
        checks.integer("num_vectors", self.num_vectors, 1)
        checks.effective(self, ["init_word", "num_vectors"], "new_token")

    @property
    def default_learning_rate(self) -> float | None:
        """The learning rate to begin with where none is given."""
        return None if self.new_token is None else 1e-3

    def apply(
        self, parts: list[Any], make_optimizer: Callable[[float], Any]
    ) -> list[Any]:
        """Returns the parts with a new token.

        It takes the place of the diffusion model, and stands beside a LoRA.

        Args:
            parts: List of `Part`.
            make_optimizer: Function of a learning rate; not used.
        """
        if self.new_token is None:
            return parts
        from keras_sdft.adapters.textual_inversion import TextualInversion

        token = TextualInversion(
            self.new_token, self.init_word, self.num_vectors
        )
        return [token, *(p for p in parts if p.name != "diffusion_model")]


@dataclasses.dataclass(frozen=True, kw_only=True)
class LoRAOptions:
    """LoRA: a small addition learns, and the networks' weights do not.

    Args:
        lora_rank: Train a LoRA of this rank instead of all weights; 4 to 64
            are usual.
        lora_alpha: Additions are scaled by lora_alpha / rank. Defaults to
            the rank.
        lora_targets: Layers that are added to: attention, linear (all dense
            layers of transformer blocks), all (convolutions too), or
            patterns of diffusers' module names.
        lora_text_encoder: Add to the text encoder as well.
        lora_dropout: Share of inputs that the additions do not see while
            training.
        dora: Learn the magnitude of weights apart from their direction
            (DoRA).
        frozen_dtype: What the kernels that do not learn are held in:
            float32, bfloat16 (half the memory) or int8 (a quarter).

    Raises:
        ValueError: If an option is out of its range or has no effect.
    """

    lora_rank: int | None = None
    lora_alpha: float | None = None
    lora_targets: str | list[str] = "attention"
    lora_text_encoder: bool = False
    lora_dropout: float = 0.0
    dora: bool = False
    frozen_dtype: str = "float32"

    def __post_init__(self) -> None:
        checks.boolean("lora_text_encoder", self.lora_text_encoder)
        checks.boolean("dora", self.dora)
        checks.number("lora_dropout", self.lora_dropout, 0, below=1)
        checks.one_of("frozen_dtype", self.frozen_dtype, FROZEN_DTYPES)
        if self.lora_rank is not None:
            checks.integer("lora_rank", self.lora_rank, 1)
        if self.lora_alpha is not None:
            checks.number("lora_alpha", self.lora_alpha, above=0)
        names = [f.name for f in dataclasses.fields(LoRAOptions)][1:]
        checks.effective(self, names, "lora_rank")

    @property
    def default_learning_rate(self) -> float | None:
        """The learning rate to begin with where none is given."""
        return None if self.lora_rank is None else 1e-4

    def apply(
        self, parts: list[Any], make_optimizer: Callable[[float], Any]
    ) -> list[Any]:
        """Returns the parts with a LoRA in place of the diffusion model.

        Args:
            parts: List of `Part`.
            make_optimizer: Function of a learning rate; not used.

        Raises:
            ValueError: If the text encoder's own weights learn as well.
        """
        if self.lora_rank is None:
            return parts
        from keras_sdft.adapters.lora import LoRA

        whole = {part.name: part for part in parts}
        if self.lora_text_encoder and "text_encoder" in whole:
            raise ValueError(
                "`lora_text_encoder` adds to a text encoder whose own weights "
                "do not learn. Received: lora_text_encoder=True, "
                "train_text_encoder=True. Leave out the one or the other."
            )
        lora = LoRA(
            self.lora_rank,
            self.lora_alpha,
            self.lora_targets,
            text_encoder=self.lora_text_encoder,
            dropout=self.lora_dropout,
            use_dora=self.dora,
            frozen_dtype=self.frozen_dtype,
        )
        whole.pop("diffusion_model", None)
        return [lora, *whole.values()]
