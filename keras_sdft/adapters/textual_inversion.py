"""Textual inversion: what learns is the embedding of a new word.

Must not know losses, optimizers or captions.

References:
    Gal et al., An Image is Worth One Word: Personalizing Text-to-Image
    Generation using Textual Inversion, 2022.
"""

import re
from collections.abc import Callable
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from keras import ops

from keras_sdft import checks
from keras_sdft.adapters.part import Part
from keras_sdft.adapters.token_rows import TokenRows
from keras_sdft.formats import embedding_files
from keras_sdft.models import adapted
from keras_sdft.models.weight_layout import find_layers
from keras_sdft.models.weight_names import text_encoder_rows

# Batches that are looked at for a token.
_LOOKED_AT = 4
_TOKEN_EMBEDDING = "token_embedding.embeddings"


class AttachedEmbedding:
    """The rows of a new token in a model's tokenizer and text encoder.

    Args:
        stable_diffusion: A `keras_sdft.StableDiffusion`.
        token: String, the new token.
        rows: Float32 array `(vectors, width)`.

    Attributes:
        rows: Float32 `keras.Variable` `(vectors, width)`.

    Raises:
        ValueError: If the token cannot be added, or the rows are not the
            text encoder's.
    """

    def __init__(self, stable_diffusion: Any, token: str, rows: np.ndarray):
        sd = self.stable_diffusion = stable_diffusion
        self.token = token
        width = sd.spec.text_encoder.width
        if rows.ndim != 2 or rows.shape[1] != width:
            raise ValueError(
                f"The embedding of {token!r} must have shape (vectors, "
                f"{width}) for this model. Received: {tuple(rows.shape)}. "
                "Was it made for another model?"
            )
        self._layer = _embedding_layer(sd)
        first = add_token(sd, token, len(rows))
        size = int(self._layer.input_dim)
        self._adapter = TokenRows(first, rows, size, name=_slug(token))
        adapted.attach(self._layer, self._adapter)
        adapted.forget_graphs(sd.text_encoder)

    @property
    def rows(self) -> Any:
        """The variable that learns."""
        return self._adapter.rows

    def remove(self) -> None:
        """Removes the token; the model is its base again."""
        sd = self.stable_diffusion
        count = self.rows.shape[0]
        names = [self.token, *(f"{self.token}_{n}" for n in range(1, count))]
        sd.tokenizer.remove_tokens(names)
        adapted.detach(self._layer, self._adapter)
        adapted.forget_graphs(sd.text_encoder)


def add_token(stable_diffusion: Any, token: str, vectors: int) -> int:
    """Adds a token to the tokenizer, unless it waits there for its rows.

    Args:
        stable_diffusion: A `keras_sdft.StableDiffusion`.
        token: String, the new token.
        vectors: Integer >= 1.

    Returns:
        Its first id.

    Raises:
        ValueError: If it has rows already, or cannot be added.
    """
    tokenizer = stable_diffusion.tokenizer
    layer = _embedding_layer(stable_diffusion)
    taken = {
        adapter.first_id
        for adapter in adapted.adapters_of(layer)
        if isinstance(adapter, TokenRows)
    }
    if tokenizer.added_tokens.get(token, -1) in taken:
        raise ValueError(
            f"The token {token!r} was added before. Choose another name, or "
            "unload it first."
        )
    if token not in tokenizer.added_tokens:
        _check_token(token, tokenizer)
    # Ids follow the table, also where the vocabulary is smaller.
    size = int(layer.input_dim)
    return tokenizer.add_tokens(token, vectors, minimum=size)[0]


def _check_token(token: str, tokenizer: Any) -> None:
    if not isinstance(token, str) or not token.strip():
        raise ValueError(
            "`token` must be a string, '<my-cat>' for example. Received: "
            f"token={token!r}."
        )
    for other in tokenizer.added_tokens:
        if token.lower() in other.lower() or other.lower() in token.lower():
            raise ValueError(
                f"The tokens {token!r} and {other!r} contain one another, so "
                "that a caption with the longer has both. Choose another "
                "name."
            )
    if len(tokenizer.encode(token)) == 3:
        raise ValueError(
            f"{token!r} is a word of the vocabulary already, and every "
            "caption with it would change. Choose a new one, '<"
            f"{token}>' for example."
        )


