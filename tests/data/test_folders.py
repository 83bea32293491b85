import os

import pytest

from keras_sdft.data import read_examples
from keras_sdft.data.sources.filenames import walk
from keras_sdft.data.sources.folders import read_photos


def rows_of(examples):
    return [(example.name, example.captions) for example in examples]


@pytest.fixture
def pictures(tmp_path, write_image):
    """Writes pictures and texts by name; a value that is text is a text."""
    root = tmp_path / "pictures"

    def write(files):
        root.mkdir(exist_ok=True)
        for name, text in files.items():
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if text is None:
                write_image(path)
            elif isinstance(text, bytes):
                path.write_bytes(text)
            else:
                path.write_text(text, encoding="utf-8")
        return str(root)

    return write


LINE = '{"file_name": "a.png", "text": "a dog"}\n'
TABLE = "file_name,text\na.png,a dog"
A_DOG = [("a.png", ("a dog",))]
FAMILY = {
    "metadata_jsonl": {"a.png": None, "metadata.jsonl": LINE},
    "metadata_csv": {
        "a.png": None,
        "metadata.csv": "file_name,text\na.png,a dog",
    },
    "caption_files": {"a.png": None, "a.txt": "a dog\n"},
    "class_folders": {"1_a dog/a.png": None},
}


@pytest.mark.parametrize("reader", FAMILY)
@pytest.mark.parametrize("given", [True, False])
def test_every_convention_is_found_and_can_be_named(pictures, reader, given):
    root = pictures(FAMILY[reader])
    (example,) = read_examples(root, reader=reader if given else None)
    assert example.captions == ("a dog",)
    assert os.path.basename(example.name) == "a.png"
    assert os.path.isfile(example.image)
    assert example.weight == 1.0


@pytest.mark.parametrize("reader", FAMILY)
def test_every_convention_reads_its_train_and_validation(pictures, reader):
    files = FAMILY[reader]
    root = pictures({f"train/{name}": text for name, text in files.items()})
    pictures({f"validation/{name}": text for name, text in files.items()})
    for split, folder in [(None, "train"), ("validation", "validation")]:
        (example,) = read_examples(root, split=split)
        assert os.path.relpath(example.image, root).startswith(folder)
    assert rows_of(read_examples(root, split="train")) == rows_of(
        read_examples(root)
    )


@pytest.mark.parametrize("reader", FAMILY)
def test_nothing_in_the_folder_is_changed(pictures, reader):
    root = pictures(FAMILY[reader])
    before = {p: os.stat(os.path.join(root, p)).st_mtime_ns for p in walk(root)}
    list(read_examples(root))
    after = {p: os.stat(os.path.join(root, p)).st_mtime_ns for p in walk(root)}
    assert before == after


def test_caption_files_of_both_kinds_and_in_folders(pictures):
    root = pictures(
        {
            "b.jpg": None,
            "b.caption": "\ufeffa cat",
            "x/a.PNG": None,
            "x/a.txt": "one\n\n two \r\n",
            "c.webp": None,
            "c.txt": "",
        }
    )
    assert rows_of(read_examples(root)) == [
        ("b.jpg", ("a cat",)),
        ("c.webp", ("",)),
        (os.path.join("x", "a.PNG"), ("one", "two")),
    ]


def test_files_of_systems_and_of_other_kinds_are_ignored(pictures):
    root = pictures(
        {
            "a.png": None,
            "a.txt": "a dog",
            ".DS_Store": "x",
            "._a.png": "x",
            "Thumbs.db": "x",
            "notes.pdf": "x",
            ".cache/b.png": None,
            "__MACOSX/c.png": None,
        }
    )
    assert rows_of(read_examples(root)) == A_DOG


