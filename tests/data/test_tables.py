import os

import pytest

from keras_sdft.data import read_examples


@pytest.fixture
def folder(tmp_path, write_image):
    for name in ("a.png", "b.png", "sub/c.png"):
        write_image(tmp_path / "root" / name)
    write_image(tmp_path / "outside.png")
    return tmp_path / "root"


@pytest.fixture
def read(folder):
    """Writes a table of either kind from rows of strings, and reads it."""

    def write_and_read(kind, text, **columns):
        path = folder / f"table.{kind}"
        data = text if isinstance(text, bytes) else text.encode()
        path.write_bytes(data)
        return read_examples(str(path), **columns)

    return write_and_read


def jsonl(*pairs, image="file_name", caption="text"):
    lines = [f'{{"{image}": "{i}", "{caption}": "{c}"}}' for i, c in pairs]
    return "\n".join(lines) + "\n"


def csv(*pairs, image="file_name", caption="text"):
    return "\n".join([f"{image},{caption}", *map(",".join, pairs)]) + "\n"


BOTH_KINDS = pytest.mark.parametrize("kind", ["csv", "jsonl"])
BOTH = pytest.mark.parametrize(
    ("kind", "table"), [("jsonl", jsonl), ("csv", csv)]
)


def rows_of(examples):
    return [(example.name, example.captions) for example in examples]


@BOTH
@pytest.mark.parametrize("image", ["file_name", "image", "image_path", "path"])
def test_rows_keep_their_order_and_known_columns_are_found(
    read, kind, table, image
):
    text = table(("sub/c.png", "see"), ("a.png", "ay"), image=image)
    assert rows_of(read(kind, text)) == [
        ("sub/c.png", ("see",)),
        ("a.png", ("ay",)),
    ]


@BOTH
def test_columns_can_be_named(read, kind, table):
    text = table(("a.png", "ay"), image="foto", caption="titel")
    examples = read(kind, text, image_column="foto", caption_column="titel")
    assert rows_of(examples) == [("a.png", ("ay",))]


def test_a_list_is_several_captions_and_a_list_of_one_is_one(read):
    text = (
        '\ufeff{"file_name": "a.png", "text": ["one", "two"], "more": 3}\n\n'
        '{"text": ["three"], "file_name": "b.png"}'
    )
    assert rows_of(read("jsonl", text)) == [
        ("a.png", ("one", "two")),
        ("b.png", ("three",)),
    ]


def test_csv_quotes_and_line_ends(read):
    text = '\ufefffile_name,n,text\r\na.png,1,"a ""red"", big\ndog"\r\n\r\n'
    assert rows_of(read("csv", text)) == [("a.png", ('a "red", big\ndog',))]


@BOTH
def test_paths_that_stay_inside_are_shortened(read, folder, kind, table):
    inside = str(folder / "b.png").replace(os.sep, "/")
    text = table(("sub/../a.png", "ay"), (inside, "bee"), ("./sub//c.png", "c"))
    names = [example.name for example in read(kind, text)]
    assert names == ["a.png", "b.png", os.path.join("sub", "c.png")]


@BOTH
@pytest.mark.parametrize("form", ["../outside.png", "sub/../../outside.png", 0])
def test_paths_that_leave_the_folder_are_refused(
    read, folder, kind, table, form
):
    path = form or str(folder.parent / "outside.png").replace(os.sep, "/")
    with pytest.raises(ValueError, match="must stay inside") as error:
        read(kind, table(("a.png", "x"), (path, "y")))
    line = 3 if kind == "csv" else 2
    assert f"line {line} of" in str(error.value)


@BOTH
def test_repeated_paths_are_refused_in_any_spelling(read, kind, table):
    text = table(("a.png", "x"), ("b.png", "y"), ("./a.png", "z"))
    with pytest.raises(ValueError, match="1 paths with several .*'a.png'"):
        read(kind, text)


@BOTH
def test_images_that_do_not_exist_are_counted_and_named(read, kind, table):
    rows = [("a.png", "x"), *((f"no/{i}.png", "y") for i in range(7))]
    with pytest.raises(FileNotFoundError) as error:
        read(kind, table(*rows))
    assert "7 images that do not exist: 'no/0.png'" in str(error.value)
    assert "'no/4.png' and 2 more" in str(error.value)


