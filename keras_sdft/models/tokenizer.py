"""CLIP's byte-pair tokenizer, filled up to a fixed length.

It gives the ids of transformers' `CLIPTokenizer`, which Stable Diffusion was
trained with: `tests/models/golden_tokens.json` has those of 10,000 captions.
Must not know networks or datasets.

References:
    Sennrich et al., Neural Machine Translation of Rare Words with Subword
    Units, 2016; Radford et al., Learning Transferable Visual Models From
    Natural Language Supervision, 2021, section 2.4.
"""

import unicodedata
from collections.abc import Iterable
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import regex

from keras_sdft import parsing

START, END = "<|startoftext|>", "<|endoftext|>"
# CLIP's vocabulary takes as many merges of its file as make it this large.
_MOST_ENTRIES = 49408
_MAX_BYTES = 16_000_000
_WORDS = regex.compile(
    # A special token in capitals is words, which end where it does.
    r"<\|(?=(?:start|end)oftext\|>)|(?<=<\|(?:start|end)oftext)\|>|"
    r"'s|'t|'re|'ve|'m|'ll|'d|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+"
)
# Bytes of a word that are read. No 77 tokens hold as many, and merging takes
# a time that grows with the square of a word's length.
_LONGEST_WORD = 10_000
_MOST_CACHED = 100_000