def test_validation_beside_the_images_is_not_trained_on(pictures):
    root = pictures(
        {
            "a.png": None,
            "a.txt": "a dog",
            "validation/v.png": None,
            "validation/v.txt": "a cat",
        }
    )
    assert rows_of(read_examples(root)) == A_DOG
    assert rows_of(read_examples(root, split="validation")) == [
        ("v.png", ("a cat",))
    ]


def test_class_folders_repeat_and_name(pictures, caplog):
    root = pictures(
        {
            "3_sks dog/a.png": None,
            "3_sks dog/b.png": None,
            "3_sks dog/b.txt": "sks dog asleep",
            "1_a_cat/c.png": None,
        }
    )
    examples = read_examples(root)
    assert [example.captions[0] for example in examples] == (
        ["a_cat"] + ["sks dog"] * 3 + ["sks dog asleep"] * 3
    )
    assert len(examples.records) == 3


def test_a_number_before_a_name_is_pointed_out(pictures):
    folders = {"2020_holiday/a.png": None, "0_dogs/b.png": None}
    examples = read_examples(pictures(folders))
    assert len(examples) == 2020
    (note,) = examples.notes
    assert "2020 times '2020_holiday'" in note
    (left_out,) = examples.left_out.items()
    assert left_out == ("with 0 repeats", ["0_dogs/b.png"])


@pytest.mark.parametrize("times", [10**12, 99999999999999999999])
def test_wild_repeats_are_refused(pictures, times):
    root = pictures({f"{times}_dog/a.png": None})
    with pytest.raises(ValueError, match="at most 10,000,000 examples"):
        read_examples(root)


def test_captions_are_split_at_newlines_alone(pictures):
    text = "a\x0bb\u2028c\x1cd\r\nsecond\n\n"
    examples = read_examples(pictures({"a.png": None, "a.txt": text.encode()}))
    assert examples[0].captions == ("a\x0bb\u2028c\x1cd", "second")


@pytest.mark.usefixtures("without_heif")
@pytest.mark.parametrize(
    "files",
    [
        {"1_dog/a.png": None, "1_dog/b.heic": b"x", "c.CR2": b"x"},
        {
            "a.png": None,
            "a.txt": "a",
            "b.heic": b"x",
            "b.txt": "b",
            "c.CR2": "",
        },
    ],
)
def test_formats_that_are_not_read_are_never_silent(pictures, files):
    root = pictures(files)
    for examples in (read_examples(root), read_photos(root, "a dog")):
        assert len(examples) == 1
        ((reason, names),) = examples.left_out.items()
        assert len(names) == 2
        assert "pillow-heif" in reason and "PNG or JPEG" in reason


@pytest.mark.usefixtures("without_heif")
def test_a_folder_of_other_formats_alone_is_refused_with_the_remedy(pictures):
    root = pictures({"x.heic": b"x"})
    words = "1 are images .*x.heic'; `pip install pillow-heif`"
    for read in (read_examples, lambda path: read_photos(path, "a dog")):
        with pytest.raises(ValueError, match=words):
            read(root)


def test_a_caption_file_of_another_kind_is_refused(pictures):
    root = pictures({"a.png": None, "a.txt": b"x" * (2**20 + 1)})
    with pytest.raises(ValueError, match="a.txt' is beyond the budget"):
        read_examples(root)


def test_linked_folders_are_read_and_loops_are_not(
    pictures, tmp_path, write_image
):
    root = pictures({"in/a.png": None, "in/a.txt": "a dog"})
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "b.png").write_bytes(
        (tmp_path / "pictures/in/a.png").read_bytes()
    )
    (outside / "b.txt").write_text("a cat")
    os.symlink(outside, os.path.join(root, "linked"))
    os.symlink(root, os.path.join(root, "in", "loop"))
    names = [example.name for example in read_examples(root)]
    assert names == [
        os.path.join("in", "a.png"),
        os.path.join("linked", "b.png"),
    ]


def many(form):
    return {form.format(i): None for i in range(7)}


