import numpy as np
import pytest
from PIL import Image

from keras_sdft.data import Example
from keras_sdft.data.sources.reading import read_examples
from keras_sdft.data.sources.reading import validation_split

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
        (__file__, ValueError, "must be a .csv, .jsonl or .parquet"),
    ],
)
def test_bad_sources_are_refused(source, kind, words):
    with pytest.raises(kind, match=words):
        read_examples(source)


@pytest.mark.parametrize("option", ["reader", "split", "caption"])
def test_options_that_do_not_apply_are_refused(option, numbered):
    for source in ([(PIXELS, "a")], numbered / "metadata.jsonl"):
        with pytest.raises(ValueError, match=f"`{option}`"):
            read_examples(source, **{option: "train"})


def test_examples_may_stand_for_pairs():
    given = Example(PIXELS, "a dog", weight=0.5, mask=PIXELS)
    named = Example("x.png", ["a", "b"], name="mine")
    first, second, third = read_examples([given, named, (PIXELS, "c")])
    assert first.captions == ("a dog",) and first.name == "image 0"
    assert first.weight == 0.5 and first.mask is PIXELS
    assert second.captions == ("a", "b") and second.name == "mine"
    assert third.captions == ("c",) and third.mask is None
    with pytest.raises(ValueError, match="Received: 3 .item 0"):
        read_examples([Example(PIXELS, 3)])


def test_repeats_of_any_source(numbered):
    for source in (numbered, [(PIXELS, "a")] * 10):
        assert read_examples(source, repeats=3).rows.tolist() == [
            row for row in range(10) for _ in range(3)
        ]


def test_a_column_of_repeats_needs_a_table(numbered, write_image, tmp_path):
    write_image(tmp_path / "plain" / "a.png")
    (tmp_path / "plain" / "a.txt").write_text("a")
    for source in (tmp_path / "plain", [(PIXELS, "a")], "tfds:mnist"):
        with pytest.raises(ValueError, match="`repeats` (names|is for)"):
            read_examples(source, repeats="times")


def test_a_folder_of_splits_is_validated_on_its_own(tmp_path, write_image):
    for split in ("train", "validation"):
        write_image(tmp_path / split / "a.png", len(split))
        (tmp_path / split / "a.txt").write_text(split)
    split = validation_split(tmp_path)
    assert read_examples(tmp_path, split=split)[0].captions == ("validation",)
    assert read_examples(tmp_path)[0].captions == ("train",)
    for other in (tmp_path / "train", "tfds:mnist", [("a.png", "a")]):
        assert validation_split(other) is None
