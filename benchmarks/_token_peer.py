"""Records the ids that transformers' CLIPTokenizer gives to captions.

    .venv-peers/bin/python benchmarks/_token_peer.py

writes `tests/models/golden_tokens.json`, with which the tests hold ours to
it: a digest for every 100 of 10,000 captions, and the ids of some in full.
"""

import gzip
import hashlib
import json
import sys
from pathlib import Path

import transformers

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
from tests.models.caption_samples import captions  # noqa: E402

GOLDEN = ROOT / "tests/models/golden_tokens.json"
MERGES = ROOT / "keras_sdft/models/clip/bpe_simple_vocab_16e6.txt.gz"
ADDED = ["<my-cat>", "<My-cat>x", "sks", "Straße", "two words"]
WITH_ADDED = [
    "a photo of <my-cat>",
    "A<MY-CAT>x, <my-cat>xyz sks sksy",
    "STRASSE Straße strasße Two  Words TWO WORDS two\nwords",
    "<my-cat><my-cat> <my - cat>",
]


def tokenizer():
    """The tokenizer as its own folders have it, from CLIP's merges."""
    text = gzip.decompress(MERGES.read_bytes()).decode("utf-8")
    merges = [tuple(line.split()) for line in text.split("\n")[1:48895]]
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = range(256, 256 + 256 - len(printable))
    symbols = [chr(code) for code in [*printable, *others]]
    entries = [*symbols, *(f"{symbol}</w>" for symbol in symbols)]
    entries += ["".join(pair) for pair in merges]
    entries += ["<|startoftext|>", "<|endoftext|>"]
    vocabulary = {entry: index for index, entry in enumerate(entries)}
    return transformers.CLIPTokenizer(vocab=vocabulary, merges=merges)


def main():
    theirs = tokenizer()
    ids = theirs(captions())["input_ids"]
    digests = [
        hashlib.sha256(json.dumps(ids[i : i + 100]).encode()).hexdigest()[:16]
        for i in range(0, len(ids), 100)
    ]
    theirs.add_tokens(ADDED)
    golden = {
        "transformers": transformers.__version__,
        "digests": digests,
        "ids": [row for row in ids[:300] if len(row) < 100][:200],
        "added": ADDED,
        "texts": WITH_ADDED,
        "ids_with_added": theirs(WITH_ADDED)["input_ids"],
    }
    lines = [f'"{k}": {json.dumps(v)}' for k, v in golden.items()]
    GOLDEN.write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    main()
