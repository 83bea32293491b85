"""One boundary around parsers: "FILE: what is wrong", within budgets."""

import gzip

import pytest

from keras_sdft import parsing
from keras_sdft.parsing import DamagedFile


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (KeyError("spec"), "'spec' is missing"),
        (RecursionError("x"), "nested too deeply"),
        (MemoryError(), "more memory than there is"),
        (EOFError(), "ends too early"),
        (TypeError("a\nb"), "x.json' is damaged, or no table: a. Fetch"),
        (ValueError(), "no table: ValueError"),
        (OSError("bad block"), "bad block"),
    ],
)
def test_a_parsers_failure_names_the_file(error, words, tmp_path):
    with pytest.raises(DamagedFile, match=words) as caught:
        with parsing.reading(tmp_path / "x.json", "table"):
            raise error
    assert str(tmp_path) in str(caught.value)


def test_errors_that_name_the_file_pass(tmp_path):
    path = tmp_path / "it's \\ odd.json"
    with pytest.raises(FileNotFoundError):
        with parsing.reading(path, "table"):
            path.read_bytes()
    for text in (str(path), repr(str(path))):
        with pytest.raises(ValueError, match="own") as caught:
            with parsing.reading(path, "table"):
                raise ValueError(f"own text of {text}")
        assert type(caught.value) is ValueError
    with pytest.raises(KeyboardInterrupt):
        with parsing.reading(path, "table"):
            raise KeyboardInterrupt


def test_budgets_are_named(tmp_path):
    path = tmp_path / "x"
    path.write_bytes(b"123456")
    assert parsing.read_bytes(path, 6) == b"123456"
    for read in (parsing.read_bytes, parsing.read_text, parsing.read_json):
        with pytest.raises(DamagedFile, match="budget of 5 bytes"):
            read(path, 5)
    path.write_bytes(gzip.compress(bytes(10**6)))
    with pytest.raises(DamagedFile, match="budget of 9,999 bytes when unp"):
        parsing.read_gzip(path, 9999)
    for bomb in (b"[" * 10**5, b"[" + b"{}," * 200_001 + b"{}]"):
        with pytest.raises(DamagedFile, match="nested|budget of 200,000 obj"):
            parsing.parse_json(bomb, path)


def test_texts_are_utf_8_with_or_without_a_mark(tmp_path):
    path = tmp_path / "x"
    for data in ("é{}".encode(), b"\xef\xbb\xbf" + "é{}".encode()):
        path.write_bytes(data)
        assert parsing.read_text(path, 99) == "é{}"
    path.write_bytes("é".encode("latin-1"))
    with pytest.raises(DamagedFile, match="it is not UTF-8 text"):
        parsing.read_text(path, 99)
    path.write_text("[1]")
    with pytest.raises(DamagedFile, match="no JSON object"):
        parsing.read_json(path)
