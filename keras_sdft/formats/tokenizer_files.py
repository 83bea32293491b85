"""A CLIP tokenizer's files in a diffusers folder, read and written.

Must not know weights.
"""

from __future__ import annotations

import gzip
import io
import json
from pathlib import Path
from typing import Any

from keras_sdft.formats.diffusers_configs import read_json
from keras_sdft.formats.diffusers_written import write_json

START, END = "<|startoftext|>", "<|endoftext|>"
# What `write_tokenizer` writes.
FILES = (
    "vocab.json",
    "merges.txt",
    "special_tokens_map.json",
    "tokenizer_config.json",
)
_MAX_BYTES = 50_000_000


def read_merges(directory: Path) -> list[str]:
    """The byte-pair merges, from `merges.txt` or from `tokenizer.json`.

    Args:
        directory: The `tokenizer` folder.

    Returns:
        A list of strings, two symbols separated by a space, in rank order.

    Raises:
        ValueError: If neither file is there or one is not understood.
    """
    path = directory / "merges.txt"
    if path.is_file():
        if path.stat().st_size > _MAX_BYTES:
            raise ValueError(f"{str(path)!r} is too large for a vocabulary.")
        lines = path.read_text(encoding="utf-8").split("\n")
        lines = lines[1:] if lines[0].startswith("#version") else lines
        merges = [line for line in lines if line]
    else:
        merges = _fast_merges(directory / "tokenizer.json")
    wrong = [merge for merge in merges if len(merge.split()) != 2]
    if wrong:
        raise ValueError(
            f"The vocabulary in {str(directory)!r} has lines that are no pair "
            f"of symbols: {wrong[:5]}."
        )
    return merges


def _fast_merges(path: Path) -> list[str]:
    if not path.is_file():
        raise ValueError(
            f"No 'merges.txt' and no 'tokenizer.json' in {str(path.parent)!r}."
        )
    model = read_json(path).get("model")
    merges = model.get("merges") if isinstance(model, dict) else None
    if not isinstance(merges, list):
        raise ValueError(f"{str(path)!r} has no list of merges.")
    return [
        merge if isinstance(merge, str) else " ".join(map(str, merge))
        for merge in merges
    ]


def read_pad_token(directory: Path) -> str:
    """The token that fills captions up; the end token unless named."""
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        if (directory / name).is_file():
            token = read_json(directory / name).get("pad_token")
            token = token.get("content") if isinstance(token, dict) else token
            if isinstance(token, str):
                return token
    return END


def make_tokenizer(merges: list[str], max_length: int, pad_token: Any) -> Any:
    """A tokenizer from merges.

    Args:
        merges: As `read_merges` returns.
        max_length: Integer.
        pad_token: `"end"`, an id, or a token.

    Returns:
        A `keras_sdft.models.Tokenizer`.
    """
    # Imports TensorFlow, which a look at a folder must not.
    from keras_sdft.models.keras_cv_parts import SimpleTokenizer
    from keras_sdft.models.tokenizer import Tokenizer

    text = "\n".join(["#version: 0.2", *merges])
    # Not the constructor: it takes the path of a gzipped file.
    tokenizer = Tokenizer.__new__(Tokenizer)
    SimpleTokenizer.__init__(
        tokenizer, io.BytesIO(gzip.compress(text.encode("utf-8")))
    )
    tokenizer.max_length = max_length
    if pad_token == "end":
        pad_token = tokenizer.end_of_text
    tokenizer.pad_token = pad_token
    return tokenizer


def pad_id(directory: Path, merges: list[str]) -> int | str:
    """The padding of a folder's tokenizer, as a spec has it."""
    token = read_pad_token(directory)
    if token == END:
        return "end"
    found = make_tokenizer_ids(directory, merges).get(token)
    if type(found) is not int or found < 0:
        raise ValueError(
            f"The padding token {token!r} in {str(directory)!r} is not in "
            "its vocabulary."
        )
    return found


def make_tokenizer_ids(directory: Path, merges: list[str]) -> dict[str, Any]:
    """Ids by token of a folder's tokenizer."""
    if (directory / "vocab.json").is_file():
        return read_json(directory / "vocab.json")
    model = read_json(directory / "tokenizer.json").get("model", {})
    return model.get("vocab", {})


def check_vocabulary(directory: Path, tokenizer: Any) -> None:
    """Holds a folder's ids against those that its merges give.

    Raises:
        ValueError: If a token has another id, so captions would be encoded
            to other words than the model was trained on.
    """
    theirs = make_tokenizer_ids(directory, [])
    wrong = [
        token
        for token, number in tokenizer.encoder.items()
        if theirs.get(token) != number
    ]
    if wrong:
        raise ValueError(
            f"The vocabulary in {str(directory)!r} does not follow from its "
            f"merges: {len(wrong)} tokens have other ids ({wrong[:5]})."
        )


def write_tokenizer(directory: Path, tokenizer: Any) -> None:
    """Writes the files that `CLIPTokenizer` reads.

    Args:
        directory: The `tokenizer` folder, which exists.
        tokenizer: A `keras_sdft.models.Tokenizer`.
    """
    vocabulary = json.dumps(tokenizer.encoder, ensure_ascii=False)
    (directory / "vocab.json").write_text(vocabulary, encoding="utf-8")
    ranks = tokenizer.bpe_ranks
    merges = sorted((pair for pair in ranks if len(pair) == 2), key=ranks.get)
    text = "\n".join(["#version: 0.2", *(" ".join(pair) for pair in merges)])
    (directory / "merges.txt").write_text(text + "\n", encoding="utf-8")
    pad = tokenizer.decoder[int(tokenizer.pad_token)]
    special = {"bos_token": START, "eos_token": END, "unk_token": END}
    write_json(
        directory / "special_tokens_map.json", {**special, "pad_token": pad}
    )
    write_json(
        directory / "tokenizer_config.json",
        {
            **special,
            "add_prefix_space": False,
            "do_lower_case": True,
            "errors": "replace",
            "model_max_length": tokenizer.max_length,
            "pad_token": pad,
            "tokenizer_class": "CLIPTokenizer",
        },
    )
