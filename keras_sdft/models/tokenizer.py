"""CLIP's byte-pair tokenizer, filled up to a fixed length.

Must not know networks or datasets.
"""

from __future__ import annotations

import gzip
import zlib
from typing import Any

import numpy as np

from keras_sdft.models.keras_cv_parts import SimpleTokenizer


class Tokenizer(SimpleTokenizer):
    """KerasCV's tokenizer that also pads and truncates.

    Args:
        bpe_path: Path of a gzipped merges file in CLIP's format.
        max_length: Integer, tokens of a full caption, both ends included.
        pad_token: `"end"` to fill up with the end token (SD 1.x), or an
            integer id.
    """

    def __init__(
        self,
        bpe_path: Any,
        max_length: int = 77,
        pad_token: int | str = "end",
    ):
        try:
            super().__init__(str(bpe_path))
        except (gzip.BadGzipFile, zlib.error, EOFError, ValueError) as error:
            raise ValueError(
                f"{str(bpe_path)!r} is no gzipped merges file: {error}."
            ) from error
        self.max_length = max_length
        self.pad_token = self.end_of_text if pad_token == "end" else pad_token

    def pad(self, token_ids: list[int]) -> np.ndarray:
        """Fills up or truncates to `max_length`, keeping the end token.

        Args:
            token_ids: What `encode` returns, of any length.

        Returns:
            Int32 array of shape `(max_length,)`.
        """
        row = np.full((self.max_length,), self.pad_token, dtype="int32")
        kept = token_ids[: self.max_length]
        row[: len(kept)] = kept
        if len(token_ids) > self.max_length:
            row[-1] = self.end_of_text
        return row

    def __call__(self, texts: list[str]) -> np.ndarray:
        """Tokenizes texts to an int32 array `(len(texts), max_length)`."""
        return np.stack([self.pad(self.encode(text)) for text in texts])