def _byte_symbols() -> dict[int, str]:
    """Returns a printable character for each byte, in vocabulary order."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    symbols = {byte: chr(byte) for byte in printable}
    return symbols | {byte: chr(256 + n) for n, byte in enumerate(others)}


_SYMBOLS = _byte_symbols()
_BYTES = {symbol: byte for byte, symbol in _SYMBOLS.items()}


class Tokenizer:
    """Byte-pair tokenizer that also pads and truncates.

    Args:
        merges: Path of a gzipped merges file in CLIP's format, or the merges
            themselves: a list of strings, two symbols separated by a space,
            in rank order.
        max_length: Integer, tokens of a full caption, both ends included.
        pad_token: `"end"` to fill up with the end token (SD 1.x), or an
            integer id.
        added_tokens: Strings, see `add_tokens`.

    Attributes:
        encoder: Dict of ids by vocabulary entry, added tokens included.
        decoder: Dict of vocabulary entries by id.
        bpe_ranks: Dict of ranks by pair of symbols.
        added_tokens: Dict of ids by added token.
        start_of_text: Integer, the id that captions begin with.
        end_of_text: Integer, the id that they end with.

    Raises:
        ValueError: If it is no merges file.
    """

    def __init__(
        self,
        merges: str | Path | Sequence[str],
        max_length: int = 77,
        pad_token: int | str = "end",
        added_tokens: Iterable[str] = (),
    ):
        where = ""
        if isinstance(merges, (str, Path)):
            where, merges = f" in {str(merges)!r}", read_merges(merges)
        pairs = [tuple(line.split()) for line in merges]
        wrong = [pair for pair in pairs if len(pair) != 2]
        if wrong:
            raise ValueError(
                f"Merges must be pairs of symbols. Received{where}, for "
                f"example: {' '.join(wrong[0])[:80]!r}."
            )
        symbols = list(_SYMBOLS.values())
        entries = [*symbols, *(f"{symbol}</w>" for symbol in symbols)]
        entries += ["".join(pair) for pair in pairs]
        entries += [START, END]
        self.encoder = {entry: index for index, entry in enumerate(entries)}
        self.decoder = {index: entry for entry, index in self.encoder.items()}
        self.bpe_ranks = {pair: rank for rank, pair in enumerate(pairs)}
        self.start_of_text = self.encoder[START]
        self.end_of_text = self.encoder[END]
        self.max_length = max_length
        self.pad_token = self.end_of_text if pad_token == "end" else pad_token
        self.added_tokens: dict[str, int] = {}
        self._added: dict[str, list[int]] = {}
        self._cache: dict[str, list[int]] = {}
        self.add_tokens(added_tokens)

    @property
    def vocabulary_size(self) -> int:
        """The number of ids, those of added tokens included."""
        return max(self.decoder) + 1

    def add_tokens(
        self,
        tokens: str | Iterable[str],
        vectors: int = 1,
        minimum: int = 0,
    ) -> list[int]:
        """Adds tokens that are found in captions before all others.

        An added token is found wherever it stands, in any case; the text
        encoder must have an embedding for each of its ids. One of several
        vectors becomes several ids in a caption, of entries named as
        diffusers names them: `<my-cat>`, `<my-cat>_1`, ...

        Args:
            tokens: String, or strings, `"<my-cat>"` for example; one that
                was added before keeps its id.
            vectors: Integer >= 1, ids of each token.
            minimum: Integer, the least id, where the text encoder's table
                is larger than the vocabulary.

        Returns:
            List of the ids, from `vocabulary_size` up.

        Raises:
            ValueError: If one is no text, has white space around it, or is
                a special token.
        """
        tokens = [tokens] if isinstance(tokens, str) else list(tokens)
        for token in tokens:
            plain = isinstance(token, str) and token == token.strip() != ""
            if not plain or token in (START, END):
                raise ValueError(
                    "An added token must be a string without white space "
                    f"around it, '<my-cat>' for example. Received: {token!r}."
                )
        found_ids = []
        for token in tokens:
            names = [token, *(f"{token}_{n}" for n in range(1, vectors))]
            ids = [self._add(name, minimum) for name in names]
            self._added[_normalized(token)] = ids
            found_ids += ids
        # The longest first: of two that begin alike it is meant.
        found = sorted(self._added, key=len, reverse=True)
        pattern = "|".join(regex.escape(token) for token in found)
        self._added_pattern = regex.compile(f"({pattern})")
        return found_ids

    def _add(self, name: str, minimum: int) -> int:
        if name not in self.added_tokens:
            index = max(self.vocabulary_size, minimum)
            self.added_tokens[name] = index
            self.encoder[name] = index
            self.decoder[index] = name
            self._added[_normalized(name)] = [index]
        return self.added_tokens[name]

    def remove_tokens(self, tokens: Iterable[str]) -> None:
        """Removes tokens that were added; those before them keep their ids.

        Args:
            tokens: Strings, names of vocabulary entries that were added.
        """
        for token in tokens:
            index = self.added_tokens.pop(token)
            del self.encoder[token], self.decoder[index]
            del self._added[_normalized(token)]
        self.add_tokens(())

    def encode(self, text: str) -> list[int]:
        """Returns the ids of a text of any length, both ends included."""
        ids = [self.start_of_text]
        # A special token counts as itself only as it is written.
        for part in regex.split(r"(<\|(?:start|end)oftext\|>)", text):
            if part in (START, END):
                ids.append(self.encoder[part])
            else:
                ids += self._encode_text(_normalized(part))
        return [*ids, self.end_of_text]

    def _encode_text(self, text: str) -> list[int]:
        if not self._added:
            return self._encode_words(text)
        ids: list[int] = []
        for part in self._added_pattern.split(text):
            if part in self._added:
                ids += self._added[part]
            else:
                ids += self._encode_words(part)
        return ids

    def _encode_words(self, text: str) -> list[int]:
        ids: list[int] = []
        for word in _WORDS.findall(text):
            if word not in self._cache:
                if len(self._cache) >= _MOST_CACHED:
                    self._cache.clear()
                self._cache[word] = self._encode_word(word)
            ids += self._cache[word]
        return ids

    def _encode_word(self, word: str) -> list[int]:
        symbols = [_SYMBOLS[b] for b in word.encode("utf-8")[:_LONGEST_WORD]]
        symbols[-1] += "</w>"
        return [self.encoder[s] for s in _merged(symbols, self.bpe_ranks)]

    def decode(self, token_ids: Iterable[int]) -> str:
        """Returns the text of ids, a space after each word."""
        data = bytearray()
        for index in token_ids:
            entry = self.decoder[int(index)]
            if entry in self.added_tokens or entry in (START, END):
                data += f"{entry} ".encode()
                continue
            word = entry.removesuffix("</w>")
            data += bytes(_BYTES[symbol] for symbol in word)
            data += b" " if word != entry else b""
        return data.decode("utf-8", "replace")

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


def read_merges(path: str | Path) -> list[str]:
    """Reads a gzipped merges file in CLIP's format.

    Args:
        path: The file. Its first line is a header.

    Returns:
        List of strings, as many as CLIP's vocabulary takes.

    Raises:
        DamagedFile: If it is none, or unpacks to more than 16 MB.
    """
    with parsing.reading(path, "merges file"):
        text = parsing.read_gzip(path, _MAX_BYTES).decode("utf-8")
    most = _MOST_ENTRIES - 2 * 256 - 2
    return [line for line in text.split("\n")[1 : most + 1] if line]


def _normalized(text: str) -> str:
    """Composes, joins white space, and lowers each character by itself.

    (`str.lower` has another rule for the last sigma of a word.)
    """
    text = regex.sub(r"\s+", " ", unicodedata.normalize("NFC", text))
    return "".join(character.lower() for character in text)


def _merged(symbols: list[str], ranks: dict[Any, int]) -> list[str]:
    """Joins neighbours for as long as a pair of them has a rank."""
    while len(symbols) > 1:
        pairs = zip(symbols, symbols[1:], strict=False)
        best = min(pairs, key=lambda pair: ranks.get(pair, len(ranks)))
        if best not in ranks:
            break
        joined, index = [], 0
        while index < len(symbols):
            if tuple(symbols[index : index + 2]) == best:
                joined.append("".join(best))
                index += 2
            else:
                joined.append(symbols[index])
                index += 1
        symbols = joined
    return symbols
