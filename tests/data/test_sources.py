import numpy as np
import pytest
from PIL import Image

from keras_sdft.data.sources import read_examples

PIXELS = np.full((64, 64, 3), 7, np.uint8)


def test_folder_csv_and_jsonl_by_path(numbered):
    table = numbered / "mine.csv"
    table.write_text("path,text\n3.png,three\n")
    assert len(read_examples(numbered)) == 10
    assert len(read_examples(str(numbered / "metadata.jsonl"))) == 10
    (example,) = read_examples(table)
    assert (example.name, example.captions) == ("3.png", ("three",))


def test_pairs_of_paths_pictures_and_arrays(numbered):
    path = numbered / "3.png"
    picture = Image.new("L", (64, 64))
    pairs = [(path, "p"), (str(path), ["q", "r"]), (picture, "s"), [PIXELS, ""]]
    examples = read_examples(pairs)
    assert [example.captions for example in examples] == [
        ("p",),
        ("q", "r"),
        ("s",),
        ("",),
    ]
    assert [example.name for example in examples] == [
        str(path),
        str(path),
        "image 2",
        "image 3",
    ]
    assert examples[3].image is PIXELS


def test_generator_is_listed():
    examples = read_examples((PIXELS, str(i)) for i in range(3))
    assert [example.captions[0] for example in examples] == ["0", "1", "2"]


class Lazy:
    def __init__(self):
        self.opened = []

    def __len__(self):
        return 1000

    def __getitem__(self, index):
        self.opened.append(index)
        return PIXELS, f"caption {index}"


def test_sequence_is_opened_only_where_it_is_needed():
    source = Lazy()
    examples = read_examples(source)
    assert len(examples) == 1000 and source.opened == []
    assert examples[17].captions == ("caption 17",)
    assert source.opened == [17]


@pytest.mark.parametrize(
    ("source", "kind", "words"),
    [
        ([], ValueError, "No examples"),
        (3, ValueError, "Received: int"),
        ({"a": "b"}, ValueError, "Received: dict"),
        (b"photos", ValueError, "Received: bytes"),
        ([PIXELS], ValueError, "pairs. Received: ndarray .item 0"),
        ([(PIXELS, "a"), (PIXELS,)], ValueError, "item 1"),
        ([(PIXELS, 3)], ValueError, "Received: 3 .item 0"),
        ([(PIXELS, None)], ValueError, "Received: None"),
        ("/nowhere/photos", FileNotFoundError, "does not exist"),
        ("/nowhere/photos.csv", FileNotFoundError, "does not exist"),
        (__file__, ValueError, "must be a .csv or .jsonl"),
    ],
)
def test_bad_sources_are_refused(source, kind, words):
    with pytest.raises(kind, match=words):
        read_examples(source)


@pytest.mark.parametrize("option", ["reader", "split"])
def test_options_that_do_not_apply_are_refused(option, numbered):
    for source in ([(PIXELS, "a")], numbered / "metadata.jsonl"):
        with pytest.raises(ValueError, match=f"`{option}`"):
            read_examples(source, **{option: "train"})
