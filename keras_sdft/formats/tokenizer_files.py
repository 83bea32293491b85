"""Reads and writes a CLIP tokenizer's files in a diffusers folder.

Must not know weights.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from keras_sdft.formats.diffusers_written import write_json
from keras_sdft.models.spec import TextEncoderSpec
from keras_sdft.models.tokenizer import Tokenizer
from keras_sdft.parsing import DamagedFile
from keras_sdft.parsing import read_json
from keras_sdft.parsing import read_text

START, END = "<|startoftext|>", "<|endoftext|>"
# What `write_tokenizer` writes.
FILES = (
    "vocab.json",
    "merges.txt",
    "special_tokens_map.json",
    "tokenizer_config.json",
)
# CLIP's own has 525 kB and 48,894 merges.
_MAX_BYTES = 8_000_000
_MAX_MERGES = 200_000


def read_merges(directory: Path) -> list[str]:
    """Reads the byte-pair merges of `merges.txt` or of `tokenizer.json`.

    Args:
        directory: The `tokenizer` folder.

    Returns:
        A list of strings, two symbols separated by a space, in rank order.

    Raises:
        ValueError: If neither file is there or one is not understood.
    """
    path = directory / "merges.txt"
    if path.is_file():
        lines = read_text(path, _MAX_BYTES).split("\n")
        lines = lines[1:] if lines[0].startswith("#version") else lines
        merges = [line for line in lines if line]
    else:
        path = directory / "tokenizer.json"
        merges = _fast_merges(path)
    if len(merges) > _MAX_MERGES:
        raise DamagedFile(
            f"{str(path)!r} has {len(merges):,} merges, beyond the budget of "
            f"{_MAX_MERGES:,}."
        )
    wrong = [merge[:40] for merge in merges if len(merge.split()) != 2]
    if wrong:
        raise DamagedFile(
            f"The vocabulary {str(path)!r} has {len(wrong)} lines that are no "
            f"pair of symbols: {wrong[:5]}."
        )
    return merges


def _fast_merges(path: Path) -> list[str]:
    if not path.is_file():
        raise ValueError(
            f"No 'merges.txt' and no 'tokenizer.json' in {str(path.parent)!r}."
        )
    model = read_json(path).get("model")
    merges = model.get("merges") if isinstance(model, dict) else None
    if not isinstance(merges, list) or not all(map(_is_merge, merges)):
        raise DamagedFile(f"{str(path)!r} has no list of merges.")
    return [m if isinstance(m, str) else " ".join(m) for m in merges]


def _is_merge(value: Any) -> bool:
    return isinstance(value, str) or (
        isinstance(value, list) and all(isinstance(v, str) for v in value)
    )


def read_pad_token(directory: Path) -> str:
    """Returns the token that fills captions up, by default the end."""
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        if (directory / name).is_file():
            token = read_json(directory / name).get("pad_token")
            token = token.get("content") if isinstance(token, dict) else token
            if isinstance(token, str):
                return token
    return END


def make_tokenizer(merges: list[str], max_length: int, pad_token: Any) -> Any:
    """Builds a tokenizer from merges.

    Args:
        merges: As `read_merges` returns.
        max_length: Integer.
        pad_token: `"end"`, an id, or a token.

    Returns:
        A `keras_sdft.models.Tokenizer`.
    """
    return Tokenizer(merges, max_length, pad_token)


def pad_id(directory: Path, merges: list[str]) -> int | str:
    """Returns the padding of a folder's tokenizer, as a spec has it."""
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
    """Reads the ids by token of a folder's tokenizer."""
    if (directory / "vocab.json").is_file():
        return read_json(directory / "vocab.json")
    model = read_json(directory / "tokenizer.json").get("model")
    ids = model.get("vocab") if isinstance(model, dict) else None
    return ids if isinstance(ids, dict) else {}


def check_added(directory: Path, spec: TextEncoderSpec) -> None:
    """Refuses tokens that were added to CLIP's vocabulary.

    Captions would be encoded to pieces of them.

    Args:
        directory: The `tokenizer` folder.
        spec: Of the text encoder.

    Raises:
        ValueError: If there are any, or the vocabulary and the embedding
            differ in size.
    """
    ids = make_tokenizer_ids(directory, [])
    new = sorted(_added(directory) - set(ids))
    if new:
        raise ValueError(
            f"The tokenizer {str(directory)!r} has {len(new)} added tokens "
            f"({', '.join(new[:5])}), which are not supported: captions would "
            "be encoded to pieces of them. Expected a model without, and its "
            "embedding beside it."
        )
    if ids and len(ids) != spec.vocabulary_size:
        raise ValueError(
            f"The tokenizer {str(directory)!r} has {len(ids)} tokens, and the "
            f"text encoder beside it {spec.vocabulary_size}. Were tokens "
            "added to one of them? Expected as many in both."
        )


def _added(directory: Path) -> set[str]:
    """Returns the tokens that any of a folder's files adds."""
    listed: list[Any] = []
    for name, field in (
        ("added_tokens.json", None),
        ("tokenizer_config.json", "added_tokens_decoder"),
        ("tokenizer.json", "added_tokens"),
    ):
        if (directory / name).is_file():
            config = read_json(directory / name)
            found = config.get(field) if field else list(config)
            found = list(found.values()) if isinstance(found, dict) else found
            listed += found if isinstance(found, list) else []
    tokens = [t.get("content") if isinstance(t, dict) else t for t in listed]
    return {token for token in tokens if isinstance(token, str)}


def check_vocabulary(directory: Path, tokenizer: Any) -> None:
    """Compares a folder's ids with those that its merges give.

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