class TextualInversion(Part):
    """Trains the embedding of a new token; no other weight changes.

    An entry of `Trainer(train=[...])`, several at once or beside a `LoRA`.
    Captions must contain the token. Every other row of the embedding stays
    bit for bit what it was.

    Args:
        token: String, the new token, `"<cat-toy>"` for example.
        init: String, a word that the embedding begins with. `None` begins
            with random numbers of the embedding's own size.
        vectors: Integer >= 1, how many embeddings stand for the token in a
            caption.
        seed: Integer >= 0, of the random numbers.
        learning_rate: See `Part`; 5e-4 to 5e-3 are usual.
        optimizer: See `Part`.
        stop_step: See `Part`.

    Example:

    ```python
    token = keras_sdft.adapters.TextualInversion("<cat-toy>", init="toy")
    trainer = keras_sdft.Trainer(sd, train=token)
    ```
    """

    networks = ("text_encoder", "diffusion_model")
    keeps_base = True

    def __init__(
        self,
        token: str,
        init: str | None = None,
        vectors: int = 1,
        *,
        seed: int = 0,
        learning_rate: float | None = None,
        optimizer: Any = None,
        stop_step: int | None = None,
    ):
        super().__init__(
            learning_rate=learning_rate,
            optimizer=optimizer,
            stop_step=stop_step,
        )
        self.name = f"textual inversion of {token!r}"
        self.token = token
        self.init = init
        self.vectors = checks.integer("vectors", vectors, 1)
        self.seed = checks.integer("seed", seed, 0)
        self.attached: AttachedEmbedding | None = None

    def add_tokens(self, stable_diffusion: Any) -> None:
        """Adds the token to the tokenizer."""
        add_token(stable_diffusion, self.token, self.vectors)

    def check_dataset(self, dataset: Any) -> None:
        """Refuses captions without the token.

        Raises:
            ValueError: If the first batches have none.
        """
        if self._seen_in(dataset):
            return
        raise ValueError(
            f"None of the first captions contains {self.token!r}, so that "
            "its embedding would learn nothing. Write it into the captions, "
            f"or pass `caption_template='{{caption}}, {self.token}'`; and "
            "make the `Trainer` before the dataset, whose tokenizer must know "
            "the token."
        )

    def _seen_in(self, dataset: Any) -> bool:
        first = self.attached.stable_diffusion.tokenizer.added_tokens[
            self.token
        ]
        found = [
            bool(ops.any(ops.equal(batch["token_ids"], first)))
            for batch in dataset.take(_LOOKED_AT)
        ]
        # A run that goes on at the end of an epoch has an empty pass first.
        return any(found) or not found

    def attach(self, stable_diffusion: Any) -> None:
        """Adds the token to the tokenizer and to the text encoder."""
        rows = self._first_rows(stable_diffusion)
        self.attached = AttachedEmbedding(stable_diffusion, self.token, rows)

    def _first_rows(self, sd: Any) -> np.ndarray:
        table = _embedding_layer(sd).embeddings
        if self.init is None:
            deviation = float(ops.convert_to_numpy(ops.std(table)))
            generator = np.random.default_rng(self.seed)
            shape = (self.vectors, table.shape[1])
            return generator.normal(0, deviation, shape).astype("float32")
        ids = sd.tokenizer.encode(self.init)[1:-1]
        if not ids:
            raise ValueError(
                "`init` must be a word that the embedding begins with. "
                f"Received: init={self.init!r}."
            )
        # A word of several tokens gives its own in turn.
        chosen = [ids[n % len(ids)] for n in range(self.vectors)]
        rows = ops.take(ops.convert_to_tensor(table), chosen, axis=0)
        return ops.convert_to_numpy(rows).astype("float32")

    @property
    def variables(self) -> list[Any]:
        """The rows of the token."""
        return [self.attached.rows]

    def files(self) -> dict[str, Callable[[Path], None]]:
        """Returns the file that diffusers' `load_textual_inversion` reads."""
        return {f"{_slug(self.token)}.safetensors": self.save}

    def save(self, path: str | Path, dialect: str = "diffusers") -> None:
        """Writes the embedding to a `.safetensors` file.

        Args:
            path: The file; replaced if it exists.
            dialect: `"diffusers"` or `"a1111"`, which is named by its file.
        """
        rows = ops.convert_to_numpy(self.attached.rows)
        embedding_files.write(path, {self.token: rows}, dialect)


def attach_embeddings(
    stable_diffusion: Any, embeddings: Mapping[str, np.ndarray]
) -> list[AttachedEmbedding]:
    """Attaches embeddings that were read from a file.

    Args:
        stable_diffusion: A `keras_sdft.StableDiffusion`.
        embeddings: Dict by token of float32 arrays `(vectors, width)`.

    Returns:
        List of `AttachedEmbedding`.
    """
    make = partial(AttachedEmbedding, stable_diffusion)
    return [make(token, rows) for token, rows in embeddings.items()]


def _embedding_layer(sd: Any) -> Any:
    (path,) = (
        row.ours.removesuffix(".embeddings")
        for row in text_encoder_rows(sd.spec.text_encoder)
        if row.ours is not None and row.ours.endswith(_TOKEN_EMBEDDING)
    )
    return find_layers(sd.text_encoder, [path])[path]


def _slug(token: str) -> str:
    """Returns a file name for a token."""
    return re.sub(r"[^\w.-]+", "", token) or "embedding"