BAD = {
    "empty": ({}, ValueError, ["holds no images", "metadata.jsonl"]),
    "only text": ({"a.txt": "x"}, ValueError, ["holds no images"]),
    "no captions": (
        many("{}.png"),
        ValueError,
        ["None of the 7 images", "metadata.jsonl", ".txt", "10_sks dog"],
    ),
    "some without": (
        {**many("{}.png"), "z.png": None, "z.txt": "x"},
        ValueError,
        ["7 of 8 images", "'0.png', '1.png'", "'4.png' and 2 more"],
    ),
    "orphan": (
        {"a.png": None, "a.txt": "x", "b.txt": "y"},
        ValueError,
        ["1 caption files", "'b.txt'"],
    ),
    "orphan in a class": (
        {"2_dog/a.png": None, "2_dog/b.txt": "y"},
        ValueError,
        ["1 caption files", "b.txt"],
    ),
    "not UTF-8": (
        {"a.png": None, "a.txt": "café".encode("latin-1")},
        ValueError,
        ["no text: it is not UTF-8", "a.txt"],
    ),
    "two kinds": (
        {"a.png": None, "a.txt": "x", "a.caption": "y"},
        ValueError,
        ["a.txt", "a.caption"],
    ),
    "outside the classes": (
        {"2_dog/a.png": None, "b.png": None},
        ValueError,
        ["1 of 2 images", "'b.png'", 'reader="caption_files"'],
    ),
    "two tables": (
        {"metadata.csv": "", "metadata.jsonl": ""},
        ValueError,
        ["metadata.jsonl and metadata.csv", "`reader`"],
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_folders_are_refused_by_name(pictures, name):
    files, kind, words = BAD[name]
    with pytest.raises(kind) as error:
        read_examples(pictures(files))
    for word in words:
        assert word in str(error.value)


def test_misspelt_reader_and_split_are_offered_the_nearest(pictures):
    root = pictures(FAMILY["caption_files"])
    with pytest.raises(ValueError, match="'caption_files'?"):
        read_examples(root, reader="caption_file")
    with pytest.raises(ValueError, match="Did you mean 'validation'"):
        read_examples(root, split="valid")
    with pytest.raises(FileNotFoundError, match="Splits of .*: none"):
        read_examples(root, split="validation")
    with pytest.raises(FileNotFoundError, match="reads metadata.jsonl"):
        read_examples(root, reader="metadata_jsonl")


def test_masks_stand_beside_their_images(tmp_path, write_image):
    for name in ("a.png", "a-masklabel.png", "b.jpg", "sub/c-masklabel.webp"):
        write_image(tmp_path / name)
    write_image(tmp_path / "sub" / "c.jpg")
    for name in ("a", "b", "sub/c"):
        (tmp_path / f"{name}.txt").write_text(name)
    masks = {
        example.name: example.mask for example in read_examples(str(tmp_path))
    }
    assert masks == {
        "a.png": str(tmp_path / "a-masklabel.png"),
        "b.jpg": None,
        "sub/c.jpg": str(tmp_path / "sub" / "c-masklabel.webp"),
    }


def test_masks_in_class_folders(tmp_path, write_image):
    write_image(tmp_path / "2_sks dog" / "a.png")
    write_image(tmp_path / "2_sks dog" / "a-masklabel.png")
    examples = list(read_examples(str(tmp_path)))
    assert len(examples) == 2
    for example in examples:
        assert example.mask == str(tmp_path / "2_sks dog/a-masklabel.png")


def test_one_caption_for_all_images(pictures):
    root = pictures({**FAMILY["metadata_jsonl"], "sub/b.png": None})
    names = [os.path.join("pictures", n) for n in ("a.png", "sub/b.png")]
    found = rows_of(read_examples(root, caption="<toy>"))
    assert found == [(name, ("<toy>",)) for name in names]
    with pytest.raises(ValueError, match="no captions or tables are read"):
        read_examples(root, caption="<toy>", reader="metadata_jsonl")