@BOTH
def test_images_without_a_row_are_found(read, kind, table):
    examples = read(kind, table(("a.png", "x")))
    assert len(examples) == 1
    (reason,) = examples.left_out
    assert "without a row" in reason
    assert examples.left_out[reason] == ["b.png"]


@BOTH
@pytest.mark.parametrize(
    ("names", "column", "offered"),
    [
        ({"caption": "texts"}, "'text'", "'texts'"),
        ({"image": "filename"}, "'file_name'", "'filename'"),
    ],
)
def test_missing_columns_offer_the_nearest(
    read, kind, table, names, column, offered
):
    with pytest.raises(ValueError) as error:
        read(kind, table(("a.png", "x"), **names))
    assert f"has no column {column}" in str(error.value)
    assert f"Did you mean {offered}?" in str(error.value)


@pytest.mark.parametrize(
    ("kind", "text", "words"),
    [
        ("jsonl", "", ["has no rows"]),
        ("csv", "", ["has no rows"]),
        ("csv", "file_name,text\n", ["has no rows"]),
        ("jsonl", jsonl(("a.png", "x")) + "{oh", ["line 2 of", "'{oh'"]),
        ("jsonl", "[1, 2]", ["line 1 of", "one JSON object"]),
        (
            "jsonl",
            jsonl(("a.png", "x")) + '{"file_name": "b.png"}',
            ["line 2 of", "'text'"],
        ),
        ("jsonl", '{"file_name": 3, "text": "x"}', ["non-empty string", "3"]),
        ("jsonl", '{"file_name": "", "text": "x"}', ["non-empty string"]),
        ("jsonl", '{"file_name": "a.png", "text": null}', ["None", "line 1"]),
        ("jsonl", '{"file_name": "a.png", "text": []}', ["[]"]),
        ("jsonl", '{"file_name": "a.png", "text": ["x", 4]}', ["['x', 4]"]),
        ("csv", "file_name,text\na.png,red, big\n", ["3 fields in line 2"]),
        ("csv", csv(("a.png", "café")).encode("latin-1"), ["UTF-8"]),
        ("jsonl", jsonl(("a.png", "é")).encode("latin-1"), ["UTF-8"]),
    ],
)
def test_bad_tables_are_refused_with_their_line(read, kind, text, words):
    with pytest.raises(ValueError) as error:
        read(kind, text)
    for word in words:
        assert word in str(error.value)


WITH_REPEATS = {
    "csv": "file_name,text,times\na.png,A,2\nb.png,B, 0\nsub/c.png,C,1\n",
    "jsonl": (
        '{"file_name": "a.png", "text": "A", "times": 2}\n'
        '{"file_name": "b.png", "text": "B", "times": 0}\n'
        '{"file_name": "sub/c.png", "text": "C", "times": "1"}\n'
    ),
}


@BOTH_KINDS
def test_a_column_says_how_often_an_image_is_shown(read, kind):
    examples = read(kind, WITH_REPEATS[kind], repeats="times")
    captions = [example.captions[0] for example in examples]
    assert captions == ["A", "A", "C"]
    plain = read(kind, WITH_REPEATS[kind])
    assert len(plain) == 3


@BOTH_KINDS
@pytest.mark.parametrize("value", ["-1", "1.5", "often", ""])
def test_bad_repeats_are_refused_by_line(read, kind, value):
    text = WITH_REPEATS[kind].replace(" 0", f" {value}")
    if kind == "jsonl":
        text = text.replace(f" {value}}}", f' "{value}"}}')
    with pytest.raises(ValueError, match="Repeats must be.*line [23] of"):
        read(kind, text, repeats="times")


WITH_MASKS = {
    "csv": "file_name,text,mask\na.png,A,sub/c.png\nb.png,B,\n",
    "jsonl": (
        '{"file_name": "a.png", "text": "A", "mask": "sub/c.png"}\n'
        '{"file_name": "b.png", "text": "B"}\n'
    ),
}


