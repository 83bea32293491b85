"""The fixtures of the tests of data, which the cache is of."""

from tests.data.conftest import numbered
from tests.data.conftest import tokenizer
from tests.data.conftest import write_image
from tests.data.conftest import write_jsonl

__all__ = ["numbered", "tokenizer", "write_image", "write_jsonl"]
