"""Reads and writes a CLIP tokenizer's files in a diffusers folder.

Must not know weights.
"""

import json
from pathlib import Path
from typing import Any

from keras_sdft.formats.diffusers_written import write_json
from keras_sdft.models.spec import TextEncoderSpec
from keras_sdft.parsing import DamagedFile
from keras_sdft.parsing import read_json
from keras_sdft.parsing import read_text

START, END = "<|startoftext|>", "<|endoftext|>"
# What `write_tokenizer` writes.
FILES = (
    "vocab.json",
    "merges.txt",
    "added_tokens.json",
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


def pad_id(directory: Path) -> int | str:
    """Returns the padding of a folder's tokenizer, as a spec has it."""
    token = read_pad_token(directory)
    if token == END:
        return "end"
    found = read_ids(directory).get(token)
    if type(found) is not int or found < 0:
        raise ValueError(
            f"The padding token {token!r} in {str(directory)!r} is not in "
            "its vocabulary."
        )
    return found


def read_ids(directory: Path) -> dict[str, Any]:
    """Reads the ids by token of a folder's tokenizer, added ones included."""
    if (directory / "vocab.json").is_file():
        ids = read_json(directory / "vocab.json")
    else:
        model = read_json(directory / "tokenizer.json").get("model")
        found = model.get("vocab") if isinstance(model, dict) else None
        ids = dict(found) if isinstance(found, dict) else {}
    for name, field in (
        ("added_tokens.json", None),
        ("tokenizer_config.json", "added_tokens_decoder"),
        ("tokenizer.json", "added_tokens"),
    ):
        if (directory / name).is_file():
            config = read_json(directory / name)
            ids.update(_numbered(config.get(field) if field else config))
    return ids


def _numbered(listed: Any) -> dict[str, Any]:
    """Returns ids by token of any of the ways in which they are listed."""
    if isinstance(listed, list):
        items = [i for i in listed if isinstance(i, dict)]
        return {str(i.get("content")): i.get("id") for i in items}
    found = {}
    for key, value in (listed if isinstance(listed, dict) else {}).items():
        if isinstance(value, dict):
            number = int(key) if key.isdecimal() and len(key) < 9 else None
            found[str(value.get("content"))] = number
        else:
            found[key] = value
    return found


def read_added(
    directory: Path, merges: list[str], spec: TextEncoderSpec
) -> list[str]:
    """Reads the tokens that were added to the vocabulary of the merges.

    Args:
        directory: The `tokenizer` folder.
        merges: As `read_merges` returns.
        spec: Of the text encoder.

    Returns:
        List of tokens in the order of their ids.

    Raises:
        ValueError: If their ids do not follow the vocabulary's, or the
            embedding has not a row for each token.
    """
    base = 2 * 256 + len(merges) + 2
    ids = read_ids(directory)
    wrong = [token for token, n in ids.items() if type(n) is not int]
    added = {t: n for t, n in ids.items() if type(n) is int and n >= base}
    tokens = sorted(added, key=added.__getitem__)
    numbers = [added[token] for token in tokens]
    if wrong or numbers != list(range(base, base + len(tokens))):
        raise ValueError(
            f"The tokenizer {str(directory)!r} has added tokens "
            f"({', '.join((wrong or tokens)[:5])}) with the ids "
            f"{numbers[:5]}. Expected ids from {base} up, without gaps."
        )
    if base + len(tokens) != spec.vocabulary_size:
        raise ValueError(
            f"The tokenizer {str(directory)!r} has {base + len(tokens)} "
            f"tokens, and the text encoder beside it {spec.vocabulary_size} "
            "rows. Were tokens added to one of them? Expected as many in both."
        )
    return tokens


def check_vocabulary(directory: Path, tokenizer: Any) -> None:
    """Compares a folder's ids with those that its merges give.

    Raises:
        ValueError: If a token has another id, so captions would be encoded
            to other words than the model was trained on.
    """
    theirs = read_ids(directory)
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


def merges_text(tokenizer: Any) -> str:
    """Returns a tokenizer's merges as a file holds them."""
    pairs = sorted(tokenizer.bpe_ranks, key=tokenizer.bpe_ranks.get)
    return "\n".join(["#version: 0.2", *(" ".join(pair) for pair in pairs)])


def write_tokenizer(directory: Path, tokenizer: Any) -> None:
    """Writes the files that `CLIPTokenizer` reads.

    Args:
        directory: The `tokenizer` folder, which exists.
        tokenizer: A `keras_sdft.models.Tokenizer`.
    """
    added = tokenizer.added_tokens
    ids = {t: n for t, n in tokenizer.encoder.items() if t not in added}
    vocabulary = json.dumps(ids, ensure_ascii=False)
    (directory / "vocab.json").write_text(vocabulary, encoding="utf-8")
    if added:
        write_json(directory / "added_tokens.json", added)
    text = merges_text(tokenizer)
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