@BOTH_KINDS
def test_a_column_names_the_masks(read, folder, kind, caplog):
    first, second = read(kind, WITH_MASKS[kind], mask_column="mask", masks=True)
    assert first.mask == str(folder / "sub" / "c.png")
    assert second.mask is None
    # The mask is no image without a row.
    assert not caplog.records
    assert read(kind, WITH_MASKS[kind])[0].mask is None


@BOTH_KINDS
@pytest.mark.parametrize(
    ("mask", "error", "words"),
    [
        ("nowhere.png", FileNotFoundError, "nowhere.png"),
        ("../outside.png", ValueError, "inside the folder"),
    ],
)
def test_masks_must_exist_inside_the_folder(read, kind, mask, error, words):
    text = WITH_MASKS[kind].replace("sub/c.png", mask)
    with pytest.raises(error, match=words):
        read(kind, text, mask_column="mask", masks=True)


@pytest.mark.parametrize(
    "rows",
    [
        'a.png,"a dog\nb.png,"a cat"\n',
        'a.png,"a dog\nb.png,a cat\n',
        'a.png,"a dog\n"b.png",a cat\n',
        'a.png,"a dog\nb.png,a sign that says 5"\n',
    ],
)
def test_a_quote_that_is_not_closed_swallows_no_row(read, rows):
    with pytest.raises(ValueError, match=r"table\.csv, line 2"):
        read("csv", "file_name,text\n" + rows)


def test_a_quote_swallows_no_row_between_semicolons(read):
    text = 'file_name;text\na.png;"a dog\nb.png;a sign that says 5"\n'
    with pytest.raises(ValueError, match="looks like a row: 'b.png;a sign"):
        read("csv", text)


def test_a_caption_may_go_over_several_lines_between_quotes(read):
    text = 'file_name,text\na.png,"a dog,\non a ""red"" sofa"\nb.png,see "b"\n'
    assert rows_of(read("csv", text)) == [
        ("a.png", ('a dog,\non a "red" sofa',)),
        ("b.png", ('see "b"',)),
    ]


@pytest.mark.parametrize("mark", [";", "\t"])
def test_other_separators_are_those_of_the_header(read, mark):
    text = f"file_name{mark}text\na.png{mark}a dog, a sofa\n"
    assert rows_of(read("csv", text)) == [("a.png", ("a dog, a sofa",))]


@pytest.mark.parametrize(
    ("kind", "text", "words"),
    [
        ("csv", "file_name,text,text\na.png,a,b\n", "name of its own"),
        ("jsonl", '{"file_name": "a.png", "text": "a", "text": "b"}', "twice"),
        ("jsonl", "[" * 100_000, "line 1 of.*RecursionError"),
        ("jsonl", '{"file_name": "a.png", "text": "\\ud800"}', "line 1"),
        ("jsonl", '{"file_name": "a\\u0000.png", "text": "a"}', "line 1"),
        ("jsonl", '{"n": ' + "1" * 5000 + "}", "line 1 of"),
        ("jsonl", '{"file_name": "a.png", "text": NaN}', "nan"),
        ("csv", "file_name,text\na.png," + "x" * 140_000, "line 2"),
        ("csv", "file_name,text\na.png," + "x" * 2**20, "line 2 of"),
        ("csv", b"file_name,text\na.png,\xff\n", "line 2 of.*UnicodeDecode"),
    ],
)
def test_what_a_parser_cannot_read_is_an_error_with_its_line(
    read, kind, text, words
):
    with pytest.raises(ValueError, match=words):
        read(kind, text)


@BOTH_KINDS
@pytest.mark.parametrize("times", ["1000000000000", "9" * 20, "9" * 5000])
def test_wild_repeats_in_a_table_are_refused(read, kind, times):
    text = f"file_name,text,times\na.png,x,{times}\n"
    if kind == "jsonl":
        text = f'{{"file_name": "a.png", "text": "x", "times": "{times}"}}'
    with pytest.raises(ValueError, match="10,000,000|Repeats must be"):
        read(kind, text, repeats="times")
